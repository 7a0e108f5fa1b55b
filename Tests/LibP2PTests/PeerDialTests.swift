import LibP2PSecurity
import Logging
import Multiformats
import NIOCore
import NIOEmbedded
import PeerIdentity
import Synchronization
import Testing

@testable import LibP2P

/// Dials of a whole host on virtual time, with a transport whose answers the test gives.
@Suite struct PeerDialTests {
    /// Dials nothing: notes what it is asked, and answers when it is told to.
    final class ScriptedTransport: Transport {
        struct Dial: Sendable {
            let address: Multiaddr
            let time: NIODeadline
            let options: TransportDialOptions
            let promise: EventLoopPromise<RawConnection>
        }

        private let recorded = Mutex<[Dial]>([])

        var dials: [Dial] { self.recorded.withLock { $0 } }

        func canDial(_ address: Multiaddr) -> Bool { !address.components.contains(.quicV1) }
        func canListen(on address: Multiaddr) -> Bool { false }

        func dial(
            _ address: Multiaddr,
            on loop: any EventLoop,
            options: TransportDialOptions
        ) -> EventLoopFuture<RawConnection> {
            let promise = loop.makePromise(of: RawConnection.self)
            self.recorded.withLock {
                $0.append(Dial(address: address, time: loop.now, options: options, promise: promise))
            }
            return promise.futureResult
        }

        func listen(
            on address: Multiaddr,
            group: any EventLoopGroup,
            accept: @escaping @Sendable (RawConnection) -> Void
        ) -> EventLoopFuture<any TransportListener> {
            group.next().makeFailedFuture(LibP2PError(code: .listenFailed, message: "no listening here"))
        }
    }

    /// A connection that is secured already and never opens a stream.
    struct ReadyConnection: MultiplexedConnection {
        struct Streams: StreamMultiplexer {
            let channel: any Channel
            var openStreams: Int { 0 }
            var roundTripTime: TimeAmount? { nil }
            func openStream(
                _ initializer: @escaping (any Channel) -> EventLoopFuture<Void>
            ) -> EventLoopFuture<any Channel> {
                self.channel.eventLoop.makeFailedFuture(
                    LibP2PError(code: .connectionClosed, message: "no streams here")
                )
            }
            func close(drainUntil deadline: NIODeadline?) { self.channel.close(promise: nil) }
        }

        let channel: any Channel
        let securedPeer: SecuredPeer
        var multiplexerName: String { "scripted" }
        func start(inboundStream: @escaping (any Channel) -> EventLoopFuture<Void>) throws -> any StreamMultiplexer {
            Streams(channel: self.channel)
        }
    }

    struct Bench {
        let loop = EmbeddedEventLoop()
        let transport = ScriptedTransport()
        let host: Host
        let peer = KeyPair.generate()
        let start: NIODeadline

        init(_ configure: (inout HostConfiguration) -> Void = { _ in }) throws {
            var configuration = HostConfiguration()
            configure(&configuration)
            self.host = try Host(
                identity: .generate(),
                configuration: configuration,
                group: self.loop,
                logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
            )
            self.host.add(transport: self.transport)
            self.start = self.loop.now
        }

        func connect(
            _ addresses: [String],
            _ options: DialOptions = DialOptions()
        ) throws -> EventLoopFuture<Connection> {
            let addresses = try addresses.map { try Multiaddr($0) }
            let future: EventLoopFuture<Connection> = self.host.connect(
                to: self.peer.peerID,
                addresses: addresses,
                options: options
            )
            self.loop.run()
            return future
        }

        /// What has been dialled, with the milliseconds since the start.
        var log: [String] {
            self.transport.dials.map { "\(($0.time - self.start).nanoseconds / 1_000_000) \($0.address)" }
        }

