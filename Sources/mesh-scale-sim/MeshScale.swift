import CLinux
import EdgeTunnel
import KubeModel
import LibP2P
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import NetSim
import PeerIdentity
import ServiceCatalog
import Synchronization

/// A fleet in the simulated internet: nodes behind NATs, ten to a site, and relays that all of them know. Of each site's NAT every
/// second one lets nobody through, so that half of the pairs that are asked for stay with their relay.
///
/// All nodes have the same relays nearest to them, which is the worst that can be: they hold the slots of all, and all lose one at
/// the same moment.
struct MeshScale: Sendable {
    var nodes = 1000
    var relays = 5
    /// How long the idle fleet is watched.
    var idle = TimeAmount.hours(1)
    /// Nodes that another one has flows to as the relay dies.
    var pairs = 100
    var seed: UInt64 = 1
    /// Called with what is being done.
    var progress: @Sendable (String) -> Void = { _ in }

    /// Reservations that a node holds, as far as there are relays.
    static let reservations = 3
    static let nodesOfSite = 10
    /// The nodes are switched on within this time.
    static let startSpread = TimeAmount.seconds(10)
    /// Until the DHT, the meeting in it and the measurements of relays after a start are over.
    static let settling = TimeAmount.minutes(5)
    /// How exactly times are told.
    static let step = TimeAmount.milliseconds(250)

    struct Report: Sendable {
        /// From the start of the last node until all held their reservations; nil if that took longer than it is waited for.
        var started: TimeAmount?
        /// Of each node in the idle time, both ways.
        var bytesPerHour = 0.0
        var packetsPerHour = 0.0
        var connectionsPerNode = 0.0
        var requestsToDHTPerHour = 0.0
        /// Bytes in use for each node, with its part of the relays, of the simulated network and of what tests the nodes.
        var memoryPerNode = 0
        /// Connections and reservations of the relay that dies.
        var relayConnections = 0
        var pairsRelayed = 0
        var pairsDirect = 0
        /// From the death of a relay until nobody had noticed nothing: all reservations are with others, all pairs are up.
        var reserved: TimeAmount?
        var reachable: TimeAmount?
        /// Nodes that nobody had asked for, and that were asked for then.
        var strangersReached = 0
        var events: UInt64 = 0
    }

    private struct Fleet {
        let relays: [(member: MeshMember, machine: Machine)]
        let nodes: [MeshMember]
    }

    func run() throws -> Report {
        try withSimulation(seed: self.seed, link: Link(delay: .milliseconds(10))) { simulation in
            let before = Self.memoryInUse()
            let catalog = ClusterCatalog()
            let fleet = try self.makeFleet(simulation)
            let records = (fleet.relays.map(\.member) + fleet.nodes).map { member -> SourceEvent in
                var node = NodeObject(name: member.name)
                node.peerID = member.host.peerID.description
                return .upsert(.node(node))
            }
            catalog.apply(records, from: .api)
            let traffic = Traffic()
            simulation.observer = { _, packet, fate in traffic.add(packet, fate) }
            return try simulation.run(within: .hours(2)) {
                try await self.measure(fleet, catalog, simulation, traffic, memoryBefore: before)
            }
        }
    }

    private func makeFleet(_ simulation: Simulation) throws -> Fleet {
        let places = (0..<self.relays).map { IPv4Address(31, 0, 0, UInt8($0 + 1)) }
        let known = places.enumerated().map { TunnelSettings.Relay(nodeName: "relay-\($0)", hosts: [.ip4($1)]) }
        let relays = try places.enumerated().map { index, place in
            let machine = simulation.machine("relay-\(index)")
            machine.attach(
                to: simulation.internet,
                .v4(place),
                link: Link(delay: .milliseconds(Int64(10 * (index + 1))))
            )
            return (try Self.member(machine, known), machine)
        }
        let sites = (0...((self.nodes - 1) / Self.nodesOfSite)).map { site in
            simulation.home(
                "site-\(site)",
                site.isMultiple(of: 2) ? .symmetric : NATBehavior(),
                inside: "10.0.0.0/24",
                outside: CIDR("31.1.0.0/16").host(UInt32(site + 1))
            )
        }
        let nodes = try (0..<self.nodes).map { index in
            let number = UInt32(index % Self.nodesOfSite + 2)
            let machine = sites[index / Self.nodesOfSite].machine("node-\(index)", number, in: simulation)
            return try Self.member(machine, known)
        }
        return Fleet(relays: relays, nodes: nodes)
    }

    private static func member(_ machine: Machine, _ relays: [TunnelSettings.Relay]) throws -> MeshMember {
        var settings = TunnelSettings(nodeName: machine.name)
        settings.relays = relays
        settings.portMapping = false
        let identity = try KeyPair.derived(nodeName: machine.name)
        return try MeshMember(settings: settings, identity: identity, on: machine.simulation.loop) { configure in
            try machine.host(identity: identity, configure)
        }
    }

    // MARK: Measuring, on the loop

