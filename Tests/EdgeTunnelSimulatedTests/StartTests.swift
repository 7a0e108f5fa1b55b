import LibP2P
import LibP2PRelay
import MeshCore
import MeshInterfaces
import NIOCore
import NetSim
import PeerIdentity
import Testing

@testable import EdgeTunnel

/// Nodes that start while others do not answer. Each test is named after a weak spot of v1.17, with its section in the report on
/// them; `TunnelDefects` lists all.
@Suite
struct StartTests {
    private static let link = Link(delay: .milliseconds(10))

    @Test("13.2 startup blocked 60 s by bootstrap: a node is up at once without its relay, and has it when it is there")
    func startupBlockedByBootstrap() throws {
        try withSimulation(seed: 30, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 1)
            try simulation.run {
                world.relays[0].machine.isAsleep = true
                let began = simulation.loop.now
                try await world.one.start()
                #expect(simulation.loop.now - began <= .milliseconds(100))
                try await simulation.pause(.minutes(5))
                world.relays[0].machine.isAsleep = false
                try await world.relays[0].start()
                let there = simulation.loop.now
                #expect(
                    try await simulation.wait(atMost: .minutes(2)) { !world.one.mesh.relayClient.reservations.isEmpty }
                )
                // A dial that is under way, and one pause.
                let gap = simulation.loop.now - there
                print("a relay is there at last: reserved after \(gap.inSeconds) s")
                #expect(gap <= .seconds(25), "\(gap.inSeconds) s")
                await SimulatedNode.stop([world.relays[0], world.one])
            }
        }
    }

    @Test("13.2 mDNS serial: a node that does not answer holds up the greeting of no other")
    func serialDiscovery() throws {
        try withSimulation(seed: 31, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                for number in 1...5 {
                    let silent = try KeyPair.derived(nodeName: "silent-\(number)").peerID
                    let address = TunnelSettings.Relay("", at: IPv4Address(31, 0, 9, UInt8(number)))
                    one.host.emit(
                        .discovered(
                            DiscoveredPeer(
                                peer: silent,
                                addresses: one.mesh.settings.addresses(of: address),
                                source: .mdns
                            )
                        )
                    )
                }
                one.host.emit(
                    .discovered(
                        DiscoveredPeer(peer: two.host.peerID, addresses: two.host.listenAddresses, source: .mdns)
                    )
                )
                #expect(try await simulation.wait(atMost: .seconds(1)) { one.mesh.greeter.counters.greeted == 1 })
                #expect(one.path(to: two)?.state == .up)
                await SimulatedNode.stop([one, two])
            }
        }
    }

    @Test("13.2 DHT discovery once: nodes that found nobody at their start meet when they can")
    func discoveryOnce() throws {
        try withSimulation(seed: 32, link: Self.link) { simulation in
            let nodes = try Self.nodes(["relay", "one", "two"], simulation)
            try simulation.run(within: .hours(2)) {
                try await nodes[1].start()
                try await simulation.pause(.minutes(5))
                for node in [nodes[0], nodes[2]] { try await node.start() }
                let began = simulation.loop.now
                let isMet = try await simulation.wait(atMost: .minutes(65)) {
                    nodes[1].host.bestConnection(to: nodes[2].host.peerID) != nil
                }
                print("nodes meet in the DHT after \((simulation.loop.now - began).inSeconds) s")
                #expect(isMet)
                await SimulatedNode.stop(nodes)
            }
        }
    }

    /// Nodes of the internet, of which the first one relays for the others.
    private static func nodes(
        _ names: [String],
        _ simulation: Simulation,
        _ configure: (inout TunnelSettings) -> Void = { _ in }
    ) throws -> [SimulatedNode] {
        let known = [TunnelSettings.Relay("relay", at: IPv4Address(31, 0, 0, 1))]
        return try names.enumerated().map { index, name in
            let machine = simulation.machine(name)
            machine.attach(to: simulation.internet, CIDR("31.0.0.0/24").host(UInt32(index + 1)))
            return try SimulatedNode(name, on: machine, relays: known) {
                if index == 0 { configure(&$0) }
            }
        }
    }

    @Test("13.3 relay resources: a relay serves as many nodes as it is made for, and refuses the next one by name")
    func relayAtItsLimit() throws {
        try withSimulation(seed: 33, link: Self.link) { simulation in
            let nodes = try Self.nodes(["relay", "one", "two", "three"], simulation) { $0.maximumNodes = 2 }
            try simulation.run {
                for node in nodes.prefix(3) { try await node.start() }
                try await simulation.pause(.seconds(3))
                #expect(nodes[1...2].allSatisfy { $0.mesh.relayClient.reservations.count == 1 })
                try await nodes[3].start()
                #expect(
                    try await simulation.wait(atMost: .seconds(10)) {
                        nodes[3].mesh.relayClient.metrics.reservationsRefused > 0
                    }
                )
                #expect(nodes[3].mesh.relayClient.reservations.isEmpty)
                #expect(nodes[1...2].allSatisfy { $0.mesh.relayClient.reservations.count == 1 })
                await nodes[1].stop()
                // Its place is free as soon as its connection has ended.
                #expect(
                    try await simulation.wait(atMost: .seconds(30)) {
                        nodes[3].mesh.relayClient.reservations.count == 1
                    }
                )
                await SimulatedNode.stop([nodes[0], nodes[2], nodes[3]])
            }
        }
    }
}
