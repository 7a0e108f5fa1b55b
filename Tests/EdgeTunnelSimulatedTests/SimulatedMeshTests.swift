import LibP2P
import LibP2PRelay
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import NetSim
import PeerIdentity
import Synchronization
import Testing

@testable import EdgeTunnel

/// Whole nodes of the mesh on virtual time.
@Suite
struct SimulatedMeshTests {
    private static let link = Link(delay: .milliseconds(10))

    /// Two nodes of the internet that know each other.
    private static func pair(
        _ simulation: Simulation,
        identity: KeyPair? = nil
    ) throws -> (SimulatedNode, SimulatedNode) {
        let nodes = try ["one", "two"].enumerated().map { index, name in
            let machine = simulation.machine(name)
            machine.attach(to: simulation.internet, CIDR("31.0.0.0/24").host(UInt32(index + 1)))
            return try SimulatedNode(name, on: machine, identity: index == 1 ? identity : nil)
        }
        return (nodes[0], nodes[1])
    }

    /// Two nodes behind NATs, and relays in the internet.
    private struct Relayed {
        let relays: [SimulatedNode]
        let one: SimulatedNode
        let two: SimulatedNode
        var all: [SimulatedNode] { self.relays + [self.one, self.two] }

        init(_ simulation: Simulation, relays count: Int) throws {
            let names = (0..<count).map { "relay-\($0)" }
            let hosts = (0..<count).map { IPv4Address(31, 0, 0, UInt8($0 + 1)) }
            let known = zip(names, hosts).map { TunnelSettings.Relay($0, at: $1) }
            self.relays = try zip(names, hosts).enumerated().map { index, relay in
                let machine = simulation.machine(relay.0)
                let far = Link(delay: .milliseconds(Int64(10 * (index + 1))))
                machine.attach(to: simulation.internet, .v4(relay.1), link: far)
                return try SimulatedNode(relay.0, on: machine, relays: known)
            }
            let homes = [1, 2].map { number in
                simulation.home(
                    "home-\(number)",
                    NATBehavior(),
                    inside: "10.0.0.0/24",
                    outside: CIDR("31.0.1.0/24").host(UInt32(number))
                )
            }
            self.one = try SimulatedNode("one", on: homes[0].machine("one", 2, in: simulation), relays: known) {
                $0.holePunching = false
            }
            self.two = try SimulatedNode("two", on: homes[1].machine("two", 3, in: simulation), relays: known) {
                $0.holePunching = false
            }
        }
    }

    private static func stop(_ nodes: [SimulatedNode]) async {
        for node in nodes { await node.stop() }
    }

