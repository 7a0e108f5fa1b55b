import LibP2P
import LibP2PRelay
import MeshCore
import MeshInterfaces
import NIOCore
import NetSim
import Synchronization
import Testing

@testable import EdgeTunnel

/// How long nodes do without each other when something on their way is lost without a word, on virtual time.
///
/// The theory, with the defaults: who owes an answer is asked after a second of silence and doubted half a second later (1.5 s),
/// and the next way is dialled at once; its handshakes have the rest of the budget of three seconds. A node to which nothing was
/// sent is asked after ten seconds and doubted after 10.5. In either case it is down when no other way has answered in two more.
/// One that is down is dialled for four seconds at a time, now and then for ten, with pauses of at most two; SYNs leave after 0,
/// 1, 3 and 7 seconds of a dial, so that after the return of the network at most four seconds of a long dial, or a pause of two,
/// pass until the next one, and the handshakes are done within one more.
@Suite
struct RecoveryTests {
    private static let link = Link(delay: .milliseconds(10))
    private static let budget = TimeAmount.seconds(3)

    @Test(
        "reservations are there within two seconds, and when the relay in use loses its power another one carries on in three"
    )
    func relayFailover() throws {
        try withSimulation(seed: 3, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 2)
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
                let calls = Calls(from: world.one, to: world.two)
                try await simulation.pause(.seconds(5))
                let path = try #require(world.one.path(to: world.two))
                #expect(path.state == .up && path.kind == .relayed && path.relay == "relay-0")
                #expect(calls.lost == 0)
                world.relays[0].machine.isAsleep = true
                let lost = simulation.loop.now
                try await simulation.pause(.seconds(20))
                calls.stop()
                try await simulation.pause(Calls.timeout)
                let gap = try #require(calls.firstAnswer(after: lost)) - lost
                print("a relay loses its power: a call is answered after \(gap.inSeconds) s, \(calls.lost) are lost")
                #expect(gap <= Self.budget, "\(gap.inSeconds) s")
                // Those that began while the path was not doubted yet, and those on their way.
                #expect(calls.lost <= Int(Self.budget.nanoseconds / Calls.pace.nanoseconds), "\(calls.lost)")
                #expect(world.one.path(to: world.two)?.relay == "relay-1")
                world.relays[0].machine.isAsleep = false
                await SimulatedNode.stop(world.all)
            }
        }
    }

    @Test(
        "a node that is cut off is known to be down, soon if somebody calls it, and is back in five seconds when it is",
        arguments: [(1, 14, false), (11, 20, false), (12, 61, false), (13, 9, true), (14, 12, true), (15, 200, true)]
            as [(UInt64, Int64, Bool)]
    )
    func partition(seed: UInt64, outage: Int64, isCalled: Bool) throws {
        try withSimulation(seed: seed, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.find(two)
                _ = try await one.use(two)
                let calls = isCalled ? Calls(from: one, to: two) : nil
                try await simulation.pause(.seconds(2))
                #expect(one.path(to: two)?.state == .up && one.path(to: two)?.kind == .direct)
                simulation.internet.cut([one.machine], from: [two.machine])
                let cut = simulation.loop.now
                #expect(try await simulation.wait(atMost: .seconds(13)) { one.unreachable == ["two"] })
                // A round trip, as what was on its way may still have come.
                let bound = TimeAmount.milliseconds(isCalled ? 3540 : 12_540)
                #expect(simulation.loop.now - cut <= bound, "\((simulation.loop.now - cut).inSeconds) s")
                #expect(one.path(to: two)?.state == .down && one.path(to: two)?.problem != nil)
                calls?.stop()
                await #expect(throws: TunnelError.self) { try await one.use(two) }
                try await simulation.pause(.seconds(outage) - (simulation.loop.now - cut))
                simulation.internet.heal()
                let healed = simulation.loop.now
                #expect(try await simulation.wait(atMost: .seconds(30)) { one.path(to: two)?.state == .up })
                let gap = simulation.loop.now - healed
                print("a partition of \(outage) s heals: the path is back after \(gap.inSeconds) s")
                #expect(gap <= .seconds(5), "\(outage) s: \(gap.inSeconds) s")
                #expect(one.unreachable.isEmpty)
                await SimulatedNode.stop([one, two])
            }
        }
    }

    @Test(
        "a node whose uplink is dead for a while has its relayed path back in seconds once it is not",
        arguments: [8, 30, 100]
    )
    func uplink(outage: Int64) throws {
        try withSimulation(seed: UInt64(20 + outage), link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 2)
            try simulation.run {
                for node in world.all { try await node.start() }
                try await simulation.pause(.seconds(2))
                _ = try await world.one.use(world.two)
                let calls = Calls(from: world.one, to: world.two)
                try await simulation.pause(.seconds(2))
                world.one.machine.interfaces[0].isUp = false
                try await simulation.pause(.seconds(outage))
                world.one.machine.interfaces[0].isUp = true
                let healed = simulation.loop.now
                try await simulation.pause(.seconds(30))
                calls.stop()
                try await simulation.pause(Calls.timeout)
                let gap = try #require(calls.firstAnswer(after: healed)) - healed
                print("an uplink is back after \(outage) s: a call is answered after \(gap.inSeconds) s")
                #expect(gap <= .seconds(6), "\(gap.inSeconds) s")
                await SimulatedNode.stop(world.all)
            }
        }
    }

    @Test("a peer that is silent for a few seconds is avoided for so long, and keeps its connection and its flows")
    func stall() throws {
        try withSimulation(seed: 5, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.find(two)
                let connection = try await one.use(two)
                let calls = Calls(from: one, to: two)
                try await simulation.pause(.seconds(2))
                simulation.internet.cut([one.machine], from: [two.machine])
                #expect(try await simulation.wait(atMost: .seconds(3)) { connection.isSuspect })
                #expect(one.host.bestConnection(to: two.host.peerID) == nil)
                try await simulation.pause(.seconds(2))
                simulation.internet.heal()
                #expect(try await simulation.wait(atMost: .seconds(6)) { !connection.isSuspect })
                calls.stop()
                try await simulation.pause(Calls.timeout)
                #expect(connection.isOpen && one.mesh.paths.counters.connectionsGivenUp == 0)
                #expect(one.mesh.paths.counters.suspicions > 0)
                #expect(one.path(to: two)?.state == .up)
                await SimulatedNode.stop([one, two])
            }
        }
    }

    @Test(
        "what an hour costs: a node that has an open flow without traffic under 300 KB, one that is down under 500 KB"
    )
    func cost() throws {
        try withSimulation(seed: 8, link: Self.link) { simulation in
            let (one, two) = try SimulatedNode.pair(simulation)
            let bytes = Mutex(0)
            var total = 0
            func measure() throws -> Int {
                bytes.withLock { $0 = 0 }
                try simulation.run(for: .hours(1))
                return bytes.withLock { $0 }
            }
            try simulation.run {
                for node in [one, two] { try await node.start() }
                one.find(two)
                let connection = try await one.use(two)
                _ = try await connection.openStream(protocols: [TunnelProtocol.discovery]).get()
                // A flow that nobody has anything to say on: its opening is not waited for.
                two.host.handle("/test/quiet") { $0.channel.eventLoop.makeSucceededVoidFuture() }
                _ = try await connection.openStream(protocols: ["/test/quiet"]).get()
                try await simulation.pause(.minutes(6))
            }
            simulation.observer = { _, packet, _ in bytes.withLock { $0 += packet.size } }
            total = try measure()
            print("a quiet flow: \(total) bytes an hour, both ways; \(one.mesh.paths.counters.probesSent) probes")
            #expect(one.mesh.paths.counters.probesSent > 0 && total < 300_000, "\(total) bytes")
            try simulation.run {
                _ = try await one.use(two)
                simulation.internet.cut([one.machine], from: [two.machine])
            }
            total = try measure()
            #expect(one.path(to: two)?.state == .down)
            print("a node that is down: \(total) bytes an hour")
            #expect(total < 500_000, "\(total) bytes")
            try simulation.run { await SimulatedNode.stop([one, two]) }
        }
    }
}
