import LibP2P
import LibP2PRelay
import Logging
import MeshCore
import Multiformats
import NIOCore
import NetSim
import Testing

/// Whole hosts and relays in situations that a pair of NATs alone does not make.
@Suite struct RelayScenarioTests {
    private static let quiet = Logger(label: "relay") { _ in SwiftLogNoOpLogHandler() }

    private struct Relay {
        let machine: Machine
        let interface: Interface
        let (host, service): (Host, RelayService)
        let candidate: RelayCandidate

        init(_ address: IPAddress, _ delay: TimeAmount = .milliseconds(10), in simulation: Simulation) throws {
            self.machine = simulation.machine("relay-\(address)")
            self.interface = self.machine.attach(to: simulation.internet, address, link: Link(delay: delay))
            let host = try self.machine.host()
            (self.host, self.service) = (host, RelayService(host: host, logger: quiet))
            self.candidate = RelayCandidate(
                peer: self.host.peerID,
                addresses: [try Multiaddr("/ip4/\(address)/tcp/4001")]
            )
        }

        func start() async throws {
            try await self.host.start()
            self.service.start()
        }

        func stop(_ simulation: Simulation) async {
            self.service.stop()
            await self.host.shutdown(deadline: simulation.loop.now)
        }
    }

    /// Two peers that have reservations, and know how the relay sees them.
    private static func start(_ peers: [RelayedPeer], _ relay: Relay, _ simulation: Simulation) async throws {
        try await relay.start()
        for peer in peers { try await peer.start(relays: [relay.candidate]) }
        try await simulation.wait(atMost: .seconds(30)) { peers.allSatisfy { !$0.client.reservations.isEmpty } }
        try await simulation.sleep(.seconds(5))
    }

    private static func stop(_ peers: [RelayedPeer], _ relay: Relay, _ simulation: Simulation) async {
        for peer in peers {
            peer.stop()
            await peer.host.shutdown(deadline: simulation.loop.now)
        }
        await relay.stop(simulation)
    }

    private static func dial(_ one: RelayedPeer, _ other: RelayedPeer) async throws -> Connection {
        let addresses = other.client.reservations.flatMap(\.circuitAddresses)
        return try await one.host.connect(to: other.host.peerID, addresses: addresses)
    }

    /// Two homes behind one carrier: each sees the other at the carrier's address, which leads to the other only if the carrier
    /// sends back in what comes from inside (RFC 4787 section 6).
    @Test(arguments: [true, false]) func peersBehindOneCarrierNeedItsHairpin(_ hairpinning: Bool) throws {
        try withSimulation(seed: 3, link: Link(delay: .milliseconds(10))) { simulation in
            let relay = try Relay("31.0.0.1", in: simulation)
            let behavior = NATBehavior(ports: .random, hairpinning: hairpinning)
            let carrier = simulation.home("carrier", behavior, inside: "100.64.0.0/10", outside: "31.0.1.1")
            let peers = try (1...2).map { number in
                let home = simulation.home(
                    "home-\(number)",
                    NATBehavior(ports: .random),
                    inside: "10.0.0.0/24",
                    outside: CIDR("100.64.0.0/10").host(UInt32(6 + number)),
                    on: carrier.network,
                    link: Link(delay: .milliseconds(10))
                )
                // Not the same addresses inside, so that none dials itself.
                return try RelayedPeer(on: home.machine("peer-\(number)", UInt32(1 + number), in: simulation))
            }
            try simulation.run {
                try await Self.start(peers, relay, simulation)
                let relayed = try await Self.dial(peers[0], peers[1])
                try await simulation.wait(atMost: .seconds(90)) {
                    peers[0].directConnection(to: peers[1]) != nil || peers[1].puncher.metrics.failed > 0
                }
                try await simulation.sleep(.seconds(10))
                #expect((peers[0].directConnection(to: peers[1]) != nil) == hairpinning)
                #expect(peers[1].puncher.metrics.punched == (hairpinning ? 1 : 0))
                #expect(hairpinning || relayed.isOpen)
                await Self.stop(peers, relay, simulation)
            }
        }
    }

    enum Moment: String, CaseIterable {
        /// The peer that was dialled waits for the other's addresses in vain.
        case beforeTheAnswer
        /// Both know all they need.
        case afterTheAgreement
    }

