import LibP2PTesting
import Multiformats
import NIOCore
import NetSim
import Testing

@Suite struct SimulatedTransportTests {
    /// The suite that all transports pass; here on virtual time, and with the simulation's odds.
    @Test(arguments: TransportConformance.Check.allCases, [Link.wire, Link(jitter: .milliseconds(10), loss: 0.02)])
    func conformance(_ check: TransportConformance.Check, _ link: Link) throws {
        try withSimulation(seed: 5, link: link) { simulation in
            let (one, other) = simulation.twoMachines()
            let suite = TransportConformance(
                dialer: SimulatedTransport(one),
                listener: SimulatedTransport(other),
                listenAddress: try Multiaddr("/ip4/203.0.113.2/tcp/0"),
                foreignAddress: try Multiaddr("/ip4/203.0.113.2/tcp/80/ws"),
                group: simulation.loop
            )
            try simulation.run { try await suite.run(check) }
        }
    }
}
