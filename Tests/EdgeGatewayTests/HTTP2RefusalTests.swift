import GatewayRouting
import MeshTesting
import NIOCore
import NIOHPACK
import NIOHTTP2
import NIOSSL
import Testing

@testable import EdgeGateway

/// What counts as a refused request, and what as a client that has only gone.
@Suite struct HTTP2RefusalTests {
    @Test("errors of HTTP/2 and HPACK are breaches; those of sockets and of TLS are not")
    func breaches() {
        let breaches: [any Error] = [
            NIOHTTP2Errors.badClientMagic(), NIOHTTP2Errors.excessiveRSTFrames(), NIOHPACKErrors.ZeroHeaderIndex(),
        ]
        for error in breaches { #expect(HTTP2Server.isBreach(error), "\(error)") }
        let ends: [any Error] = [
            NIOSSLError.uncleanShutdown, IOError(errnoCode: 104, reason: "read"), ChannelError.inputClosed,
        ]
        for error in ends { #expect(!HTTP2Server.isBreach(error), "\(error)") }
    }

    @Test("a WebSocket to a backend of HTTP/2 is answered with 501 and a reason; another upgrade is passed over")
    func webSockets() async throws {
        try await GatewayRig.with(
            [.http(hosts([forwarding("web", .http2)]))],
            services: [makeService("web", ports: [])]
        ) { _, ports in
            func ask(_ upgrade: String) async throws -> String {
                try await RawClient.exchange(
                    ports[0],
                    "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: \(upgrade)\r\n\r\n"
                )
            }
            let refused = try await ask("WebSocket")
            #expect(refused.hasPrefix("HTTP/1.1 501 ") && refused.contains("appProtocol kubernetes.io/ws"))
            // The service has no endpoint, to which it would have gone.
            #expect(try await ask("other").hasPrefix("HTTP/1.1 503 "))
        }
    }

    @Test("a client that goes without a word is no refused request, one that breaks HTTP/2 is")
    func counts() async throws {
        let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
        // RFC 9113 section 6.9: a window that grows by nothing.
        let breach: [UInt8] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        try await GatewayRig.with([.http(hosts([forwarding("web")]))], services: []) { rig, ports in
            func refused() async -> UInt64 { await rig.service.reports().reduce(0) { $0 + $1.requestsRefused } }
            func waitUntilClosed(_ accepted: UInt64) async throws {
                try await eventually("all connections are closed") {
                    let reports = await rig.service.reports()
                    return reports.allSatisfy { $0.connectionsOpen == 0 }
                        && reports.reduce(0) { $0 + $1.connectionsAccepted } == accepted
                }
            }
            let gone = try await RawClient.connect(ports[0])
            try await gone.send(preface)
            try await eventually("the gateway speaks HTTP/2") { gone.count > 0 }
            try await gone.reset()
            try await waitUntilClosed(1)
            #expect(await refused() == 0)

            let hostile = try await RawClient.connect(ports[0])
            try await hostile.send(preface + breach)
            _ = try await hostile.end()
            try await waitUntilClosed(2)
            #expect(await refused() == 1)
        }
    }
}
