import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing

@testable import LibP2P

extension SocketTests {
    /// What goes wrong between hosts, over real sockets.
    @Suite struct HostFailureTests {
        private static func key(_ text: String) -> PreSharedKey { PreSharedKey(originalFileBytes: Array(text.utf8)) }

        @Test(arguments: [("one", "two"), ("one", nil), (nil, "two")] as [(String?, String?)])
        func aWrongPreSharedKeyIsNamedOnBothSides(_ ofServer: String?, _ ofClient: String?) async throws {
            let server = try await makeHost { $0.preSharedKey = ofServer.map { Self.key($0) } }
            let client = try await makeHost(listen: []) { $0.preSharedKey = ofClient.map { Self.key($0) } }
            try await withHosts(server, client) {
                let error = await #expect(throws: LibP2PError.self) {
                    try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                }
                #expect(error?.code == .wrongPreSharedKey, "\(String(describing: error))")
                try await eventually("the server counts the wrong key") { server.metrics.wrongPreSharedKeys == 1 }
                #expect(client.metrics.wrongPreSharedKeys == 1)
            }
        }

        @Test(arguments: HostConfiguration.Security.allCases)
        func anotherPeerThanTheDialledOneIsRefused(_ security: HostConfiguration.Security) async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: []) { $0.security = [security] }
            try await withHosts(server, client) {
                let wanted = KeyPair.generate().peerID
                let error = await #expect(throws: LibP2PError.self) {
                    try await client.connect(to: wanted, addresses: server.listenAddresses)
                }
                #expect(error?.code == .peerMismatch)
                #expect(error?.message.contains("\(server.peerID)") == true)
                #expect(client.connections.isEmpty)
            }
        }

        @Test func hostsWithoutACommonSecurityProtocolSaySo() async throws {
            let server = try await makeHost { $0.security = [.noise] }
            let client = try await makeHost(listen: []) { $0.security = [.tls] }
            try await withHosts(server, client) {
                let error = await #expect(throws: LibP2PError.self) {
                    try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                }
                #expect(error?.code == .protocolNotSupported)
                #expect(error?.message.contains("/tls/1.0.0") == true)
            }
        }

        @Test func aProtocolThatThePeerLacks() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.echo("/echo/2")
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let waiting = OpenStreamOptions(waitForAnswer: true)
                let error = await #expect(throws: LibP2PError.self) {
                    try await client.openStream(to: server.peerID, protocols: ["/none"], options: waiting)
                }
                #expect(error?.code == .protocolNotSupported)
                // The second choice will do.
                let stream = try await client.openStream(to: server.peerID, protocols: ["/none", "/echo/2"])
                #expect(stream.protocolID == "/echo/2")
                #expect(try await stream.exchange("still here") == "still here")
                // Lazily, the refusal comes as an error of the stream.
                let lazy: EventLoopFuture<NegotiatedStream> = client.openStream(
                    to: server.peerID,
                    protocols: ["/none"]
                )
                let refusal = await #expect(throws: LibP2PError.self) {
                    try await lazy.flatMap { $0.exchanged(ByteBuffer(string: "nobody listens")) }.get()
                }
                #expect(refusal?.code == .protocolNotSupported)
                server.stopHandling("/echo/2")
                await #expect(throws: LibP2PError.self) {
                    try await client.openStream(to: server.peerID, protocols: ["/echo/2"], options: waiting)
                }
            }
        }

        @Test func aHandlerThatFailsResetsItsStream() async throws {
            let server = try await makeHost()
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.handle("/fails") { stream in
                    stream.channel.eventLoop.makeFailedFuture(LibP2PError(code: .notAllowed, message: "not today"))
                }
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let stream = try await client.openStream(to: server.peerID, protocols: ["/fails"])
                await #expect(throws: (any Error).self) { try await stream.exchange("hello") }
                #expect(client.connections.count == 1)
            }
        }

        struct Garbage: CustomTestStringConvertible, Sendable {
            let name: String
            let bytes: [UInt8]
            var testDescription: String { self.name }

            init(_ name: String, _ bytes: [UInt8]) {
                self.name = name
                self.bytes = bytes
            }
        }

        /// What somebody may send to an open port.
        static let garbage: [Garbage] = [
            .init("nothing", []),
            .init("http", Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8)),
            .init("tls", [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]),
            .init("zeros", [UInt8](repeating: 0, count: 5000)),
            .init("ones", [UInt8](repeating: 0xFF, count: 5000)),
            .init("header only", [0x13] + Array("/multistream/1.0.0\n".utf8)),
            .init("half a header", [0x13] + Array("/multistr".utf8)),
            .init(
                "noise garbage",
                [0x13] + Array("/multistream/1.0.0\n\u{7}/noise\n".utf8) + [UInt8](repeating: 0xA5, count: 9000)
            ),
            .init(
                "tls garbage",
                [0x13] + Array("/multistream/1.0.0\n\u{b}/tls/1.0.0\n".utf8) + [UInt8](repeating: 0x5A, count: 9000)
            ),
            .init(
                "long line",
                [0x13] + Array("/multistream/1.0.0\n".utf8) + [0xFF, 0xFF, 0x7F] + [UInt8](repeating: 0x61, count: 4000)
            ),
        ]

        @Test(arguments: garbage, ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"])
        func garbageHarmsNobody(_ garbage: Garbage, _ listen: String) async throws {
            let server = try await makeHost(listen: [listen])
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.echo("/echo")
                let port = try #require(server.listenAddresses.first?.port)
                let attacker = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .connect(host: "127.0.0.1", port: Int(port)).get()
                try? await attacker.writeAndFlush(ByteBuffer(bytes: garbage.bytes))
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let stream = try await connection.openStream(protocols: ["/echo"]).get()
                #expect(try await stream.exchange("unharmed") == "unharmed")
                // Truncated: the rest never comes.
                try? await attacker.close()
                try await eventually("the garbage is forgotten") {
                    server.metrics.inboundHandshakes == 0 && server.metrics.openConnectionsInbound == 1
                }
            }
        }

        @Test(arguments: garbage.prefix(1) + garbage.suffix(4))
        func everyHandshakeHasADeadline(_ garbage: Garbage) async throws {
            let server = try await makeHost { $0.handshakeTimeout = .milliseconds(100) }
            try await withHosts(server) {
                let port = try #require(server.listenAddresses.first?.port)
                let attacker = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                    .connect(host: "127.0.0.1", port: Int(port)).get()
                try? await attacker.writeAndFlush(ByteBuffer(bytes: garbage.bytes))
                try await attacker.closeFuture.get()
                try await eventually("the failure is counted") {
                    server.metrics.handshakesFailed == 1 && server.metrics.openConnectionsInbound == 0
                }
            }
        }

        @Test func aStormOfConnectionsIsBounded() async throws {
            let server = try await makeHost { $0.maximumInboundHandshakes = 20 }
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                let port = try #require(server.listenAddresses.first?.port)
                var storm: [any Channel] = []
                for _ in 0..<100 {
                    storm.append(
                        try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                            .connect(host: "127.0.0.1", port: Int(port)).get()
                    )
                }
                try await eventually("the surplus is refused") { server.metrics.connectionsRefused == 80 }
                #expect(server.metrics.inboundHandshakes == 20)
                for channel in storm { try? await channel.close() }
                try await eventually("the storm is over") { server.metrics.inboundHandshakes == 0 }
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                #expect(connection.isOpen)
            }
        }

        @Test func limitsHoldAtTheLimit() async throws {
            let server = try await makeHost { configuration in
                configuration.limits.protocols["/echo"] = .init(inbound: 10, outbound: 100)
                configuration.limits.peerConnections = .init(inbound: 2, outbound: 2)
            }
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                server.echo("/echo")
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let waiting = OpenStreamOptions(waitForAnswer: true)
                var streams: [NegotiatedStream] = []
                for _ in 0..<10 {
                    streams.append(
                        try await client.openStream(to: server.peerID, protocols: ["/echo"], options: waiting)
                    )
                }
                // The eleventh is reset at once.
                await #expect(throws: (any Error).self) {
                    let surplus = try await client.openStream(to: server.peerID, protocols: ["/echo"], options: waiting)
                    _ = try await surplus.exchange("one too many")
                }
                #expect(server.metrics.streamsRefused >= 1)
                #expect(try await streams[0].exchange("a place is free now") == "a place is free now")
                try await eventually("the place is given back") {
                    server.resources.withLock { $0.streams.inbound } <= 9
                }
                let next = try await client.openStream(to: server.peerID, protocols: ["/echo"], options: waiting)
                #expect(try await next.exchange("taken") == "taken")

                // Of three connections the third is refused.
                var dial = DialOptions(reuse: .never)
                dial.ignoreBackoff = true
                _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses, options: dial)
                let third = try? await client.connect(
                    to: server.peerID,
                    addresses: server.listenAddresses,
                    options: dial
                )
                try? await third?.closeFuture.get()
                #expect(server.connections(to: client.peerID).count == 2)
                // The client may see the end before the server has counted it.
                try await eventually("the refusal is counted") { server.metrics.connectionsRefused == 1 }
            }
        }
    }
}
