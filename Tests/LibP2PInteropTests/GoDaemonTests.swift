import LibP2P
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerTesting
import Testing

/// With go-libp2p's daemon: we dial it, and it dials us.
///
/// The daemon has no option for a pre-shared key. Its connections are cut off from private networks, which is asserted here;
/// private networks with a peer of go-libp2p are the matter of `GoPeerTests`.
@Suite(.serialized) struct GoDaemonTests {
    let loop = MultiThreadedEventLoopGroup.singleton.next()

    private func daemon(_ way: Way) async throws -> Daemon {
        try Peers.require(Peers.daemon)
        return try await Daemon.start(
            Peers.daemon,
            listen: [way.address],
            options: ["-tls=\(way.security == .tls)", "-noise=\(way.security == .noise)"],
            on: self.loop
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

            try await host.testEcho(daemon.peerID, bytes: 8 << 20)
            try await host.testEcho(daemon.peerID, bytes: 100_000, readsLate: true)
            try await host.testSink(daemon.peerID, bytes: Peers.bulk)
            try await host.testSource(daemon.peerID, bytes: Peers.bulk, hashes: true)
            try await host.testStreams(daemon.peerID, count: Peers.streams)
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

    @Test(arguments: Way.all) func itDials(_ way: Way) async throws {
        let daemon = try await self.daemon(way)
        try await withHost(TestHost(listen: [way.address], security: [way.security])) { host in
            try await daemon.connect(to: host.peerID, at: [try host.address(way)])
            #expect(try await daemon.peers().contains(host.peerID))
            let connection = try #require(host.connections(to: daemon.peerID).first)
            #expect(connection.direction == .inbound)
            #expect(connection.securityProtocol == way.security.rawValue)

            func run(_ transfer: Transfer, _ item: TestProtocol) async throws -> Transfer.Outcome {
                let channel = try await daemon.openStream(to: host.peerID, item)
                return try await channel.eventLoop.flatSubmit { transfer.run(on: channel) }.get()
            }
            let echo = try await run(Transfer(sends: 8 << 20, hashes: true), .echo)
            #expect(echo.received == 8 << 20 && echo.sentHash == echo.receivedHash)
            let late = try await run(Transfer(sends: 100_000, readsLate: true, hashes: true), .echo)
            #expect(late.received == 100_000 && late.sentHash == late.receivedHash)
            let sink = try await run(Transfer(sends: Peers.bulk, hashes: true), .sink)
            #expect(sink.text == "\(Peers.bulk) \(sink.sentHash)\n")
            let source = try await run(Transfer(request: "\(Peers.bulk)\n", endsOutput: false), .source)
            #expect(source.received == Peers.bulk)

            // A reset ends the daemon's socket, without a word from us.
            let reset = try? await run(Transfer(endsOutput: false), .reset)
            #expect(reset == nil || reset?.received == 0)

            // Many streams at once, each of them a socket of the daemon's.
            var channels: [any Channel] = []
            for _ in 0..<200 { channels.append(try await daemon.openStream(to: host.peerID, .echo)) }
            try await eventually("all streams are open") { connection.streamCount >= 200 }
            for channel in channels {
                let outcome = try await channel.eventLoop.flatSubmit {
                    Transfer(sends: 1024, hashes: true).run(on: channel)
                }.get()
                #expect(outcome.received == 1024 && outcome.sentHash == outcome.receivedHash)
            }

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
