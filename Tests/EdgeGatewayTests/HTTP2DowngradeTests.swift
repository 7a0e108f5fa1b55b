import GatewayRouting
import MeshCore
import MeshTesting
import NIOCore
import NIOHPACK
import NIOHTTP2
import Synchronization
import Testing

@testable import EdgeGateway

/// What becomes of HTTP/2 before a backend that speaks HTTP/1.1 (RFC 9113 sections 8.1 to 8.3).
@Suite struct HTTP2DowngradeTests {
    private func whole(_ stream: ClientHTTP2.Stream) async throws -> String {
        try await eventually("the end") { stream.isEnded || stream.wasReset }
        return stream.text
    }

    @Test("fields arrive as HTTP/1.1 has them, each once")
    func fields() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let fields: [(String, String)] = [
                ("cookie", " a=b\t"), ("te", "trailers"), ("cookie", "c=d"), ("x-blank", " v "),
                ("content-length", "3"),
            ]
            let stream = try await client.open(http2Head("POST", "/a?b", fields), ends: false)
            try await stream.send("abc", ends: true)
            let text = try await self.whole(stream)
            #expect(text.contains("POST /a?b HTTP/1.1\n") && text.contains("content: 3\n"))
            #expect(text.contains("cookie: a=b; c=d\n") && text.contains("x-blank: v\n") && text.contains("host: x\n"))
            let got = String(decoding: server.bytes, as: UTF8.self)
            #expect(
                got.contains("content-length: 3\r\n") && !got.contains("transfer-encoding") && !got.contains("te: ")
            )
            // Nothing of an HTTP/1.1 connection comes back.
            for name in ["connection", "keep-alive", "transfer-encoding"] { #expect(stream.header(name) == nil) }
            try await client.channel.close()
        }
    }

    @Test("Host serves where :authority is missing")
    func hostAlone() async throws {
        try await HTTPProxyTests.withWeb { port, _, _ in
            let client = try await ClientHTTP2(port)
            let headers = HPACKHeaders([(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "y:81")])
            let text = try await self.whole(try await client.open(headers, ends: true))
            #expect(text.contains("host: y:81\n"))
            try await client.channel.close()
        }
    }

    @Test("content and trailers of unknown length go in chunks, without what must not be in trailers")
    func trailers() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let stream = try await client.open(http2Head("POST"), ends: false)
            try await stream.send("abc")
            let trailers: HPACKHeaders = [
                "x-sum": "7", "content-length": "9", "host": "y", "expect": "x", "range": "z",
            ]
            try await stream.send(.headers(.init(headers: trailers, endStream: true)))
            let text = try await self.whole(stream)
            #expect(text.contains("trailer x-sum: 7\n") && text.contains("content: 3\n"))
            #expect(String(decoding: server.bytes, as: UTF8.self).hasSuffix("0\r\nx-sum: 7\r\n\r\n"))
            try await client.channel.close()
        }
    }

    @Test(
        "trailers and lengths that break the rules end the stream, and no whole request arrives",
        arguments: [
            [("connection", "close")], [("transfer-encoding", "chunked")], [(":path", "/b")], [("A", "b")],
            [("a", "b\r\nGET /smuggled HTTP/1.1\r\n")],
        ] as [[(String, String)]]
    )
    func badTrailers(_ fields: [(String, String)]) async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let stream = try await client.open(http2Head("POST"), ends: false)
            try await stream.send("abc")
            try? await stream.send(.headers(.init(headers: HPACKHeaders(fields), endStream: true)))
            try await eventually("the end") { stream.isEnded || stream.wasReset }
            #expect(!String(decoding: server.bytes, as: UTF8.self).contains("smuggled"))
            let isDropped = stream.status == "200" && !stream.text.contains("trailer ")
            #expect(isDropped || server.requests.isEmpty, "\(fields): \(stream.text)")
            try? await client.channel.close()
        }
    }

    @Test("more or less content than was told", arguments: [("5", "abc"), ("2", "abc"), ("0", "a")])
    func wrongLengths(_ length: String, _ content: String) async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let stream = try await client.open(http2Head("POST", "/", [("content-length", length)]), ends: false)
            try? await stream.send(content, ends: true)
            try await eventually("a reset") { stream.wasReset || stream.status == "400" }
            #expect(server.requests.allSatisfy { $0 == "POST / 0" && length == "0" }, "\(server.requests)")
            try? await client.channel.close()
        }
    }

    @Test("100 is said before the content is asked for")
    func continues() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let client = try await ClientHTTP2(port)
            let stream = try await client.open(http2Head("PUT", "/", [("expect", "100-continue")]), ends: false)
            try await eventually("100") { stream.statuses == ["100"] }
            try await stream.send("abc", ends: true)
            try await eventually("the end") { stream.isEnded }
            #expect(stream.statuses == ["100", "200"] && server.requests == ["PUT / 3"])
            try await client.channel.close()
        }
    }
}

