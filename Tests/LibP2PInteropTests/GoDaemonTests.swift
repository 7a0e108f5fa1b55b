import LibP2P
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerTesting
import Testing

/// With go-libp2p's daemon: we dial it, and it dials us.
///
/// Two things the daemon lacks; that it is the daemon is asserted here, and `GoPeerTests` has them with a host of go-libp2p:
/// - private networks, for which it has no option;
/// - half-closed streams. When one direction of a stream ends it closes the socket of the stream whole, and resets the stream. So
///   these transfers are of known lengths, and the echo shows both directions.
@Suite(.serialized) struct GoDaemonTests {
    let loop = MultiThreadedEventLoopGroup.singleton.next()

    private func daemon(_ way: Way, limit: TimeAmount = Peers.lifetime) async throws -> Daemon {
        try await Peers.startDaemon(
            listen: way.address,
            limit: limit,
            "-tls=\(way.security == .tls)",
            "-noise=\(way.security == .noise)"
        )
    }

    @Test(arguments: Way.all) func weDial(_ way: Way) async throws {
        let daemon = try await self.daemon(way)
        let listener = try await daemon.serveTestProtocols()
        try await withHost(TestHost(security: [way.security])) { host in
            let address = try way.choose(daemon.addresses).appending(.p2p(daemon.peerID))
            let connection = try await host.connect(to: address)
            #expect(connection.remotePeer == daemon.peerID)
            #expect(connection.securityProtocol == way.security.rawValue)
            #expect(try await connection.ping().get() > .zero)
            let known = try await host.identification(of: connection)
            #expect(known.protocols.contains(.ping))
            #expect(known.observedAddress == connection.localAddress)
            try await eventually("the daemon lists us") { try await daemon.peers().contains(host.peerID) }

            try await host.testEcho(daemon.peerID, bytes: Peers.bulk, halfCloses: false)
            try await host.testSource(daemon.peerID, bytes: Peers.bulk, hashes: true)
            try await host.testStreams(daemon.peerID, count: Peers.streams, halfCloses: false)
            // The end of our output costs the answer, which a host of go-libp2p gives.
            await #expect(throws: (any Error).self) { try await host.testSink(daemon.peerID, bytes: 100_000) }
            await #expect(throws: LibP2PError.self) {
                _ = try await host.openStream(
                    to: daemon.peerID,
                    protocols: ["/test/none/1.0.0"],
                    options: OpenStreamOptions(waitForAnswer: true)
                )
            }
        }
        try await listener.close().get()
    }

    /// There and back, compared by its hash. Of yamux' windows, sequence numbers of Noise and TLS records and frames of WebSocket
    /// some 10,000 to a million each.
    @Test(arguments: Way.all) func aGigabyteEachWay(_ way: Way) async throws {
        let daemon = try await self.daemon(way, limit: .minutes(10))
        let listener = try await daemon.serveTestProtocols()
        try await withHost(TestHost(security: [way.security])) { host in
            _ = try await host.connect(to: way.choose(daemon.addresses).appending(.p2p(daemon.peerID)))
            try await host.testEcho(daemon.peerID, bytes: Peers.gigabyte, halfCloses: false)
        }
        try await listener.close().get()
    }

    @Test(arguments: Way.all) func itDials(_ way: Way) async throws {
        let daemon = try await self.daemon(way)
        try await withHost(TestHost(listen: [way.address], security: [way.security])) { host in
            try await daemon.connect(to: host.peerID, at: [try host.address(way)])
            #expect(try await daemon.peers().contains(host.peerID))
            let connection = try #require(host.connections(to: daemon.peerID).first)
            #expect(connection.direction == .inbound)
            #expect(connection.securityProtocol == way.security.rawValue)

            try await daemon.echo(Peers.bulk, with: host.peerID)
            let source = Transfer(request: "\(Peers.bulk)\n", endsOutput: false)
            #expect(try await daemon.run(source, .source, with: host.peerID).received == Peers.bulk)
            // A reset ends the daemon's socket, without a word from us; sometimes before the daemon has said that there is a stream.
            let reset = try? await daemon.run(Transfer(endsOutput: false), .reset, with: host.peerID)
            #expect(reset == nil || reset?.received == 0)

            // Many streams at once, each of them a socket of the daemon's.
            var transfers: [EventLoopFuture<Transfer.Outcome>] = []
            for _ in 0..<200 {
                let echo = Transfer(sends: 1024, endsOutput: false, hashes: true, expects: 1024)
                transfers.append(try await daemon.start(echo, .echo, with: host.peerID))
            }
            let outcomes = try await EventLoopFuture.whenAllComplete(transfers, on: self.loop).get()
            let echoes = outcomes.compactMap { try? $0.get() }
            #expect(echoes.count == transfers.count, "\(outcomes.prefix(3))")
            #expect(echoes.allSatisfy { $0.received == 1024 && $0.sentHash == $0.receivedHash })

            try await daemon.disconnect(from: host.peerID)
            try await eventually("the connection is gone") { host.connections(to: daemon.peerID).isEmpty }
        }
    }

    /// The daemon lacks private networks, and we name it: on its dial as on ours.
    @Test(arguments: Way.all) func itHasNoPrivateNetworks(_ way: Way) async throws {
        let daemon = try await self.daemon(way)
        let psk = Array("a key that the daemon has not".utf8)
        try await withHost(TestHost(listen: [way.address], security: [way.security], psk: psk)) { host in
            let address = try way.choose(daemon.addresses).appending(.p2p(daemon.peerID))
            let error = await #expect(throws: LibP2PError.self) { _ = try await host.connect(to: address) }
            let attempt = try #require(error?.attempts.first?.error as? LibP2PError)
            #expect(attempt.code == .wrongPreSharedKey, "\(attempt)")
            await #expect(throws: TestPeerError.self) {
                try await daemon.connect(to: host.peerID, at: [try host.address(way)])
            }
            #expect(host.connections.isEmpty)
        }
    }
}