    @Test(arguments: Moment.allCases) func aRelayGoesSilentDuringThePunch(_ moment: Moment) throws {
        try withSimulation(seed: 5, link: Link(delay: .milliseconds(10))) { simulation in
            let relay = try Relay("31.0.0.1", in: simulation)
            let peers = try (1...2).map { number in
                let home = simulation.home(
                    "home-\(number)",
                    NATBehavior(ports: .random),
                    inside: "10.0.0.0/24",
                    outside: CIDR("31.0.1.0/24").host(UInt32(number))
                )
                return try RelayedPeer(on: home.machine("peer-\(number)", UInt32(1 + number), in: simulation))
            }
            let (one, other) = (peers[0], peers[1])
            @Sendable func isOver() -> Bool { one.puncher.metrics.running + other.puncher.metrics.running == 0 }
            try simulation.run(within: .minutes(60)) {
                try await Self.start(peers, relay, simulation)
                _ = try await Self.dial(one, other)
                try await simulation.wait(atMost: .seconds(60), asking: .milliseconds(1)) {
                    one.puncher.metrics.answered > 0
                }
                // Between the peers and the relay a packet takes 20 ms.
                if moment == .afterTheAgreement { try await simulation.sleep(.milliseconds(85)) }
                relay.machine.isAsleep = true
                try await simulation.wait(atMost: .minutes(5), until: isOver)
                #expect(isOver())
                if moment == .afterTheAgreement {
                    #expect(one.directConnection(to: other) != nil)
                    #expect(other.puncher.metrics.punched == 1)
                } else {
                    #expect(one.directConnection(to: other) == nil)
                    #expect(other.puncher.metrics.failed == 1)
                    // All that was broken is found out, and the relay comes back.
                    try await simulation.sleep(.minutes(3))
                    relay.machine.isAsleep = false
                    try await simulation.wait(atMost: .minutes(5)) {
                        peers.allSatisfy { !$0.client.reservations.isEmpty }
                    }
                    for connection in one.host.connections(to: other.host.peerID) { connection.close() }
                    try await simulation.sleep(.seconds(5))
                    _ = try await Self.dial(one, other)
                    try await simulation.wait(atMost: .seconds(90)) { one.directConnection(to: other) != nil }
                    #expect(one.directConnection(to: other) != nil)
                }
                // It lasts without the relay.
                relay.machine.isAsleep = true
                try await simulation.sleep(.minutes(10))
                #expect(one.directConnection(to: other) != nil)
                await Self.stop(peers, relay, simulation)
            }
        }
    }

    /// Of a host of go-libp2p: it is known by its agent, and its listener waits for proposals whoever comes.
    private static func likeGo(_ configuration: inout HostConfiguration) {
        configuration.agentVersion = "go-libp2p/0.36"
        configuration.simultaneousOpen.acceptedPatience = .minutes(5)
    }

    /// Only the SYN of the host behind the worse NAT gets through, to a listener that proposes nothing. That host, by the
    /// roles of such peers the server, waits for it no longer than it must.
    @Test func aListenerThatProposesNothingIsNotWaitedForLong() throws {
        try withSimulation(seed: 11, link: Link(delay: .milliseconds(10))) { simulation in
            let relay = try Relay("31.0.0.1", in: simulation)
            let home = simulation.home("home", .symmetric, inside: "10.0.0.0/24", outside: "31.0.1.1")
            let one = try RelayedPeer(on: home.machine("one", 2, in: simulation))
            let machine = simulation.machine("other")
            machine.attach(to: simulation.internet, "31.0.1.2")
            let other = try RelayedPeer(on: machine, Self.likeGo)
            try simulation.run {
                try await Self.start([one, other], relay, simulation)
                _ = try await Self.dial(one, other)
                try await simulation.wait(atMost: .seconds(30), asking: .milliseconds(1)) {
                    one.puncher.metrics.answered > 0
                }
                let asked = simulation.loop.now
                try await simulation.wait(atMost: .seconds(30), asking: .milliseconds(1)) {
                    one.directConnection(to: other) != nil
                }
                // Three half round trips of 80 ms over the relay until it dials, one of 40 ms for the connection, 300 ms and
                // two over the relay until it proposes, and four for what is agreed on then.
                #expect(simulation.loop.now - asked < .seconds(1), "\(simulation.loop.now - asked)")
                #expect(one.directConnection(to: other)?.direction == .outbound)
                await Self.stop([one, other], relay, simulation)
            }
        }
    }