        func succeed(_ index: Int, as key: KeyPair? = nil) throws -> EmbeddedChannel {
            let channel = EmbeddedChannel(loop: self.loop)
            try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
            let dial = self.transport.dials[index]
            let peer = SecuredPeer(
                remoteKey: (key ?? self.peer).publicKey,
                earlyMuxer: nil,
                protocolID: "scripted"
            )
            dial.promise.succeed(
                RawConnection(
                    channel: channel,
                    localAddress: try Multiaddr("/ip4/127.0.0.1/tcp/2"),
                    remoteAddress: dial.address,
                    capability: .multiplexed(ReadyConnection(channel: channel, securedPeer: peer))
                )
            )
            self.loop.run()
            return channel
        }

        func fail(_ index: Int) {
            self.transport.dials[index].promise.fail(LibP2PError(code: .dialFailed, message: "refused by the test"))
            self.loop.run()
        }

        func error(of future: EventLoopFuture<Connection>) -> LibP2PError? {
            let result = Mutex<LibP2PError?>(nil)
            future.whenFailure { error in result.withLock { $0 = error as? LibP2PError } }
            self.loop.run()
            return result.withLock { $0 }
        }
    }

    @Test func addressesAreStaggeredAndTheFirstWins() throws {
        let bench = try Bench()
        let future = try bench.connect(["/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip6/2600::1/tcp/1"])
        #expect(bench.log == ["0 /ip4/192.168.1.1/tcp/1"])
        bench.loop.advanceTime(by: .milliseconds(250))
        #expect(bench.log.last == "250 /ip6/2600::1/tcp/1")
        bench.loop.advanceTime(by: .milliseconds(250))
        #expect(bench.log.last == "500 /ip4/8.8.8.8/tcp/1")
        _ = try bench.succeed(1)
        let connection = try future.wait()
        #expect(connection.remotePeer == bench.peer.peerID)
        #expect(connection.remoteAddress.description == "/ip6/2600::1/tcp/1")
        #expect(bench.host.connections(to: bench.peer.peerID) == [connection])
        // One that comes too late is closed, and its channel is not left open.
        let late = try bench.succeed(2)
        #expect(!late.isActive)
        bench.fail(0)
        #expect(bench.host.metrics.openConnectionsOutbound == 1)
        #expect(bench.host.metrics.openDials == 0)
        #expect(bench.host.state.withLock { $0.addressesInDial } == 0)
    }

    @Test func theOriginalsPaceIsAllAtOnce() throws {
        let bench = try Bench { $0.dial.ranking = .noDelay }
        _ = try bench.connect(["/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.1/tcp/1"])
        #expect(bench.log == ["0 /ip4/8.8.8.8/tcp/1", "0 /ip4/192.168.1.1/tcp/1"])
    }

