import ByteStreams
import HashTreeCollections
import KubeModel
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Weak spots of kubeedge/edgemesh v1.17 that belong to the tunnel, by their sections in the report on it, and where each is
    /// tested not to be one here.
    ///
    /// | Section | Weak spot | Test |
    /// |---|---|---|
    /// | 13.1 | too many open files panics in dial | `HostileFlowTests.whyATargetIsNotReachedIsTold` |
    /// | 13.1 | unsynchronised maps of nodes and relays | `unsynchronisedMaps` |
    /// | 13.1 | reload without modules.edgeTunnel | `reloadWithoutTheTunnel` |
    /// | 13.2 | accept loop dials inline | `acceptLoopDialsInline` |
    /// | 13.2 | half-close lost | `FlowTests.theEndOfOneDirectionLeavesTheOther`, `theTargetMayEndFirst` |
    /// | 13.2 | UDP cut at 4096 bytes, sessions of 250 ms, a goroutine for each datagram | `DatagramFlowTests`, all; `MeshTests.streamsAndDatagramsCrossTheTunnelWhole` |
    /// | 13.2 | stream limits below the configured value; 618 connections to a peer (13.4) | `TunnelCapacityTests.room`, `FlowTests.twoThousandFlowsAtOnceToOnePeer`, `MeshTests.aThousandConnectionsToOneNodeAreHeld` |
    /// | 13.2 | startup blocked 60 s by bootstrap | `StartTests.startupBlockedByBootstrap` |
    /// | 13.2 | DHT discovery once | `StartTests.discoveryOnce` |
    /// | 13.2 | mDNS serial | `StartTests.serialDiscovery` |
    /// | 13.2 | relay finder dead; no relay within 10 minutes (13.4) | `RecoveryTests.relayFailover` |
    /// | 13.2 | 3.75 s of retries, then a reset | `RecoveryTests.relayFailover`, `partition` |
    /// | 13.2 | client IP lost | `clientAddressLost`: the agent of the target learns it; the pod still sees its node |
    /// | 13.3 | relay resources | `StartTests.relayAtItsLimit` |
    /// | 13.5 | no authorisation of targets | `MaliciousRequestTests.forbiddenTargets`, `TargetPolicyTests` |
    /// | 13.5 | nodes poisoned by claimed names | `MaliciousPeerTests.falseName`, `falseRecord` |
    /// | 13.5 | no real identities or rotation of keys | `SimulatedMeshTests.rotation`, `EdgeTunnelServiceTests.revocation` |
    /// | 13.5 | relay not chosen by RTT | `RelayBookTests.circuits`, `MeshTests.theNearestRelayCarriesUntilItDiesThenTheOther` |
    /// | 13.5 | nothing known of the cluster when it is offline | `MeshTests.aLANServesItselfWithoutTheCloud` |
    @Suite(.serialized) struct TunnelDefectTests {
        @Test("13.2 accept loop dials inline: targets that do not answer hold up no other, on one connection and loop")
        func acceptLoopDialsInline() async throws {
            let server = try await TestTarget.echo()
            let silent = TransportAddress(.v4(IPv4Address(10, 1, 0, 9)), 80)
            let dialer = TargetDialer(
                stream: { target, loop, deadline in
                    guard target == silent else { return TargetDialer.sockets.stream(target, loop, deadline) }
                    let late = ByteStreamsError(code: .deadlineExceeded, message: "no answer")
                    return loop.scheduleTask(deadline: deadline) { throw late }.futureResult
                },
                datagrams: TargetDialer.sockets.datagrams
            )
            var limits = FlowLimits()
            limits.dialTimeout = .seconds(600)
            try await FlowFixture.with(limits: limits, dialer: dialer) { fixture in
                var waiting: [any Channel] = []
                for _ in 0..<50 {
                    let channel = try await fixture.rawStream(TunnelProtocol.flow)
                    channel.writeAndFlush(
                        OpenRequest(.tcp, to: silent, of: FlowFixture.farNode).framed,
                        promise: nil
                    )
                    waiting.append(channel)
                }
                try await eventually("all are being dialled") { fixture.acceptor.tally.total == 50 }
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                let log = try await channel.record()
                channel.send("past them")
                try await eventually("the echo") { log.text == "past them" }
                #expect(fixture.acceptor.tally.total == 51 && fixture.acceptor.counters.opened == 1)
                for channel in waiting { channel.close(promise: nil) }
                try await channel.close().get()
            }
            try await server.close()
        }

        @Test("13.1 unsynchronised maps: names and relays are asked and changed by many threads at once")
        func unsynchronisedMaps() async throws {
            let own = try KeyPair.derived(nodeName: "self").peerID
            let directory = PeerDirectory(ownName: "self", ownPeer: own, maximumLearned: 16)
            let book = RelayBook(ownPeer: own, naming: directory)
            let peers = (0..<32).map { _ in KeyPair.generate().peerID }
            await withTaskGroup(of: Void.self) { group in
                for worker in 0..<8 {
                    group.addTask {
                        for round in 0..<50 {
                            let peer = peers[(worker + round) % peers.count]
                            var nodes: TreeDictionary<String, NodeObject> = [:]
                            var node = NodeObject(name: "recorded")
                            node.peerID = peer.description
                            nodes["recorded"] = node
                            _ = directory.update(nodes)
                            _ = directory.peer(of: "node-\(worker)-\(round)")
                            _ = directory.node(of: peer)
                            var settings = TunnelSettings(nodeName: "self")
                            settings.relays = (0...worker).map { TunnelSettings.Relay("relay-\($0)") }
                            book.configure(settings)
                            book.measured(peer, .milliseconds(Int64(round)))
                            _ = book.circuits(to: peer)
                        }
                    }
                }
            }
            #expect(directory.peer(of: "self") == own)
            #expect((1...8).contains(book.relays.count))
            let recorded = try #require(directory.peer(of: "recorded"))
            #expect(peers.contains(recorded) && directory.node(of: recorded) == "recorded")
        }

        @Test("13.1 reload without modules.edgeTunnel: a node that is told of no relays goes on without them")
        func reloadWithoutTheTunnel() async throws {
            try await MaliciousPeerFixture.with {
                $0.relays = [TunnelSettings.Relay(MaliciousPeerFixture.victim)]
            } _: { fixture in
                #expect(fixture.victim.host.protocols.contains(RelayBook.hopProtocol))
                fixture.victim.update(TunnelSettings(nodeName: MaliciousPeerFixture.victim))
                #expect(!fixture.victim.host.protocols.contains(RelayBook.hopProtocol))
                #expect(fixture.victim.relays.relays.isEmpty)
                try await fixture.expectHonestIsServed()
            }
        }

        @Test("13.2 client IP lost: the agent that dials the target is told who began the flow")
        func clientAddressLost() async throws {
            try await FlowFixture.with { fixture in
                let client = TransportAddress(.v4(IPv4Address(192, 168, 1, 7)), 40_000)
                let told = ReadLog()
                fixture.far.handle(TunnelProtocol.flow) { stream in
                    stream.channel.eventLoop.makeCompletedFuture {
                        try PreambleHandler.read(on: stream.channel, deadline: .now() + .seconds(60)) { result in
                            guard let request = try? FlowRequest(result.get(), .own) else { return }
                            told.note { $0.error = request.client.map { "\($0)" } }
                            stream.channel.writeAndFlush(request.acceptance, promise: nil)
                        }
                    }
                }
                var target = TunnelTarget(
                    node: FlowFixture.farNode,
                    address: TransportAddress(.v4(.loopback), 9)
                )
                target.client = client
                let channel = try await fixture.open(target)
                #expect(told.error == "\(client)")
                try await channel.close().get()
            }
        }
    }
}

extension TunnelSettings.Relay {
    fileprivate init(_ name: String) {
        self.init(nodeName: name, hosts: [.ip4(IPv4Address(192, 0, 2, 1))])
    }
}