    @Test(
        "a node that is cut off is known to be down within the liveness timeout and an interval, and is back when it is"
    )
    func partition() throws {
        try withSimulation(seed: 1, link: Self.link) { simulation in
            let (one, two) = try Self.pair(simulation)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.find(two)
                _ = try await one.use(two)
                try await simulation.pause(.seconds(2))
                #expect(one.path(to: two)?.state == .up && one.path(to: two)?.kind == .direct)
                simulation.internet.cut([one.machine], from: [two.machine])
                let cut = simulation.loop.now
                #expect(try await simulation.wait(atMost: .seconds(20)) { one.unreachable == ["two"] })
                #expect(simulation.loop.now - cut <= .seconds(17), "\((simulation.loop.now - cut).inSeconds) s")
                #expect(one.path(to: two)?.state == .down && one.path(to: two)?.problem != nil)
                await #expect(throws: TunnelError.self) { try await one.use(two) }
                simulation.internet.heal()
                #expect(try await simulation.wait(atMost: .seconds(55)) { one.path(to: two)?.state == .up })
                #expect(one.unreachable.isEmpty)
                await Self.stop([one, two])
            }
        }
    }

    @Test("a node that restarts is down at once and back at once")
    func restart() throws {
        try withSimulation(seed: 2, link: Self.link) { simulation in
            let (one, two) = try Self.pair(simulation)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.find(two)
                _ = try await one.use(two)
                await two.stop()
                #expect(try await simulation.wait(atMost: .seconds(3)) { one.unreachable == ["two"] })
                let again = try SimulatedNode("two", on: two.machine)
                try await again.start()
                again.find(one)
                // It comes to us.
                _ = try await again.use(one)
                #expect(try await simulation.wait(atMost: .milliseconds(100)) { one.path(to: two)?.state == .up })
                #expect(try await simulation.wait(atMost: .milliseconds(100)) { one.unreachable.isEmpty })
                await Self.stop([one, again])
            }
        }
    }

    @Test("reservations are there within two seconds, and when the relay in use loses its power another one carries on")
    func relayFailover() throws {
        try withSimulation(seed: 3, link: Self.link) { simulation in
            let world = try Relayed(simulation, relays: 2)
            try simulation.run {
                for relay in world.relays { try await relay.start() }
                let start = simulation.loop.now
                for node in [world.one, world.two] { try await node.start() }
                #expect(
                    try await simulation.wait(atMost: .seconds(5)) {
                        world.one.mesh.relayClient.reservations.count == 2
                            && world.two.mesh.relayClient.reservations.count == 2
                    }
                )
                #expect(simulation.loop.now - start <= .seconds(2))
                _ = try await world.one.use(world.two)
                try await simulation.pause(.seconds(1))
                let path = try #require(world.one.path(to: world.two))
                #expect(path.state == .up && path.kind == .relayed && path.relay == "relay-0")
                world.relays[0].machine.isAsleep = true
                let lost = simulation.loop.now
                #expect(
                    try await simulation.wait(atMost: .seconds(30)) {
                        world.one.path(to: world.two)?.relay == "relay-1"
                    }
                )
                #expect(simulation.loop.now - lost <= .seconds(20), "\((simulation.loop.now - lost).inSeconds) s")
                #expect(world.one.path(to: world.two)?.state == .up)
                world.relays[0].machine.isAsleep = false
                await Self.stop(world.all)
            }
        }
    }

    @Test("when the process of the relay in use dies, another one carries on within three seconds")
    func relayCrash() throws {
        try withSimulation(seed: 4, link: Self.link) { simulation in
            let world = try Relayed(simulation, relays: 2)
            try simulation.run {
                for node in world.all { try await node.start() }
                try await simulation.pause(.seconds(2))
                _ = try await world.one.use(world.two)
                await world.relays[0].stop()
                let lost = simulation.loop.now
                #expect(
                    try await simulation.wait(atMost: .seconds(10)) {
                        world.one.path(to: world.two)?.relay == "relay-1"
                    }
                )
                #expect(simulation.loop.now - lost <= .seconds(3), "\((simulation.loop.now - lost).inSeconds) s")
                await Self.stop(Array(world.all.dropFirst()))
            }
        }
    }

    @Test("a node whose address changes has its path and its relays back in seconds")
    func roaming() throws {
        try withSimulation(seed: 5, link: Self.link) { simulation in
            let world = try Relayed(simulation, relays: 1)
            try simulation.run {
                for node in world.all { try await node.start() }
                try await simulation.pause(.seconds(2))
                _ = try await world.one.use(world.two)
                let interface = world.one.machine.interfaces[0]
                interface.remove("10.0.0.2")
                interface.add("10.0.0.9")
                let moved = simulation.loop.now
                world.one.mesh.networkChanged()
                #expect(world.one.mesh.paths.counters.connectionsGivenUp > 0)
                #expect(
                    try await simulation.wait(atMost: .seconds(10)) {
                        world.one.path(to: world.two)?.state == .up && !world.one.mesh.relayClient.reservations.isEmpty
                    }
                )
                #expect(simulation.loop.now - moved <= .seconds(5), "\((simulation.loop.now - moved).inSeconds) s")
                await Self.stop(world.all)
            }
        }
    }

    @Test("who calls a node whose address changes has another way to it long before the liveness timeout")
    func calledNodeRoams() throws {
        try withSimulation(seed: 9, link: Self.link) { simulation in
            let world = try Relayed(simulation, relays: 1)
            try simulation.run {
                for node in world.all { try await node.start() }
                try await simulation.pause(.seconds(2))
                let former = try await world.two.use(world.one)
                _ = try await world.one.use(world.two)
                // Long enough for both to look after the connection.
                try await simulation.pause(.seconds(7))
                let interface = world.one.machine.interfaces[0]
                interface.remove("10.0.0.2")
                interface.add("10.0.0.9")
                let moved = simulation.loop.now
                world.one.mesh.networkChanged()
                #expect(
                    try await simulation.wait(atMost: .seconds(20)) {
                        let best = world.two.host.bestConnection(to: world.one.host.peerID)
                        return best.map { $0 != former } ?? false
                    }
                )
                #expect(simulation.loop.now - moved <= .seconds(6), "\((simulation.loop.now - moved).inSeconds) s")
                await Self.stop(world.all)
            }
        }
    }

    @Test("a node with a new key is that peer alone; the old key is not let in again")
    func rotation() throws {
        try withSimulation(seed: 6, link: Self.link) { simulation in
            let old = try KeyPair(ed25519Seed: [UInt8](repeating: 1, count: 32))
            let new = try KeyPair(ed25519Seed: [UInt8](repeating: 2, count: 32))
            let (one, two) = try Self.pair(simulation, identity: old)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.learn(["two": old.peerID])
                two.learn(["one": nil])
                one.find(two)
                try await simulation.pause(.milliseconds(100))
                _ = try await one.use(two)
                #expect(one.path(to: two)?.state == .up && one.path(to: two)?.peer == old.peerID.description)
                one.learn(["two": new.peerID])
                #expect(try await simulation.wait(atMost: .seconds(1)) { one.host.connections(to: old.peerID).isEmpty })
                #expect(one.path(to: two) == nil)
                two.find(one)
                _ = try? await two.use(one)
                try await simulation.pause(.seconds(1))
                #expect(one.host.connections(to: old.peerID).isEmpty)
                await two.stop()
                let again = try SimulatedNode("two", on: two.machine, identity: new)
                try await again.start()
                again.find(one)
                _ = try await again.use(one)
                #expect(try await simulation.wait(atMost: .seconds(1)) { one.path(to: two)?.state == .up })
                #expect(one.path(to: two)?.peer == new.peerID.description)
                await Self.stop([one, again])
            }
        }
    }

    @Test("a node becomes a relay and ceases to be one as the configuration has it")
    func becomingRelay() throws {
        try withSimulation(seed: 7, link: Self.link) { simulation in
            let (one, two) = try Self.pair(simulation)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                var settings = one.mesh.settings
                settings.relays = [TunnelSettings.Relay("two", at: IPv4Address(31, 0, 0, 2))]
                one.mesh.update(settings)
                try await simulation.pause(.seconds(5))
                #expect(one.mesh.relayClient.reservations.isEmpty)
                two.mesh.update(settings)
                #expect(
                    try await simulation.wait(atMost: .seconds(30)) { one.mesh.relayClient.reservations.count == 1 }
                )
                settings.relays = []
                two.mesh.update(settings)
                one.mesh.update(settings)
                #expect(
                    try await simulation.wait(atMost: .seconds(5)) { one.mesh.relayClient.reservations.isEmpty }
                )
                #expect(!two.host.protocols.contains(RelayBook.hopProtocol))
                await Self.stop([one, two])
            }
        }
    }

    @Test("a connection that is not used costs little: under 100 KB an hour, and no probes")
    func idle() throws {
        try withSimulation(seed: 8, link: Self.link) { simulation in
            let (one, two) = try Self.pair(simulation)
            let bytes = Mutex(0)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.find(two)
                _ = try await one.host.connect(to: two.host.peerID)
                try await simulation.pause(.minutes(5))
            }
            simulation.observer = { _, packet, _ in bytes.withLock { $0 += packet.size } }
            try simulation.run(for: .hours(1))
            let total = bytes.withLock { $0 }
            print("an idle connection: \(total) bytes an hour, both ways")
            #expect(one.mesh.paths.counters.probesSent == 0 && two.mesh.paths.counters.probesSent == 0)
            #expect(total > 0 && total < 100_000, "\(total) bytes")
            try simulation.run { await Self.stop([one, two]) }
        }
    }
}
