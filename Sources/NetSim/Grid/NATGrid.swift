import LibP2P
import LibP2PRelay
public import Logging
import MeshCore
import Multiformats
public import NIOCore

/// Lets whole hosts behind every pair of NATs find each other through a relay, and tells which way they end up talking.
public struct NATGrid: Sendable {
    public struct Cell: Sendable {
        public let dialler: NATKind
        public let listener: NATKind
        public let path: Path
        /// From the dial to the connection that stays; nil if that is the relay's.
        public let delay: TimeAmount?

        public var expected: Path { self.dialler.expectedPath(to: self.listener) }
    }

    public let seed: UInt64
    /// Of each host's way to the internet.
    public let link: Link
    /// For the hosts, by their names.
    public var logger: @Sendable (String) -> Logger = { _ in Logger(label: "host") { _ in SwiftLogNoOpLogHandler() } }
    /// Sees all packets; see `Simulation.observer`.
    public var observer: (@Sendable (NIODeadline, Packet, PacketFate) -> Void)?

    public init(seed: UInt64, link: Link = Link(delay: .milliseconds(10), jitter: .milliseconds(4))) {
        self.seed = seed
        self.link = link
    }

    /// One host dials another through a relay, which has a reservation there, and both try to do without it.
    public func cell(from dialler: NATKind, to listener: NATKind) throws -> Cell {
        try withSimulation(seed: self.seed, link: self.link) { simulation in
            simulation.observer = self.observer
            let relayMachine = simulation.machine("relay")
            relayMachine.attach(to: simulation.internet, "31.0.0.1")
            let relay = try relayMachine.host(logger: self.logger("relay"))
            let service = RelayService(host: relay, logger: relay.logger)
            let candidate = RelayCandidate(peer: relay.peerID, addresses: [try Multiaddr("/ip4/31.0.0.1/tcp/4001")])
            let one = try RelayedPeer(on: Self.place(dialler, 1, in: simulation), logger: self.logger("dialler"))
            let other = try RelayedPeer(on: Self.place(listener, 2, in: simulation), logger: self.logger("listener"))
            return try simulation.run {
                try await relay.start()
                service.start()
                try await one.start(relays: [candidate])
                try await other.start(relays: [candidate])
                try await simulation.wait(atMost: .seconds(30)) {
                    !one.client.reservations.isEmpty && !other.client.reservations.isEmpty
                }
                // Time for the relay to tell both where it sees them.
                try await simulation.sleep(.seconds(5))
                let addresses =
                    listener.box == .none
                    ? other.host.advertisedAddresses : other.client.reservations[0].circuitAddresses
                let begin = simulation.loop.now
                _ = try await one.host.connect(to: other.host.peerID, addresses: addresses)
                try await simulation.wait(atMost: .seconds(90)) {
                    one.directConnection(to: other) != nil || other.puncher.metrics.failed > 0
                }
                let direct = one.directConnection(to: other)
                // What both have must last.
                try await simulation.sleep(.seconds(10))
                let path: Path
                if let direct, direct.isOpen {
                    path = other.puncher.metrics.punched > 0 ? .punched : .direct
                } else {
                    path = .relayed
                }
                let delay = direct.map { $0.opened - begin }
                one.stop()
                other.stop()
                service.stop()
                for host in [one.host, other.host, relay] { await host.shutdown(deadline: simulation.loop.now) }
                return Cell(dialler: dialler, listener: listener, path: path, delay: path == .relayed ? nil : delay)
            }
        }
    }

    /// A machine behind such boxes. All homes have the same private addresses, as homes do. The public ones are not of the blocks
    /// for documentation, as hosts know that nobody can be reached there.
    private static func place(_ kind: NATKind, _ number: UInt32, in simulation: Simulation) -> Machine {
        let outside = CIDR("31.0.1.0/24").host(number)
        let name = "host-\(number)"
        switch kind.box {
        case .none:
            let machine = simulation.machine(name)
            machine.attach(to: simulation.internet, outside)
            return machine
        case .firewall:
            let lan = simulation.network("lan-\(number)", [number == 1 ? "31.0.2.0/28" : "31.0.2.16/28"])
            let router = simulation.router("firewall-\(number)")
            let uplink = router.attachUplink(to: simulation.internet, outside)
            router.attach(to: lan, lan.prefixes[0].host(1))
            router.firewall = FirewallTable()
            simulation.internet.addRoute(lan.prefixes[0], via: uplink)
            let machine = simulation.machine(name)
            machine.attach(to: lan, lan.prefixes[0].host(2))
            return machine
        case .nat(let behavior):
            return simulation.home("home-\(number)", behavior, inside: "10.0.0.0/24", outside: outside)
                .machine(name, 1 + number, in: simulation)
        case .nested(let behavior, let carrier):
            let provider = simulation.home("carrier-\(number)", carrier, inside: "100.64.0.0/10", outside: outside)
            return simulation.home(
                "home-\(number)",
                behavior,
                inside: "10.0.0.0/24",
                outside: "100.64.0.7",
                on: provider.network
            ).machine(name, 1 + number, in: simulation)
        }
    }
}
