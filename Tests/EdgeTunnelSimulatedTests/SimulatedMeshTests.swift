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

    @Test("a node that restarts is down at once and back at once")
    func restart() throws {
        try withSimulation(seed: 2, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
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
                await SimulatedNode.stop([one, again])
            }
        }
    }

    @Test("when the process of the relay in use dies, another one carries on within three seconds")
    func relayCrash() throws {
        try withSimulation(seed: 4, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 2)
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
                await SimulatedNode.stop(Array(world.all.dropFirst()))
            }
        }
    }

    @Test("a node whose address changes has its path and its relays back in seconds")
    func roaming() throws {
        try withSimulation(seed: 5, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 1)
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
                await SimulatedNode.stop(world.all)
            }
        }
    }

    @Test("who calls a node whose address changes has another way to it long before the liveness timeout")
    func calledNodeRoams() throws {
        try withSimulation(seed: 9, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 1)
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
                await SimulatedNode.stop(world.all)
            }
        }
    }

    @Test("a node with a new key is that peer alone; the old key is not let in again")
    func rotation() throws {
        try withSimulation(seed: 6, link: Self.link) { simulation in
            let old = try KeyPair(ed25519Seed: [UInt8](repeating: 1, count: 32))
            let new = try KeyPair(ed25519Seed: [UInt8](repeating: 2, count: 32))
            let (one, two) = try SimulatedNode.pair(simulation, identity: old)
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
                await SimulatedNode.stop([one, again])
            }
        }
    }

    @Test("a node becomes a relay and ceases to be one as the configuration has it")
    func becomingRelay() throws {
        try withSimulation(seed: 7, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
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
                await SimulatedNode.stop([one, two])
            }
        }
    }

    @Test("a connection that is not used costs little: under 100 KB an hour, and no probes")
    func idle() throws {
        try withSimulation(seed: 8, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
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
            try simulation.run { await SimulatedNode.stop([one, two]) }
        }
    }
}