    @Test func theErrorTellsOfEachAddress() throws {
        let bench = try Bench { $0.dialFilter = { _, address in address.port != 3 } }
        let future = try bench.connect(["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/udp/2/quic-v1", "/ip4/8.8.8.8/tcp/3"])
        bench.fail(0)
        let error = try #require(bench.error(of: future))
        #expect(error.code == .dialFailed)
        #expect(
            error.attempts.map { "\($0.address)" }.sorted() == [
                "/ip4/8.8.8.8/tcp/1", "/ip4/8.8.8.8/tcp/3", "/ip4/8.8.8.8/udp/2/quic-v1",
            ]
        )
        #expect(error.message.contains("refused by the test"))
        #expect(error.message.contains("no transport"))
        #expect(error.message.contains("configuration"))
    }

    /// The first address answers nothing, as a private one does from elsewhere: the other is not kept from its redials.
    @Test func aRefusedAddressIsDialledAgainBesideOneThatHangs() throws {
        let bench = try Bench()
        let options = DialOptions(
            onlyGivenAddresses: true,
            simultaneousOpen: .initiator,
            ignoreBackoff: true,
            redial: .init(delay: .milliseconds(100), maximum: 2),
            timeout: .seconds(5)
        )
        let future = try bench.connect(["/ip4/192.168.1.1/tcp/1", "/ip4/8.8.8.8/tcp/1"], options)
        #expect(bench.log.count == 2)
        for again in 1...2 {
            bench.fail(again)
            bench.loop.advanceTime(by: .milliseconds(49))
            #expect(bench.log.count == again + 1)
            bench.loop.advanceTime(by: .milliseconds(101))
            #expect(bench.log.count == again + 2)
            #expect(bench.log.last?.hasSuffix("/ip4/8.8.8.8/tcp/1") == true)
        }
        // That was the last time.
        bench.fail(3)
        bench.loop.advanceTime(by: .seconds(6))
        #expect(bench.log.count == 4)
        let error = try #require(bench.error(of: future))
        #expect(error.code == .timedOut)
        #expect(error.attempts.map { "\($0.address)" }.sorted() == ["/ip4/192.168.1.1/tcp/1", "/ip4/8.8.8.8/tcp/1"])
    }

    @Test func whatThePeerConnectedSavesARedial() throws {
        let bench = try Bench()
        var options = DialOptions(onlyGivenAddresses: true, directOnly: true, simultaneousOpen: .initiator)
        options.reuse = .never
        options.redial = .init(delay: .milliseconds(100), maximum: 2)
        let first = try bench.connect(["/ip4/8.8.8.8/tcp/1"], options)
        let second = try bench.connect(["/ip4/8.8.4.4/tcp/1"], options)
        bench.fail(0)
        _ = try bench.succeed(1)
        bench.loop.advanceTime(by: .milliseconds(150))
        #expect(bench.log.count == 2)
        #expect(try first.wait() == second.wait())
        #expect(bench.host.state.withLock { $0.addressesInDial } == 0)
    }

    @Test func aPeerWithoutAddressesIsSaidSo() throws {
        let bench = try Bench()
        let future = try bench.connect([])
        #expect(bench.error(of: future)?.code == .noAddresses)
    }

    @Test func aFailedAddressIsLeftAlone() throws {
        let bench = try Bench()
        let first = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        bench.fail(0)
        #expect(bench.error(of: first)?.code == .dialFailed)
        let second = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        #expect(bench.error(of: second)?.message.contains("not again for 5 s") == true)
        #expect(bench.log.count == 1)
        // A new address is dialled, and the old one when it is asked for or its time has come.
        _ = try bench.connect(["/ip4/8.8.4.4/tcp/1"])
        #expect(bench.log.last == "0 /ip4/8.8.4.4/tcp/1")
        bench.fail(1)
        _ = try bench.connect(["/ip4/8.8.8.8/tcp/1"], DialOptions(onlyGivenAddresses: true, ignoreBackoff: true))
        #expect(bench.log.count == 3)
        bench.fail(2)
        bench.loop.advanceTime(by: .seconds(7))
        _ = try bench.connect(["/ip4/8.8.8.8/tcp/1"], DialOptions(onlyGivenAddresses: true))
        #expect(bench.log.last == "7000 /ip4/8.8.8.8/tcp/1")
    }

    @Test func whoAsksForTheSamePeerJoins() throws {
        let bench = try Bench()
        let first = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        let second = try bench.connect(["/ip4/8.8.4.4/tcp/1"])
        #expect(bench.host.metrics.dialsStarted == 1)
        #expect(bench.host.metrics.dialsJoined == 1)
        bench.loop.advanceTime(by: .milliseconds(250))
        #expect(bench.log.count == 2)
        _ = try bench.succeed(1)
        #expect(try first.wait() == second.wait())
        // And who comes later is given the connection.
        #expect(try bench.connect([]).wait() == first.wait())
        #expect(bench.host.metrics.dialsStarted == 1)
    }

    @Test func addressesHaveTheirDeadlines() throws {
        let bench = try Bench()
        let future = try bench.connect(["/ip4/192.168.1.1/tcp/1", "/ip4/8.8.8.8/tcp/1"])
        bench.loop.advanceTime(by: .milliseconds(250))
        #expect(bench.transport.dials[0].options.deadline == bench.start + .seconds(5))
        #expect(bench.transport.dials[1].options.deadline == bench.start + .milliseconds(15_250))
        bench.loop.advanceTime(by: .seconds(15))
        let error = try #require(bench.error(of: future))
        #expect(error.code == .timedOut)
        #expect(error.attempts.count == 2)
        #expect(bench.host.state.withLock { $0.addressesInDial } == 0)
    }

    @Test func aPeerHasADeadlineAndABoundOfAddressesAtOnce() throws {
        let bench = try Bench {
            $0.dial.ranking = .noDelay
            $0.dial.peerTimeout = .seconds(20)
        }
        let future = try bench.connect((1...20).map { "/ip4/8.8.8.\($0)/tcp/1" })
        #expect(bench.log.count == 8)
        bench.fail(0)
        #expect(bench.log.count == 9)
        bench.loop.advanceTime(by: .seconds(15))
        #expect(bench.log.count == 17)
        bench.loop.advanceTime(by: .seconds(5))
        #expect(bench.error(of: future)?.code == .timedOut)
        #expect(bench.host.state.withLock { $0.addressesInDial } == 0)
    }

    @Test func theHostHasABoundOfAddressesAtOnce() throws {
        let bench = try Bench { $0.dial.maximum = 2 }
        let peers = (0..<3).map { _ in KeyPair.generate().peerID }
        for (index, peer) in peers.enumerated() {
            let address = try Multiaddr("/ip4/8.8.8.\(index)/tcp/1")
            let _: EventLoopFuture<Connection> = bench.host.connect(to: peer, addresses: [address])
        }
        bench.loop.run()
        #expect(bench.log.count == 2)
        bench.fail(0)
        #expect(bench.log == ["0 /ip4/8.8.8.0/tcp/1", "0 /ip4/8.8.8.1/tcp/1", "0 /ip4/8.8.8.2/tcp/1"])
    }

    @Test func theHostDoesNotDialItself() throws {
        let bench = try Bench()
        let future: EventLoopFuture<Connection> = bench.host.connect(to: bench.host.peerID)
        #expect(bench.error(of: future)?.code == .selfDial)
    }

    @Test func aConnectionToItselfUnderAnotherNameIsClosed() throws {
        let bench = try Bench()
        let future = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        let channel = try bench.succeed(0, as: bench.host.identity)
        #expect(!channel.isActive)
        #expect(bench.error(of: future)?.code == .selfDial)
        #expect(bench.host.connections.isEmpty)
    }

    @Test func aPeerThatIsNotAcceptedIsClosed() throws {
        let bench = try Bench { $0.acceptPeer = { _, _ in false } }
        let future = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        let channel = try bench.succeed(0)
        #expect(!channel.isActive)
        #expect(bench.error(of: future)?.code == .notAllowed)
        #expect(bench.host.metrics.openConnectionsOutbound == 0)
    }

    struct Routing: PeerRouting {
        let address: Multiaddr
        func findAddresses(of peer: PeerID, on loop: any EventLoop) -> EventLoopFuture<[Multiaddr]> {
            loop.makeSucceededFuture([self.address])
        }
    }

    @Test func routingIsAskedOnceWhenAllElseFails() throws {
        let bench = try Bench()
        bench.host.setPeerRouting(Routing(address: try Multiaddr("/ip4/8.8.4.4/tcp/1")))
        let future = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        bench.fail(0)
        #expect(bench.log.last == "0 /ip4/8.8.4.4/tcp/1")
        bench.fail(1)
        #expect(bench.error(of: future)?.attempts.count == 2)
    }

    static let circuit = "/ip4/9.9.9.9/tcp/1/p2p/12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW/p2p-circuit"

    @Test func aDirectConnectionIsMadeBesideARelayedOne() throws {
        let bench = try Bench()
        let relayed = try bench.connect([Self.circuit])
        _ = try bench.succeed(0)
        #expect(try relayed.wait().isRelayed)
        let direct = try bench.connect(
            ["/ip4/8.8.8.8/tcp/1", Self.circuit],
            DialOptions(reuse: .direct, directOnly: true)
        )
        #expect(bench.log.last == "0 /ip4/8.8.8.8/tcp/1")
        _ = try bench.succeed(1)
        #expect(try direct.wait().path == .direct)
        #expect(try bench.connect([]).wait() == direct.wait())
        #expect(bench.host.connections(to: bench.peer.peerID).count == 2)
    }

    /// Not only when its connect is done: that may take the kernel minutes.
    @Test func dialsThatLoseAreGivenUpWhileTheyConnect() throws {
        let bench = try Bench { $0.dial.ranking = .noDelay }
        let future = try bench.connect((1...3).map { "/ip4/8.8.8.\($0)/tcp/1" })
        let made = bench.transport.dials.map { dial in
            let channel = EmbeddedChannel(loop: bench.loop)
            dial.options.channelMade?(channel)
            return channel
        }
        bench.fail(0)
        let winner = try bench.succeed(1)
        bench.loop.run()
        _ = try future.wait()
        #expect(winner.isActive)
        #expect(throws: Never.self) { try made[0].closeFuture.wait() }
        #expect(throws: Never.self) { try made[2].closeFuture.wait() }
        // A channel that comes when all is over is closed at once.
        let late = EmbeddedChannel(loop: bench.loop)
        bench.transport.dials[2].options.channelMade?(late)
        bench.loop.run()
        #expect(throws: Never.self) { try late.closeFuture.wait() }
        for index in [0, 2] { bench.transport.dials[index].promise.fail(ChannelError.eof) }
    }

    @Test func aSimultaneousOpenIsADialOfItsOwn() throws {
        let bench = try Bench()
        _ = try bench.connect(["/ip4/8.8.8.8/tcp/1"])
        _ = try bench.connect(
            ["/ip4/8.8.8.8/tcp/1", "/ip4/8.8.4.4/tcp/1"],
            DialOptions(reuse: .direct, onlyGivenAddresses: true, simultaneousOpen: .responder)
        )
        #expect(bench.log.count == 3)
        #expect(bench.transport.dials[1].options.simultaneousOpen)
        #expect(bench.transport.dials[1].options.reusePort)
        #expect(!bench.transport.dials[0].options.simultaneousOpen)
    }

    @Test func theTableKnowsTheBestConnection() throws {
        let bench = try Bench()
        let relayed = try bench.connect([Self.circuit])
        _ = try bench.succeed(0)
        _ = try relayed.wait()
        for index in 1...2 {
            _ = try bench.connect(["/ip4/8.8.8.\(index)/tcp/1"], DialOptions(reuse: .never, onlyGivenAddresses: true))
            _ = try bench.succeed(index)
        }
        let table = bench.host.state.withLock { $0.connections }
        let peer = bench.peer.peerID
        let best = try #require(table.best(to: peer, allowLimited: true, directOnly: false))
        #expect(best.remoteAddress.description == "/ip4/8.8.8.2/tcp/1")
        best.state.withLock { $0.isDraining = true }
        #expect(
            table.best(to: peer, allowLimited: true, directOnly: false)?.remoteAddress.description
                == "/ip4/8.8.8.1/tcp/1"
        )
        for connection in table.all where !connection.isRelayed { connection.state.withLock { $0.isDraining = true } }
        #expect(table.best(to: peer, allowLimited: true, directOnly: false)?.isRelayed == true)
        #expect(table.best(to: peer, allowLimited: true, directOnly: true) == nil)
    }
}