    private func measure(
        _ fleet: Fleet,
        _ catalog: ClusterCatalog,
        _ simulation: Simulation,
        _ traffic: Traffic,
        memoryBefore: Int
    ) async throws -> Report {
        var report = Report()
        let loop = simulation.loop
        self.progress("\(self.nodes) nodes and \(self.relays) relays start")
        for relay in fleet.relays { try await relay.member.start(catalog: catalog) }
        for node in fleet.nodes {
            try await simulation.sleep(.nanoseconds(Self.startSpread.nanoseconds / Int64(self.nodes)))
            try await node.start(catalog: catalog)
        }
        let wanted = min(Self.reservations, self.relays)
        report.started = try await Self.time(simulation, atMost: .minutes(2)) {
            fleet.nodes.allSatisfy { $0.relays.count >= wanted }
        }
        self.progress("they settle")
        try await simulation.sleep(Self.settling)

        self.progress("they are idle for \(self.idle.nanoseconds / 60_000_000_000) minutes")
        let requestsBefore = await Self.requests(fleet.nodes)
        traffic.reset()
        try await simulation.sleep(self.idle)
        let perNodeAndHour = 3.6e12 / Double(self.idle.nanoseconds) / Double(self.nodes)
        report.bytesPerHour = Double(traffic.bytes) * perNodeAndHour
        report.packetsPerHour = Double(traffic.packets) * perNodeAndHour
        report.requestsToDHTPerHour = Double(await Self.requests(fleet.nodes) - requestsBefore) * perNodeAndHour
        let connections = fleet.nodes.map { $0.host.connections.count }.reduce(0, +)
        report.connectionsPerNode = Double(connections) / Double(self.nodes)
        report.memoryPerNode = (Self.memoryInUse() - memoryBefore) / self.nodes
        report.relayConnections = fleet.relays[0].member.host.connections.count

        self.progress("\(self.pairs) pairs have flows")
        let pairs = (0..<self.pairs).map { index in
            (
                fleet.nodes[index * self.nodes / self.pairs],
                fleet.nodes[(index * self.nodes / self.pairs + self.nodes / 2) % self.nodes]
            )
        }
        for (one, other) in pairs {
            _ = try await one.connection(to: other.name, deadline: loop.now + .seconds(30)).get()
        }
        // Holes are punched, where they can be.
        try await simulation.sleep(.seconds(30))
        let kinds = pairs.map { $0.paths[$1.name]?.kind }
        report.pairsRelayed = kinds.count { $0 == .relayed }
        report.pairsDirect = kinds.count { $0 == .punched || $0 == .direct }

        self.progress("the relay that all use loses its power")
        let dead = fleet.relays[0]
        dead.machine.isAsleep = true
        let living = min(Self.reservations, self.relays - 1)
        async let reserved = Self.time(simulation, atMost: .minutes(5)) {
            fleet.nodes.allSatisfy { $0.relays.subtracting([dead.member.host.peerID]).count >= living }
        }
        async let reachable = Self.time(simulation, atMost: .minutes(5)) {
            pairs.allSatisfy { one, other in
                guard let path = one.paths[other.name] else { return false }
                return path.state == .up && path.relay != dead.member.name
            }
        }
        (report.reserved, report.reachable) = (try await reserved, try await reachable)
        for (one, other) in pairs {
            // Of the next site's, both.
            guard
                let stranger = fleet.nodes.first(where: {
                    one.paths[$0.name] == nil && $0.name != one.name && $0.name != other.name
                })
            else { continue }
            let connection = try? await one.connection(to: stranger.name, deadline: loop.now + .seconds(30)).get()
            if connection != nil { report.strangersReached += 1 }
        }
        report.events = loop.jobsRun
        self.progress("they stop")
        for member in fleet.nodes + fleet.relays.map(\.member) { await member.stop(deadline: loop.now) }
        return report
    }

    private static func requests(_ nodes: [MeshMember]) async -> UInt64 {
        var all: UInt64 = 0
        for node in nodes { all += await node.requestsToDHT() }
        return all
    }

    /// How long it takes until it is so.
    private static func time(
        _ simulation: Simulation,
        atMost bound: TimeAmount,
        until condition: () -> Bool
    ) async throws -> TimeAmount? {
        let begin = simulation.loop.now
        try await simulation.wait(atMost: bound, asking: Self.step, until: condition)
        return condition() ? simulation.loop.now - begin : nil
    }

    private static func memoryInUse() -> Int {
        Int(clinux_allocated_bytes())
    }
}

/// What passes the cables of nodes, which all have private addresses. Confined to the simulation's loop.
private final class Traffic: Sendable {
    private let sums = Mutex((packets: 0, bytes: 0))
    private static let inside: CIDR = "10.0.0.0/8"

    var packets: Int { self.sums.withLock { $0.packets } }
    var bytes: Int { self.sums.withLock { $0.bytes } }

    func reset() { self.sums.withLock { $0 = (0, 0) } }

    func add(_ packet: Packet, _ fate: PacketFate) {
        guard fate == .delivered,
            Self.inside.contains(packet.source.address) || Self.inside.contains(packet.destination.address)
        else { return }
        self.sums.withLock { $0 = ($0.packets + 1, $0.bytes + packet.size) }
    }
}
