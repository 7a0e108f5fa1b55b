import LibP2PSecurity
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing

@testable import LibP2P

/// TCP whose connections look as if a relay that limits them were in between.
final class LimitedTransport: Transport {
    private let tcp = TCPTransport()
    private let limit: ConnectionLimit?

    init(limit: ConnectionLimit?) {
        self.limit = limit
    }

    func canDial(_ address: Multiaddr) -> Bool { self.tcp.canDial(address) }
    func canListen(on address: Multiaddr) -> Bool { self.tcp.canListen(on: address) }

    func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection> {
        self.tcp.dial(address, on: loop, options: options).map { self.relayed($0) }
    }

    func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener> {
        self.tcp.listen(on: address, group: group) { accept(self.relayed($0)) }
    }

    private func relayed(_ raw: RawConnection) -> RawConnection {
        RawConnection(
            channel: raw.channel,
            localAddress: raw.localAddress,
            remoteAddress: raw.remoteAddress.appending(.p2p(LimitTests.other)).appending(.circuit),
            limit: self.limit
        )
    }
}

extension SocketTests {
    /// What a peer or its relay may do to a running host, and what the host does about it.
    @Suite struct HostileTests {
        // MARK: Limited connections

        private static func connected(
            limit: ConnectionLimit?,
            _ body: (_ server: Host, _ client: Host, _ connection: Connection) async throws -> Void
        ) async throws {
            let server = try await makeHost(transports: [LimitedTransport(limit: limit)])
            let client = try await makeHost(listen: [], transports: [LimitedTransport(limit: limit)])
            try await withHosts(server, client) {
                server.echo("/plain")
                server.echo("/frugal", options: HandlerOptions(allowLimitedConnection: true))
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await body(server, client, connection)
            }
        }

