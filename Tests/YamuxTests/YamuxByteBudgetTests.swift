import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// What the sessions of a host may hold together, and who pays for it.
@Suite struct YamuxByteBudgetTests {
    /// What one frame of the tests costs: its payload in a buffer of the next power of two.
    private static let unit = 65_536 + YamuxStreamChannel.readOverhead
    private let budget = YamuxByteBudget(.unread, maximumBytes: 16 * Self.unit)

    /// A peer with as many open streams, which this side reads only where `reads` says so.
    private func peer(streams: Int, reads: Bool = false, isTrusted: Bool = false) throws -> RawPeer {
        var configuration = YamuxConfiguration()
        configuration.unreadBudget = self.budget
        let peer = try RawPeer(
            configuration: configuration,
            setUp: { if !reads { withoutAutoRead($0, $1) } },
            isTrusted: isTrusted
        )
        for stream in 0..<streams { try peer.send(.update(Self.id(stream), .syn)) }
        return peer
    }

    private static func id(_ stream: Int) -> UInt32 { UInt32(2 * stream + 1) }

    /// Sends so many frames, at most four on each stream, as windows allow.
    private func fill(_ peer: RawPeer, units: Int, from first: Int = 0) throws {
        let payload = [UInt8](repeating: 1, count: 60_000)
        for unit in first..<(first + units) { try peer.send(.data(Self.id(unit / 4), payload)) }
    }

    private func resets(_ peer: RawPeer) -> Int {
        peer.side.inbound.value.filter { $0.errorCode == .limitExceeded }.count
    }

    @Test func windowsCeaseToGrowWhenHalfIsUsed() throws {
        let reader = try self.peer(streams: 2, reads: true)
        reader.loop.advanceTime(by: .milliseconds(10))
        try reader.send(.ping(0, .ack))
        let half = [UInt8](repeating: 1, count: 128 * 1024)
        #expect(try reader.send(.data(1, half)) == [.update(1, [], 384 * 1024)])
        let hoarder = try self.peer(streams: 2)
        try self.fill(hoarder, units: 8)
        #expect(self.budget.metrics.bytes == 8 * Self.unit)
        #expect(try reader.send(.data(3, half)) == [.update(3, [], 128 * 1024)])
        #expect(self.budget.metrics.growthsDenied == 1)
        #expect(self.budget.metrics.streamsRefused == 0)
    }

    @Test func whoHoldsMostOpensNoStreamsWhenThreeQuartersAreUsed() throws {
        let hoarder = try self.peer(streams: 3)
        let modest = try self.peer(streams: 1)
        let reader = try self.peer(streams: 0, reads: true)
        try self.fill(modest, units: 1)
        try self.fill(hoarder, units: 11)
        #expect(try hoarder.send(.update(99, .syn)) == [.update(99, .rst)])
        #expect(try modest.send(.update(99, .syn)) == [.update(99, .ack)])
        #expect(try reader.send(.update(99, .syn)) == [.update(99, .ack)])
        #expect(self.budget.metrics.streamsRefused == 1)
        #expect(self.resets(hoarder) == 0)
        // Less is held, and all is well again.
        try hoarder.send(.update(1, .rst))
        #expect(self.budget.metrics.bytes == 8 * Self.unit)
        #expect(try hoarder.send(.update(101, .syn)) == [.update(101, .ack)])
        for peer in [hoarder, modest, reader] { #expect(peer.side.closed.value.isEmpty) }
    }

    @Test func whoHoldsMostLosesAStreamWhenAllIsUsed() throws {
        let modest = try self.peer(streams: 1)
        try self.fill(modest, units: 1)
        let hoarder = try self.peer(streams: 5)
        try self.fill(hoarder, units: 15)
        #expect(self.budget.metrics.bytes == 16 * Self.unit)
        #expect(self.budget.metrics.streamsReset == 0)
        // Whoever brings it over the bound.
        try self.fill(modest, units: 1, from: 1)
        #expect(hoarder.side.handler.openStreams == 5)
        hoarder.loop.run()
        #expect(self.resets(hoarder) == 1)
        #expect(self.resets(modest) == 0)
        #expect(self.budget.metrics.streamsReset == 1)
        #expect(self.budget.metrics.bytes == 13 * Self.unit)
        #expect(try hoarder.send().map(\.header.flags) == [.rst])
        for peer in [hoarder, modest] { try peer.side.channel.close().wait() }
        #expect(self.budget.metrics.bytes == 0)
    }

    @Test func whoIsTrustedIsSparedWhileOthersHoldSomething() throws {
        let trusted = try self.peer(streams: 5, isTrusted: true)
        try self.fill(trusted, units: 15)
        #expect(try trusted.send(.update(99, .syn)) == [.update(99, .ack)], "although it holds the most")
        let stranger = try self.peer(streams: 1)
        try self.fill(stranger, units: 2)
        trusted.loop.run()
        stranger.loop.run()
        #expect(self.resets(trusted) == 0)
        #expect(self.resets(stranger) == 1)
        #expect(self.budget.metrics.bytes == 15 * Self.unit)
        // The bound holds all the same.
        try self.fill(trusted, units: 2, from: 15)
        trusted.loop.run()
        #expect(self.resets(trusted) == 1)
        #expect(self.budget.metrics.bytes == 13 * Self.unit)
    }
}
