import GatewayRouting
import MeshCore
import MeshTesting
import NIOCore
import Synchronization
import Testing

@testable import EdgeGateway

/// What RFC 9110 and 9112 say of answers: what a backend says, and what of it a client gets.
@Suite struct AnswerConformanceTests {
    struct Row: Sendable, CustomTestStringConvertible {
        var rule: String
        var method = "GET"
        var answer: String
        /// What the client gets before the answer to its next request.
        var answers: [Int]
        var holds: [String] = []
        var lacks: [String] = []
        /// The backend's connection serves the next request, too.
        var isReused = true
        var testDescription: String { self.rule }
    }

    static let rows: [Row] = [
        Row(
            rule: "9110 15.4.5: 304 tells the length of what is not there",
            answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
            answers: [304],
            holds: ["etag: \"a\"\r\n"]
        ),
        Row(
            rule: "9110 8.6: 204 has no length",
            answer: "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            answers: [204],
            lacks: ["content-length: 5"]
        ),
        Row(
            rule: "9112 6.1: 204 has no coding",
            answer: "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            answers: [204],
            lacks: ["transfer-encoding"]
        ),
        Row(
            rule: "9110 9.3.2: HEAD tells the length of what is not there",
            method: "HEAD",
            answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            answers: [200],
            holds: ["content-length: 5\r\n"]
        ),
        Row(
            rule: "9110 15.2: early hints go on, 100 that nobody asked for does not",
            answer:
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            answers: [103, 200],
            holds: ["link: </a>\r\n\r\n"]
        ),
        Row(
            rule: "9112 6.3: to the end of the connection",
            answer: "HTTP/1.1 200 OK\r\n\r\nok",
            answers: [200],
            holds: ["transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
            isReused: false
        ),
        Row(
            rule: "9112 9.3: HTTP/1.0 does not stay",
            answer: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            answers: [200],
            holds: ["HTTP/1.1 200 OK\r\n"],
            isReused: false
        ),
        Row(
            rule: "9112 9.6: close",
            answer: "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
            answers: [200],
            isReused: false
        ),
        Row(
            rule: "9110 7.6.1: fields of the connection stay",
            answer:
                "HTTP/1.1 200 OK\r\nConnection: Mine\r\nMine: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
            answers: [200],
            lacks: ["mine", "keep-alive", "proxy-authenticate", "upgrade"]
        ),
        Row(
            rule: "9112 7.1: chunks, extensions and trailers",
            answer:
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nSum: 1\r\nContent-Length: 7\r\n\r\n",
            answers: [200],
            holds: ["2\r\nok\r\n0\r\nsum: 1\r\n\r\n"],
            lacks: ["x=y", "content-length: 7"]
        ),
        Row(
            rule: "9110 15: a status that nobody knows",
            answer: "HTTP/1.1 599 \r\nContent-Length: 2\r\n\r\nok",
            answers: [599]
        ),
        Row(
            rule: "9110 15.2.2: 101 that nobody asked for",
            answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            answers: [502],
            isReused: false
        ),
        Row(
            rule: "9112 6.1: HTTP/1.0 has no coding",
            answer: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            answers: [502],
            isReused: false
        ),
        Row(
            rule: "9112 6.3: codings behind chunked",
            answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            answers: [502],
            isReused: false
        ),
        Row(
            rule: "9112 6.3: a list of lengths",
            answer: "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
            answers: [502],
            isReused: false
        ),
        Row(
            rule: "9112 6.3: a signed length",
            answer: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
            answers: [502],
            isReused: false
        ),
        Row(
            rule: "9110 5.5: NUL in a value",
            answer: "HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 2\r\n\r\nok",
            answers: [502],
            isReused: false
        ),
        Row(
            rule: "9112 4: a status of four digits",
            answer: "HTTP/1.1 2000 OK\r\n\r\n",
            answers: [502],
            isReused: false
        ),
        Row(rule: "9112 4: a status below 100", answer: "HTTP/1.1 099 x\r\n\r\n", answers: [502], isReused: false),
        Row(rule: "9112 2.3: another protocol", answer: "HTTP/2 200\r\n\r\n", answers: [502], isReused: false),
        Row(
            rule: "9112 2.2: an empty line first",
            answer: "\r\nHTTP/1.1 200 OK\r\n\r\n",
            answers: [502],
            isReused: false
        ),
    ]

    /// The path of the present request, and how many connections there were.
    private final class Log: Sendable {
        let connections = Mutex(0)
    }

    @Test(arguments: Self.rows)
    func answers(_ row: Row) async throws {
        let log = Log()
        let server = try await RawBackend.start { bytes, reads in
            if reads == 0 { log.connections.withLock { $0 += 1 } }
            let isLast = String(decoding: bytes, as: UTF8.self).contains(" /last ")
            return latin1(isLast ? "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast" : row.answer)
        } endsAfter: { bytes in
            !row.isReused && !String(decoding: bytes, as: UTF8.self).contains(" /last ")
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            let text = try await RawClient.exchange(
                ports[0],
                "\(row.method) /a HTTP/1.1\r\nHost: x\r\n\r\nGET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            #expect(statuses(text) == row.answers + [200], "\(text)")
            #expect(text.hasSuffix("\r\n\r\nlast"), "\(text)")
            for part in row.holds { #expect(text.contains(part), "\(text)") }
            for part in row.lacks { #expect(!text.lowercased().contains(part), "\(text)") }
            #expect(log.connections.withLock { $0 } == (row.isReused ? 1 : 2))
        }
        try await server.stop()
    }

    @Test(
        "a body that breaks the rules is cut off, not passed on as if it were whole",
        arguments: [
            "2\r\nokevil\r\n0\r\n\r\n", "2\nok\r\n0\r\n\r\n", "fffffffffffffffff\r\nok", "2\r\nok\r\n0\r\nsum\r\n\r\n",
        ]
    )
    func brokenChunks(_ chunks: String) async throws {
        let server = try await RawBackend.start { _, _ in
            Array("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\(chunks)".utf8)
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            let text = try await RawClient.exchange(ports[0], "GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(!text.hasSuffix("0\r\n\r\n") && !text.contains("evil"), "\(text)")
        }
        try await server.stop()
    }

    // MARK: 100-continue

    private static let put = "PUT /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    /// A gateway before `server` that waits for ever for what the backend says to `Expect`.
    private func with(_ server: RawBackend, _ body: (UInt16) async throws -> Void) async throws {
        var limits = GatewayLimits()
        limits.continueTimeout = .hours(1)
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])],
            limits: limits
        ) { _, ports in try await body(ports[0]) }
        try await server.stop()
    }

    @Test("the backend is asked whether it wants the content, and its answer is passed on")
    func continues() async throws {
        let got = Mutex<[String]>([])
        let server = try await RawBackend.start { bytes, reads in
            got.withLock { $0.append(String(decoding: bytes, as: UTF8.self)) }
            let answer =
                reads == 0 ? "HTTP/1.1 100 Continue\r\n\r\n" : "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            return Array(answer.utf8)
        }
        try await self.with(server) { port in
            let client = try await RawClient.connect(port)
            try await client.send(Self.put)
            try await client.wait(for: "HTTP/1.1 100 Continue\r\n\r\n")
            #expect(got.withLock { $0 }.count == 1 && got.withLock { $0[0] }.contains("expect: 100-continue\r\n"))
            try await client.send("abc")
            try await client.wait(for: "\r\n\r\nok")
            #expect(got.withLock { $0.last } == "abc")
            client.close()
        }
    }

    @Test("a backend that does not want the content never gets it, and the connection ends")
    func refusesContent() async throws {
        let server = try await RawBackend.start { _, _ in
            Array("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno".utf8)
        }
        try await self.with(server) { port in
            let text = try await RawClient.exchange(port, Self.put)
            #expect(statuses(text) == [413] && text.contains("connection: close\r\n"), "\(text)")
        }
    }
}