        @Test func limitedConnectionsTakeOnlyStreamsThatAllowIt() async throws {
            try await Self.connected(limit: ConnectionLimit(seconds: 120, bytes: 1 << 17)) {
                server,
                client,
                connection in
                #expect(connection.isLimited)
                #expect(connection.isRelayed)
                #expect(connection.path == .relayed(ConnectionLimit(seconds: 120, bytes: 1 << 17)))
                // This side does not allow it: the connection is not used, and no other may be made.
                var options = OpenStreamOptions(dial: false, waitForAnswer: true)
                var error = await #expect(throws: LibP2PError.self) {
                    try await client.openStream(to: server.peerID, protocols: ["/frugal"], options: options)
                }
                #expect(error?.code == .connectionClosed)
                error = await #expect(throws: LibP2PError.self) {
                    try await connection.openStream(protocols: ["/frugal"], options: options).get()
                }
                #expect(error?.code == .notAllowed)
                // Both sides do.
                options.allowLimitedConnection = true
                let stream = try await client.openStream(to: server.peerID, protocols: ["/frugal"], options: options)
                #expect(try await stream.exchange("few bytes") == "few bytes")
                // The other side does not.
                error = await #expect(throws: LibP2PError.self) {
                    try await client.openStream(to: server.peerID, protocols: ["/plain"], options: options)
                }
                #expect(error?.code == .protocolNotSupported)
                // Identify and ping do.
                try await eventually("identified") { connection.identification != nil }
                #expect(try await client.ping(server.peerID).get() > .zero)
            }
        }

        @Test func aRelayWithoutLimitsIsLikeAnyOtherPath() async throws {
            try await Self.connected(limit: nil) { server, client, connection in
                #expect(connection.isRelayed)
                #expect(!connection.isLimited)
                let options = OpenStreamOptions(dial: false)
                let stream = try await client.openStream(to: server.peerID, protocols: ["/plain"], options: options)
                #expect(try await stream.exchange("many bytes") == "many bytes")
            }
        }

        @Test func aDirectConnectionIsPreferred() async throws {
            let server = try await makeHost(transports: [TCPTransport()])
            let relayed = ConnectionLimit(seconds: 1, bytes: nil)
            let client = try await makeHost(listen: [], transports: [LimitedTransport(limit: relayed)])
            try await withHosts(server, client) {
                let limited = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                var table = client.state.withLock { $0.connections }
                #expect(table.best(to: server.peerID, allowLimited: false, directOnly: false) == nil)
                #expect(table.best(to: server.peerID, allowLimited: true, directOnly: false) == limited)
                #expect(table.best(to: server.peerID, allowLimited: true, directOnly: true) == nil)
                // A newer one, of the server's, is direct on its side only: there the client's is not limited.
                try await eventually("the server has it, too") { !server.connections(to: client.peerID).isEmpty }
                #expect(server.connections(to: client.peerID).first?.isRelayed == false)
                table = server.state.withLock { $0.connections }
                #expect(table.best(to: client.peerID, allowLimited: false, directOnly: true) != nil)
            }
        }

        // MARK: Floods

        @Test func theHostTrimsIdleConnections() async throws {
            let server = try await makeHost {
                $0.connectionManager.lowWater = 1
                $0.connectionManager.highWater = 2
                $0.connectionManager.grace = .zero
                $0.connectionManager.interval = .milliseconds(20)
            }
            let keeper = try await makeHost(listen: [])
            server.connectionManager.protect(keeper.peerID, "test")
            var clients: [Host] = []
            for _ in 0..<4 { clients.append(try await makeHost(listen: [])) }
            try await withHosts(server, keeper, clients[0], clients[1], clients[2], clients[3]) {
                for client in [keeper] + clients {
                    _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                }
                try await eventually("the surplus is closed") {
                    server.connections.count <= 2 && server.metrics.connectionsTrimmed >= 3
                }
                #expect(server.connections(to: keeper.peerID).count == 1)
                try await eventually("clients know") { clients.filter { $0.connections.isEmpty }.count >= 3 }
            }
        }

        @Test func connectionsOfOneAddressAreBounded() async throws {
            let server = try await makeHost { $0.limits.connectionsPerAddress = 2 }
            var clients: [Host] = []
            for _ in 0..<3 { clients.append(try await makeHost(listen: [])) }
            try await withHosts(server, clients[0], clients[1], clients[2]) {
                for client in clients.prefix(2) {
                    _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                }
                await #expect(throws: LibP2PError.self) {
                    try await clients[2].connect(to: server.peerID, addresses: server.listenAddresses)
                }
                #expect(server.metrics.connectionsRefused == 1)
                clients[0].disconnect(from: server.peerID)
                try await eventually("there is a place again") { server.connections.count == 1 }
                _ = try await clients[2].connect(
                    to: server.peerID,
                    addresses: server.listenAddresses,
                    options: DialOptions(ignoreBackoff: true)
                )
            }
        }

        @Test(arguments: [ProtocolID.identify, .identifyPush]) func aFloodOfIdentifyIsRefused(
            _ protocolID: ProtocolID
        ) async throws {
            let server = try await makeHost {
                $0.identifyBurst = 5
                $0.identifiesPerSecond = 0
            }
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                try await eventually("identified") { connection.identification != nil }
                for _ in 0..<10 {
                    let stream = try await connection.openStream(protocols: [protocolID]).get()
                    _ = try? await stream.exchange("")
                }
                try await eventually("the flood is counted") { server.metrics.identifiesRefused >= 5 }
                #expect(connection.isOpen)
            }
        }

        @Test func streamsThatNeverNegotiateAreReset() async throws {
            let server = try await makeHost { $0.streamNegotiationTimeout = .milliseconds(500) }
            let client = try await makeHost(listen: [])
            try await withHosts(server, client) {
                let connection = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                let raw = try await connection.eventLoop.flatSubmit {
                    connection.streams.value.openStream { $0.eventLoop.makeSucceededVoidFuture() }
                }.get()
                try await raw.writeAndFlush(ByteBuffer(string: "\u{13}/multistr"))
                try await raw.closeFuture.get()
                #expect(server.metrics.negotiationsFailed >= 1)
                try await eventually("nothing is left") {
                    server.resources.withLock { $0.streams.inbound } == 0
                }
            }
        }

        // MARK: Leaks

        private final class Weak: Sendable {
            private let object: Mutex<WeakBox>
            struct WeakBox { weak var value: Connection? }
            init(_ value: Connection) { self.object = Mutex(WeakBox(value: value)) }
            var isReleased: Bool { self.object.withLock { $0.value == nil } }
        }

        /// A thousand streams on two hundred connections, ended in each of the ways that there are.
        @Test(arguments: HostConfiguration.Security.allCases)
        func whatIsClosedIsReleased(_ security: HostConfiguration.Security) async throws {
            let server = try await makeHost { $0.security = [security] }
            let client = try await makeHost(listen: []) { $0.security = [security] }
            var connections: [Weak] = []
            try await withHosts(server, client) {
                server.echo("/echo")
                let dial = DialOptions(reuse: .never, ignoreBackoff: true)
                for round in 0..<100 {
                    let connection = try await client.connect(
                        to: server.peerID,
                        addresses: server.listenAddresses,
                        options: dial
                    )
                    connections.append(Weak(connection))
                    for index in 0..<10 {
                        let protocols: [ProtocolID] = index == 9 ? ["/none", "/neither"] : ["/echo"]
                        guard let stream = try? await connection.openStream(protocols: protocols).get() else {
                            continue
                        }
                        switch index % 3 {
                        case 0: _ = try await stream.exchange("to the end")
                        case 1: stream.reset()
                        default: break  // left to the end of its connection
                        }
                    }
                    for accepted in server.connections(to: client.peerID) { connections.append(Weak(accepted)) }
                    // Either side, politely or not.
                    switch round % 3 {
                    case 0: connection.close()
                    case 1: for accepted in server.connections(to: client.peerID) { accepted.close() }
                    default: connection.channel.close(promise: nil)
                    }
                    try await connection.closeFuture.get()
                }
                for host in [server, client] {
                    try await eventually("all counters are zero") {
                        let metrics = host.metrics
                        return metrics.openConnectionsInbound == 0 && metrics.openConnectionsOutbound == 0
                            && metrics.openStreamsInbound == 0 && metrics.openStreamsOutbound == 0
                            && metrics.openDials == 0 && metrics.inboundHandshakes == 0
                            && host.resources.withLock { $0.scopeCount } == 0
                    }
                    #expect(host.resources.withLock { $0.memory } == 0)
                    #expect(host.state.withLock { $0.handshakes.isEmpty && $0.allDials.isEmpty && $0.dials.isEmpty })
                    #expect(host.state.withLock { $0.addressesInDial } == 0)
                }
                #expect(server.metrics.connectionsAccepted == 100)
                #expect(client.metrics.streamsOpened >= 1000)
                // Timers of their ends, as TLS's, run out within a second or so.
                try await eventually("all connections are released") { connections.allSatisfy(\.isReleased) }
            }
        }

        @Test func aHostThatIsShutDownIsReleased() async throws {
            weak var released: Host?
            do {
                let server = try await makeHost()
                let client = try await makeHost(listen: [])
                try await withHosts(server, client) {
                    _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
                }
                released = server
            }
            try await eventually("the host is released") { released == nil }
        }
    }
}
