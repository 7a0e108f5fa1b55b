import GatewayRouting
import MeshTesting
import NIOCore
import NIOHTTP2
import Testing

@testable import EdgeGateway

/// How connections, streams and tunnels of HTTP/2 end whose other side has ended, or does nothing more.
@Suite struct HTTP2EndTests {
    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]

    /// HEADERS of a GET on a stream.
    private static func request(on stream: UInt8, _ path: String = "/x", ends: Bool) -> [UInt8] {
        let fields: [UInt8] =
            [0x82, 0x86, 0x44, UInt8(path.utf8.count)] + Array(path.utf8) + [0x41, 1, UInt8(ascii: "x")]
        return [0, 0, UInt8(fields.count), 1, ends ? 5 : 4, 0, 0, 0, stream] + fields
    }

    private static func limits(_ change: (inout GatewayLimits) -> Void) -> GatewayLimits {
        var limits = GatewayLimits()
        change(&limits)
        return limits
    }

    @Test("a client that has sent all it will is answered, and then the connection ends")
    func halfClose() async throws {
        try await HTTPProxyTests.withWeb { port, _, _ in
            let client = try await RawClient.connect(port)
            try await client.send(
                Self.preface + Self.request(on: 1, ends: true) + Self.request(on: 3, ends: false)
                    + Self.request(on: 5, ends: true)
            )
            try await client.endOutput()
            let text = try await client.end()
            #expect(text.split(separator: "GET /x HTTP/1.1\n").count == 3, "both that were whole, not the third")
        }
    }

    @Test("without a request that is whole it ends at once")
    func halfCloseWithoutRequests() async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            for bytes in [[], Self.request(on: 1, ends: false)] {
                let client = try await RawClient.connect(port)
                try await client.send(Self.preface + bytes)
                try await client.endOutput()
                _ = try await client.end()
            }
            #expect(server.requests.isEmpty)
        }
    }

    @Test("a backend that says nothing holds a half-closed connection no longer than the idle timeout")
    func halfCloseIsBounded() async throws {
        try await HTTPProxyTests.withWeb(limits: Self.limits { $0.idleTimeout = .milliseconds(300) }) { port, _, _ in
            let client = try await RawClient.connect(port)
            try await client.send(Self.preface + Self.request(on: 1, "/hang", ends: true))
            try await client.endOutput()
            #expect(try await client.end().contains("did not answer in time"))
        }
    }

    /// The answers are the gateway's own, so that nothing but the client is waited for.
    @Test("a client that takes nothing of the rest of its answer loses the stream, and nothing else")
    func restIsBounded() async throws {
        // More than its window of 65,535 bytes.
        let big = DirectResponse(status: 200, body: [UInt8](repeating: 98, count: 100_000))
        let small = DirectResponse(status: 200, body: Array("hello".utf8))
        try await HTTPProxyTests.withWeb(
            [matching("/big", .respond(big)), matching("/x", .respond(small))],
            limits: Self.limits { $0.idleTimeout = .milliseconds(300) }
        ) { port, _, rig in
            let client = try await RawClient.connect(port)
            try await client.send(Self.preface + Self.request(on: 1, "/big", ends: true))
            let reset: [UInt8] = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2]
            try await client.wait(for: String(decoding: reset, as: UTF8.self))
            #expect(await rig.service.reports().reduce(0) { $0 + $1.timeouts } == 1)
            let update: [UInt8] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0]
            try await client.send(update + Self.request(on: 3, ends: true))
            try await client.wait(for: "hello")
            client.close()
        }
    }
}