/// WebSockets over HTTP/2 (RFC 8441) before a backend that speaks HTTP/1.1.
@Suite struct HTTP2TunnelTests {
    private static func tunnel(_ name: String = "websocket", path: String = "/ws") -> HPACKHeaders {
        HPACKHeaders([
            (":method", "CONNECT"), (":protocol", name), (":scheme", "http"), (":authority", "x"), (":path", path),
            ("sec-websocket-version", "13"),
        ])
    }

    /// The head of the request that the backend got last.
    private final class LastHead: Sendable {
        let text = Mutex("")
    }

    /// More than the client's window of 65,535 bytes, and less than the gateway takes beyond it.
    private static let long = 100_000

    /// A gateway before a server that switches and then sends everything back in reverse; asked for `/ws/long`, it sends much and ends.
    private func withEcho(
        limits: GatewayLimits = GatewayLimits(),
        _ body: (ClientHTTP2, LastHead, GatewayRig) async throws -> Void
    ) async throws {
        let last = LastHead()
        let server = try await RawBackend.start { bytes, reads in
            if reads > 0 { return bytes.reversed() }
            let head = String(decoding: bytes, as: UTF8.self)
            last.text.withLock { $0 = head }
            guard head.hasPrefix("GET /ws") else {
                return Array("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil".utf8)
            }
            let first = head.hasPrefix("GET /ws/long ") ? String(repeating: "l", count: Self.long) : "hello"
            return Array(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nX-Mine: 1\r\n\r\n\(first)"
                    .utf8
            )
        } endsAfter: {
            String(decoding: $0, as: UTF8.self).hasPrefix("GET /ws/long ")
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])],
            limits: limits
        ) { rig, ports in
            let client = try await ClientHTTP2(ports[0])
            // The server's settings allow it from here on.
            let first = try await client.open(http2Head("GET", "/ws"), ends: true)
            try await eventually("an answer") { first.isEnded || first.wasReset }
            try await body(client, last, rig)
            try? await client.channel.close()
        }
        try await server.stop()
    }

    @Test("bytes go both ways, and each end is its own")
    func tunnels() async throws {
        try await self.withEcho { client, last, _ in
            let stream = try await client.open(Self.tunnel(), ends: false)
            try await eventually("the tunnel's first bytes") { stream.text == "hello" }
            #expect(stream.status == "200" && stream.header("x-mine") == "1")
            for name in ["upgrade", "connection", "sec-websocket-accept"] { #expect(stream.header(name) == nil) }
            let head = last.text.withLock { $0 }
            #expect(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"))
            #expect(head.contains("sec-websocket-version: 13\r\n"))
            let key = try #require(head.split(separator: "sec-websocket-key: ").last?.prefix { !$0.isNewline })
            #expect(key.count == 24 && key.hasSuffix("=="))
            try await stream.send("abc")
            try await eventually("the echo") { stream.text == "hellocba" }
            #expect(!stream.isEnded && !stream.wasReset)
            try await stream.send("def", ends: true)
            try await eventually("the echo of the last bytes, and the end") {
                stream.text == "hellocbafed" && stream.isEnded
            }
        }
    }

    @Test("other protocols are not tunnelled, and other answers are no tunnel")
    func refusals() async throws {
        try await self.withEcho { client, _, _ in
            let other = try await client.open(Self.tunnel("connect-udp"), ends: false)
            try await eventually("a refusal") { other.status == "501" }
            let plain = try await client.open(Self.tunnel(path: "/other"), ends: false)
            try await eventually("a refusal") { plain.status == "502" && (plain.isEnded || plain.wasReset) }
            #expect(!plain.text.contains("evil"))
            let ended = try await client.open(Self.tunnel(), ends: true)
            try await eventually("a refusal") { ended.status == "400" || ended.wasReset }
        }
    }

    @Test("one that stands still ends after its time, on both sides")
    func idle() async throws {
        var limits = GatewayLimits()
        limits.streamIdleTimeout = .milliseconds(300)
        try await self.withEcho(limits: limits) { client, _, rig in
            let stream = try await client.open(Self.tunnel(), ends: false)
            try await eventually("the tunnel's first bytes") { stream.text == "hello" }
            try await eventually("a reset") { stream.wasReset }
            #expect(!stream.isEnded)
            let other = try await client.open(Self.tunnel(), ends: false)
            try await eventually("the connection serves on") { other.text == "hello" }
            #expect(await rig.service.reports().allSatisfy { $0.timeouts == 0 }, "a tunnel is no request")
        }
    }

    @Test("what a client does not take of a backend that has ended is kept for the linger timeout only")
    func lingering() async throws {
        var limits = GatewayLimits()
        limits.lingerTimeout = .milliseconds(300)
        try await self.withEcho(limits: limits) { client, _, _ in
            let stream = try await client.open(Self.tunnel(path: "/ws/none"), ends: false)
            try await eventually("the tunnel's first bytes") { stream.text == "hello" }
            let long = try await client.open(Self.tunnel(path: "/ws/long"), ends: false, reads: false)
            try await eventually("a reset") { long.wasReset }
            #expect(!long.isEnded && !stream.wasReset, "a tunnel that no side has ended may stand still")
        }
    }
}