    /// A peer of the name `go-libp2p`, which has the roles of the specification since 0.41, and had them reversed before.
    enum GoPeer: String, CaseIterable {
        /// It answers, as client.
        case newDials
        /// It answers, as server.
        case oldDials
        /// It begins, as server.
        case newIsDialled
    }

    /// Whoever of both is the server: one try is enough, and takes no longer than it must.
    @Test(arguments: GoPeer.allCases) func theRolesOfGoAreFoundOut(_ go: GoPeer) throws {
        try withSimulation(seed: 13, link: Link(delay: .milliseconds(10))) { simulation in
            let relay = try Relay("31.0.0.1", in: simulation)
            var old = HolePunchConfiguration()
            old.hasReversedRoles = { _ in true }
            old.reversedPatience = .minutes(5)
            let peers = try (1...2).map { number in
                let home = simulation.home(
                    "home-\(number)",
                    NATBehavior(),
                    inside: "10.0.0.0/24",
                    outside: CIDR("31.0.1.0/24").host(UInt32(number))
                )
                let isGo = (number == 2) == (go == .newIsDialled)
                return try RelayedPeer(
                    on: home.machine("peer-\(number)", UInt32(1 + number), in: simulation),
                    punching: isGo && go == .oldDials ? old : HolePunchConfiguration()
                ) { if isGo { Self.likeGo(&$0) } }
            }
            let (one, other) = (peers[0], peers[1])
            try simulation.run {
                try await Self.start(peers, relay, simulation)
                _ = try await Self.dial(one, other)
                try await simulation.wait(atMost: .seconds(30), asking: .milliseconds(1)) {
                    one.puncher.metrics.answered > 0
                }
                let asked = simulation.loop.now
                try await simulation.wait(atMost: .seconds(60), asking: .milliseconds(1)) {
                    other.puncher.metrics.punched + other.puncher.metrics.failed > 0
                }
                #expect(other.puncher.metrics.punched == 1 && one.puncher.metrics.answered == 1)
                // As above; the SYNs may miss each other once.
                #expect(simulation.loop.now - asked < .milliseconds(1200), "\(simulation.loop.now - asked)")
                await Self.stop(peers, relay, simulation)
            }
        }
    }

    /// A nearer relay appears, then becomes the farther one: the reservation moves, and there is always one.
    @Test func reservationsMoveToNearerRelays() throws {
        try withSimulation(seed: 9, link: Link(delay: .milliseconds(5), jitter: .milliseconds(1))) { simulation in
            let (far, near) = (
                try Relay("31.0.0.1", .milliseconds(80), in: simulation),
                try Relay("31.0.0.2", .milliseconds(5), in: simulation)
            )
            let machine = simulation.machine("peer")
            machine.attach(to: simulation.internet, "31.0.1.1")
            var configuration = RelayClientConfiguration()
            configuration.wantedReservations = 1
            let peer = try RelayedPeer(on: machine, relays: configuration)
            @Sendable func holds(_ relay: Relay) -> Bool {
                peer.client.reservations.map(\.relay) == [relay.candidate.peer]
            }
            try simulation.run(within: .minutes(120)) {
                try await far.start()
                try await near.start()
                try await peer.start(relays: [far.candidate])
                try await simulation.wait(atMost: .seconds(30)) { holds(far) }

                peer.client.setCandidates([far.candidate, near.candidate])
                var least = 1
                try await simulation.wait(atMost: .minutes(2)) {
                    least = min(least, peer.client.reservations.count)
                    return holds(near)
                }
                #expect(holds(near))
                #expect(least == 1)

                // A little better is not worth a move.
                near.interface.link.delay = .milliseconds(90)
                try await simulation.sleep(.minutes(20))
                #expect(holds(near))
                near.interface.link.delay = .milliseconds(300)
                try await simulation.wait(atMost: .minutes(20)) {
                    least = min(least, peer.client.reservations.count)
                    return holds(far)
                }
                #expect(holds(far))
                #expect(least == 1)
                #expect(peer.client.metrics.reservationsReplaced == 2)
                #expect(peer.client.metrics.reservationsLost == 0)
                peer.stop()
                await peer.host.shutdown(deadline: simulation.loop.now)
                await far.stop(simulation)
                await near.stop(simulation)
            }
        }
    }
}
