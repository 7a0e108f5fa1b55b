import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// What may wait to be sent in all sessions of a host together, and who pays for it.
@Suite struct YamuxUnsentBudgetTests {
    private static let kibibyte = 1024
    private let budget = YamuxByteBudget(.unsent, maximumBytes: 1024 * Self.kibibyte)

    /// A peer whose connection takes nothing, unless it is told to.
    private func peer(isTrusted: Bool = false) throws -> RawPeer {
        var configuration = YamuxConfiguration()
        configuration.unsentBudget = self.budget
        let peer = try RawPeer(.client, configuration: configuration, isTrusted: isTrusted)
        _ = try peer.send()
        peer.side.channel.isWritable = false
        return peer
    }

    private func takeAll(_ peer: RawPeer) throws {
        peer.side.channel.isWritable = true
        peer.side.channel.pipeline.fireChannelWritabilityChanged()
        _ = try peer.send()
    }

    /// Writes so many pieces of 32 KiB; gives back the error of the first that fails.
    @discardableResult
    private func write(_ stream: StreamRecorder, pieces: Int) -> YamuxError? {
        var failure: YamuxError?
        for _ in 0..<pieces {
            stream.channel?.writeAndFlush(ByteBuffer(repeating: 1, count: 32 * Self.kibibyte)).assumeIsolated()
                .whenFailure { failure = failure ?? $0 as? YamuxError }
        }
        return failure
    }

    @Test func whatIsSentAtOnceIsNotCounted() throws {
        let peer = try self.peer()
        let stream = try peer.side.open()
        try self.takeAll(peer)
        for size in [1, 3000, 5000, 100_000] {
            stream.write([UInt8](repeating: 1, count: size))
            _ = try peer.send()
            #expect(self.budget.metrics.bytes == 0)
        }
        peer.side.channel.isWritable = false
        // Less than a page stays untold.
        stream.write([UInt8](repeating: 1, count: YamuxHandler.uncountedUnsentBytes - 1))
        #expect(self.budget.metrics.bytes == 0)
        stream.write([1])
        #expect(self.budget.metrics.bytes == YamuxHandler.uncountedUnsentBytes)
        stream.channel?.close(promise: nil)
        try peer.side.channel.close().wait()
        #expect(self.budget.metrics == YamuxByteBudget.Metrics())
    }

    @Test func streamsAreWritableWithLittleWhenHalfIsUsed() throws {
        let hoarder = try self.peer()
        let streams = try (0..<16).map { _ in try hoarder.side.open() }
        let other = try self.peer()
        let stream = try other.side.open()
        let most = [UInt8](repeating: 1, count: YamuxStreamChannel.tightHighWaterMark)
        stream.write(most + [1])
        #expect(stream.channel?.isWritable == true, "as there is much room")
        for stream in streams { self.write(stream, pieces: 1) }
        stream.write([1])
        #expect(stream.channel?.isWritable == false)
        #expect(streams.dropLast().allSatisfy { $0.channel?.isWritable == true })
        // Its connection takes bytes, and it may write again, though the others still hold what they held.
        try self.takeAll(other)
        #expect(stream.channel?.isWritable == true)
        #expect(self.budget.metrics.bytes == 512 * Self.kibibyte)
        other.side.channel.isWritable = false
        stream.write(most)
        #expect(stream.channel?.isWritable == true)
        stream.write([1])
        #expect(stream.channel?.isWritable == false)
        try self.takeAll(hoarder)
        try self.takeAll(other)
        #expect((streams + [stream]).allSatisfy { $0.channel?.isWritable == true })
        #expect(self.budget.metrics == YamuxByteBudget.Metrics())
    }

    @Test func whoHoldsMostFailsToWriteAndLosesAStreamWhenAllIsUsed() throws {
        let hoarder = try self.peer()
        let modest = try self.peer()
        let (small, large) = (try hoarder.side.open(), try hoarder.side.open())
        let stream = try modest.side.open()
        #expect(self.write(stream, pieces: 1) == nil)
        #expect(self.write(small, pieces: 11) == nil)
        #expect(self.write(large, pieces: 20) == nil)
        #expect(self.budget.metrics.bytes == self.budget.maximumBytes)
        #expect(self.write(small, pieces: 1)?.code == .limitExceeded)
        #expect(self.budget.metrics.writesFailed == 1 && self.budget.metrics.streamsReset == 0)
        // Others have their turn, at the cost of who holds the most.
        #expect(self.write(stream, pieces: 1) == nil)
        hoarder.loop.run()
        #expect(large.errorCode == .limitExceeded)
        #expect(small.errors.isEmpty && stream.errors.isEmpty)
        #expect(self.budget.metrics.bytes == 13 * 32 * Self.kibibyte)
        #expect(self.budget.metrics.writesFailed == 1 && self.budget.metrics.streamsReset == 1)
        for peer in [hoarder, modest] {
            #expect(peer.side.closed.value.isEmpty)
            try peer.side.channel.close().wait()
        }
        #expect(self.budget.metrics.bytes == 0)
    }

    @Test func whoIsTrustedIsSparedWhileOthersHoldSomething() throws {
        let trusted = try self.peer(isTrusted: true)
        let stranger = try self.peer()
        let streams = try (0..<2).map { _ in try trusted.side.open() }
        let stream = try stranger.side.open()
        #expect(self.write(streams[0], pieces: 30) == nil)
        #expect(self.write(stream, pieces: 2) == nil)
        #expect(self.write(streams[1], pieces: 1) == nil, "although it holds the most")
        trusted.loop.run()
        stranger.loop.run()
        #expect(stream.errorCode == .limitExceeded)
        #expect(streams.allSatisfy { $0.errors.isEmpty })
        // The bound holds all the same.
        #expect(self.write(streams[1], pieces: 2) == nil)
        trusted.loop.run()
        #expect(streams[0].errorCode == .limitExceeded)
        #expect(self.budget.metrics.bytes == 3 * 32 * Self.kibibyte)
        #expect(self.budget.metrics.writesFailed == 0 && self.budget.metrics.streamsReset == 2)
    }
}
