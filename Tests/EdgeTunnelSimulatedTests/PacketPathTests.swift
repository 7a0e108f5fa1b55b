import LibP2P
import MeshInterfaces
import NIOCore
import NetSim
import Synchronization
import Testing

@testable import EdgeTunnel

/// Where the channels of packets lie, on virtual time.
@Suite
struct PacketPathTests {
    private static let link = Link(delay: .milliseconds(10))

    private static func open(_ one: SimulatedNode, _ two: SimulatedNode) async throws -> PacketChannel {
        let loop = one.machine.simulation.loop
        return try await one.mesh.openPackets(to: two.name, on: loop, deadline: loop.now + .seconds(30)).get()
    }

    /// Takes packets of a node that it knows, as its catalog would have told it.
    private static func take(at two: SimulatedNode, from one: SimulatedNode) {
        two.mesh.surroundings.packets.set { _ in }
        _ = two.mesh.directory.peer(of: one.name)
    }

    @Test("a channel that began by a relay is told of the punched path, which the next one takes")
    func punched() throws {
        try withSimulation(seed: 31, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 1, holePunching: true)
            let (one, two) = (world.one, world.two)
            Self.take(at: two, from: one)
            try simulation.run {
                for node in world.all { try await node.start() }
                try await simulation.pause(.seconds(2))
                let first = try await Self.open(one, two)
                #expect(one.path(to: two)?.kind == .relayed)
                let told = try await first.channel.countMoves()
                #expect(try await simulation.wait(atMost: .seconds(10)) { one.path(to: two)?.kind == .punched })
                #expect(try await simulation.wait(atMost: .seconds(1)) { told.value == 1 })
                let second = try await Self.open(one, two)
                #expect(first.channel.parent !== second.channel.parent)
                #expect(first.channel.isActive, "it is for its owner to end it")
                let again = try await second.channel.countMoves()
                try await simulation.pause(.seconds(30))
                #expect(told.value == 1 && again.value == 0)
                #expect(one.mesh.packetChannels.moves == 1)
                await SimulatedNode.stop(world.all)
            }
        }
    }

    @Test("a channel by a relay that dies is told of the way by another one")
    func relays() throws {
        try withSimulation(seed: 32, link: Self.link) { simulation in
            let world = try RelayedNodes(simulation, relays: 2)
            Self.take(at: world.two, from: world.one)
            try simulation.run {
                for node in world.all { try await node.start() }
                try await simulation.pause(.seconds(2))
                let first = try await Self.open(world.one, world.two)
                // Its relay takes part no more, and nobody is told: packets are lost until the silence shows.
                let told = try await first.channel.countMoves()
                world.relays[0].machine.interfaces[0].isUp = false
                for _ in 0..<100 {
                    first.channel.writeAndFlush(ByteBuffer(repeating: 0, count: 100), promise: nil)
                    try await simulation.pause(.milliseconds(100))
                    guard first.channel.isActive, told.value == 0 else { break }
                }
                let second = try await Self.open(world.one, world.two)
                #expect(first.channel.parent !== second.channel.parent)
                #expect(world.one.path(to: world.two)?.relay == "relay-1")
                await SimulatedNode.stop(world.all)
            }
        }
    }
}

extension Channel {
    /// How often `ChannelShouldQuiesceEvent` has passed, from now on.
    fileprivate func countMoves() async throws -> MoveCount {
        let count = MoveCount()
        try await self.eventLoop.submit {
            try self.pipeline.syncOperations.addHandler(MoveCounter(count))
        }.get()
        return count
    }
}

private final class MoveCount: Sendable {
    private let count = Mutex(0)

    var value: Int { self.count.withLock { $0 } }
    func add() { self.count.withLock { $0 += 1 } }
}

private final class MoveCounter: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let count: MoveCount

    init(_ count: MoveCount) { self.count = count }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent { self.count.add() }
    }
}
