import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Testing

@testable import LibP2P

extension SocketTests {
    /// Whole hosts over real sockets of the loopback interface.
    @Suite struct HostTests {
        struct Layers: CustomTestStringConvertible, Sendable {
            let listen: String
            let security: [HostConfiguration.Security]
            let isPrivate: Bool
            let expected: HostConfiguration.Security

            var testDescription: String { "\(self.listen) \(self.security) \(self.isPrivate ? "private" : "open")" }
        }

        static let layers: [Layers] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip6/::1/tcp/0"].flatMap {
            listen in
            [false, true].flatMap { isPrivate in
                [
                    Layers(listen: listen, security: [.tls], isPrivate: isPrivate, expected: .tls),
                    Layers(listen: listen, security: [.noise], isPrivate: isPrivate, expected: .noise),
                    Layers(listen: listen, security: [.noise, .tls], isPrivate: isPrivate, expected: .tls),
                ]
            }
        }

        @Test(arguments: layers) func bytesGoThroughTheWholeStack(_ layers: Layers) async throws {
            let key = layers.isPrivate ? PreSharedKey(originalFileBytes: Array("secret".utf8)) : nil
            let server = try await makeHost(listen: [layers.listen]) {
                $0.security = layers.security
                $0.preSharedKey = key
            }
            let client = try await makeHost(listen: []) { $0.preSharedKey = key }
            try await withHosts(server, client) {
                server.echo("/echo/1")
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                #expect(connection.remotePeer == server.peerID)
                #expect(connection.securityProtocol == layers.expected.rawValue)
                #expect(connection.direction == .outbound)
                let stream = try await client.openStream(to: server.peerID, protocols: ["/echo/1"])
                #expect(stream.connection == connection)
                let bytes = ByteBuffer(bytes: (0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 7) })
                #expect(try await stream.exchange(bytes) == bytes)
                let time = try await client.ping(server.peerID).get()
                #expect(time > .zero)
                #expect(connection.roundTripTime != nil)
            }
        }
    }
}
