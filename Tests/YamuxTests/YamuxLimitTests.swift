import MeshCore
import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// What a hostile or careless peer can cost.
@Suite struct YamuxLimitTests {
    @Test(
        arguments: [
            [.data(1, [])],
            [.update(1)],
            [.update(1, .rst)],
            [.update(2, .syn)],
            [.update(1, .syn), .update(1, .syn)],
            [.update(1, .syn), .update(1, [], .max - 1)],
            [.data(1, [1], [.syn, .fin]), .data(1, [2])],
            [Frame(header: .init(.data, .syn, streamID: 1, length: .max))],
            [Frame(header: .init(.data, .syn, streamID: 1, length: 256 * 1024 + 1))],
            [.update(1, .syn), Frame(header: .init(.data, streamID: 1, length: 256 * 1024 + 1))],
        ] as [[Frame]]
    )
    func hostileFramesEndTheSession(_ frames: [Frame]) throws {
        let peer = try RawPeer()
        var bytes = ByteBuffer()
        for frame in frames { bytes.writeImmutableBuffer(frame.bytes) }
        let answer = try peer.send(bytes)
        #expect(peer.failure == .protocolViolation)
        #expect(answer.last == .goAway(1))
        #expect(!peer.side.channel.isActive)
        #expect(peer.side.isEmpty)
    }

    @Test(
        arguments: [
            [.update(1, [.syn, .rst])],
            [.update(1, .syn), .update(1, .rst), .data(1, [1, 2, 3]), .update(1, .fin), .update(1, [], .max)],
            [.update(1, .syn), .update(1, .fin), .update(1, .fin), .update(1, [], 5)],
            [.update(7, .syn), .update(3, .syn), .update(5, .syn)],
            [.ping(5, .ack), .ping(6, [])],
            [.update(1, .syn), .data(1, [1], .init(rawValue: 0x8000))],
        ] as [[Frame]]
    )
    func oddFramesDoNot(_ frames: [Frame]) throws {
        let peer = try RawPeer()
        for frame in frames { try peer.send(frame) }
        #expect(peer.side.closed.value.isEmpty)
    }

    @Test func aPingFloodEndsTheSession() throws {
        let peer = try RawPeer()
        peer.side.channel.isWritable = false
        for value in 0..<1000 as Range<UInt32> { try peer.send(.ping(value, .syn)) }
        #expect(peer.failure == .limitExceeded)
    }

    @Test func openingAndResettingEndsTheSession() throws {
        let peer = try RawPeer()
        for id in 0..<100_000 as Range<UInt32> where peer.failure == nil {
            try peer.send(.update(2 * id + 1, .syn), .update(2 * id + 1, .rst))
        }
        #expect(peer.failure == .limitExceeded)
        #expect(peer.side.inbound.value.count == 5001, "what it has cost until then")
        #expect(peer.side.isEmpty)
    }

    /// A program with many streams that ends is no attack.
    @Test func allStreamsMayBeResetAtOnce() throws {
        var configuration = YamuxConfiguration()
        configuration.resetBurst = 10
        configuration.maximumInboundStreams = 100
        let peer = try RawPeer(configuration: configuration)
        for id in 0..<100 as Range<UInt32> { try peer.send(.update(2 * id + 1, .syn)) }
        for id in 0..<100 as Range<UInt32> { try peer.send(.update(2 * id + 1, .rst)) }
        #expect(peer.failure == nil)
        #expect(peer.side.handler.openStreams == 0)
        try peer.send(.update(201, .syn), .update(201, .rst))
        #expect(peer.failure == .limitExceeded)
    }

    @Test func refusalsThatAreNotReadEndTheSession() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumInboundStreams = 10
        configuration.maximumOutboundStreams = 10
        configuration.maximumPendingControlFrames = 100
        let peer = try RawPeer(configuration: configuration)
        peer.side.channel.isWritable = false
        for id in 0..<200 as Range<UInt32> {
            try peer.send(.update(2 * id + 1, .syn))
            #expect(peer.side.handler.resets.count <= 120)
        }
        #expect(peer.failure == .limitExceeded)
    }

    @Test func streamsBeyondTheLimitAreRefusedAndOthersLive() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumInboundStreams = 2
        let peer = try RawPeer(configuration: configuration)
        #expect(try peer.send(.update(1, .syn)) == [.update(1, .ack)])
        #expect(try peer.send(.update(3, .syn)) == [.update(3, .ack)])
        #expect(try peer.send(.data(5, [1, 2], .syn), .data(5, [3]), .data(1, [4])) == [.update(5, .rst)])
        #expect(peer.side.inbound.value.map(\.received) == [[4], []])
        try peer.send(.update(3, .rst))
        #expect(try peer.send(.update(7, .syn)) == [.update(7, .ack)])
    }

    @Test func onlySoManyStreamsAreUnacknowledged() throws {
        let peer = try RawPeer(.client)
        let streams = try (0..<300).map { _ in try peer.side.open() }
        for stream in streams { stream.write([1]) }
        let sent = try peer.send()
        #expect(sent.count == 256)
        #expect(sent.allSatisfy { $0.header.flags == .syn })
        #expect(try peer.send(.update(1, .ack), .update(3, .rst)) == [.data(513, [1], .syn), .data(515, [1], .syn)])
        // A stream that waits may end before it began.
        streams[299].channel?.close(promise: nil)
        for id in stride(from: 5, to: 601, by: 2) as StrideTo<UInt32> { try peer.send(.update(id, .ack)) }
        #expect(peer.side.handler.unacknowledged == 0)
        #expect(peer.side.closed.value.isEmpty)
    }

    @Test func aRefusedWriteCostsNothing() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumUnsentBytes = 1000
        let peer = try RawPeer(.client, configuration: configuration)
        let stream = try peer.side.open()
        peer.side.channel.isWritable = false
        stream.write(Array(repeating: 0, count: 1000))
        let error = #expect(throws: YamuxError.self) {
            try stream.channel?.writeAndFlush(ByteBuffer(bytes: [1])).wait()
        }
        #expect(error?.code == .limitExceeded)
        #expect(peer.side.handler.unsentBytes == 1000)
    }

    @Test(arguments: [1, 10, 300, 5000]) func readsMayBeLimited(_ payload: Int) throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.update(1, .syn))
        let stream = try #require(peer.side.inbound.value.first)
        let channel = try #require(stream.channel)
        YamuxStream.limitReads(of: channel, to: 100)
        var sent: [UInt8] = []
        func send() throws {
            var bytes = ByteBuffer()
            let end = sent.count + 2000
            while sent.count < end {
                let part = (0..<payload).map { UInt8(truncatingIfNeeded: sent.count + $0) }
                sent += part
                bytes.writeImmutableBuffer(Frame.data(1, part).bytes)
            }
            try peer.send(bytes)
        }
        // A read that waits for bytes, and reads of bytes that wait.
        channel.read()
        try send()
        for round in 1...5 {
            #expect(stream.readCompletes == round)
            #expect(stream.received.count == 100 * round)
            channel.read()
            peer.loop.run()
        }
        #expect(stream.received.elementsEqual(sent.prefix(600)))
        #expect(peer.side.handler.unreadBytes > 0)
        YamuxStream.limitReads(of: channel, to: nil)
        try send()
        channel.read()
        peer.loop.run()
        #expect(stream.received == sent)
        #expect(peer.side.handler.unreadBytes == 0)
    }

    /// A hundred streams that each wait to be told to stop would hold twelve times the bound.
    @Test func manyWritersAreHeldBackTogether() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumUnsentBytes = 1 << 20
        let peer = try RawPeer(.client, configuration: configuration)
        let streams = try (0..<100).map { _ in try peer.side.open() }
        _ = try peer.send()
        peer.side.channel.isWritable = false
        // Each writes as long as it may.
        var written = 0
        var rounds = 0
        while streams.contains(where: { $0.channel?.isWritable == true }), rounds < 100 {
            rounds += 1
            for stream in streams where stream.channel?.isWritable == true {
                stream.write([UInt8](repeating: 1, count: 4096))
                written += 4096
            }
        }
        #expect(peer.side.handler.unsentBytes == written)
        #expect(written <= 1 << 19 + 100 * 4096)
        #expect(streams.allSatisfy { $0.errors.isEmpty })
        #expect(streams.allSatisfy { $0.writabilityChanges == 1 })
        // The connection takes it, and all may write again.
        peer.side.channel.isWritable = true
        peer.side.channel.pipeline.fireChannelWritabilityChanged()
        _ = try peer.send()
        #expect(peer.side.handler.unsentBytes == 0)
        #expect(streams.allSatisfy { $0.channel?.isWritable == true })
        #expect(peer.side.handler.heldBack.isEmpty)
    }

    @Test func writersAreReleasedWhenOneThatHeldThemBackEnds() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumUnsentBytes = 1 << 20
        let peer = try RawPeer(.client, configuration: configuration)
        let (greedy, modest) = (try peer.side.open(), try peer.side.open())
        _ = try peer.send()
        peer.side.channel.isWritable = false
        greedy.write([UInt8](repeating: 1, count: 600_000))
        modest.write([1])
        #expect(modest.channel?.isWritable == false)
        try peer.send(.update(1, .rst))
        #expect(modest.channel?.isWritable == true)
        #expect(peer.side.handler.unsentBytes == 1)
    }

    /// Every stream stalls with a full window: the session holds no more than its bound, and drops who holds the most.
    @Test func unreadBytesAreBounded() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumUnreadBytes = 2 << 20
        let peer = try RawPeer(configuration: configuration, setUp: withoutAutoRead)
        let payload = [UInt8](repeating: 1, count: 60_000)
        for id in stride(from: 1, to: 101, by: 2) as StrideTo<UInt32> {
            try peer.send(.update(id, .syn))
            for _ in 0..<4 {
                try peer.send(.data(id, payload))
                #expect(peer.side.handler.unreadBytes <= 2 << 20)
            }
        }
        let reset = peer.side.inbound.value.filter { $0.errorCode == .limitExceeded }.count
        #expect(reset > 0)
        #expect(peer.side.handler.openStreams == 50 - reset)
        #expect(peer.side.closed.value.isEmpty)
        try peer.side.channel.close().wait()
        #expect(peer.side.handler.unreadBytes == 0)
    }

    /// Each costs far more than its one byte.
    @Test func singleBytesCountWithWhatTheyCost() throws {
        var configuration = YamuxConfiguration()
        configuration.maximumUnreadBytes = 64 * 1024
        let peer = try RawPeer(configuration: configuration, setUp: withoutAutoRead)
        try peer.send(.update(1, .syn))
        for _ in 0..<1000 { try peer.send(.data(1, [1])) }
        #expect(peer.side.inbound.value.first?.errorCode == .limitExceeded)
        #expect(peer.side.handler.unreadBytes == 0)
    }

    @Test func endedStreamsLeaveTheQueuesOfAConnectionThatTakesNothing() throws {
        var configuration = YamuxConfiguration()
        configuration.resetBurst = 1e9
        let peer = try RawPeer(configuration: configuration)
        peer.side.channel.isWritable = false
        for id in 0..<2000 as Range<UInt32> { try peer.send(.update(2 * id + 1, .syn), .update(2 * id + 1, .rst)) }
        #expect(peer.side.handler.openStreams == 0)
        #expect(peer.side.handler.dirty.count < 100)
        #expect(peer.side.closed.value.isEmpty)
    }

    @Test func windowGrowthIsShared() throws {
        var configuration = YamuxConfiguration()
        configuration.windowGrowthBudget = 300 * 1024
        let peer = try RawPeer(configuration: configuration)
        peer.loop.advanceTime(by: .milliseconds(10))
        try peer.send(.ping(0, .ack), .update(1, .syn), .update(3, .syn))
        let half = [UInt8](repeating: 1, count: 128 * 1024)
        #expect(try peer.send(.data(1, half)) == [.update(1, [], 384 * 1024)])
        #expect(try peer.send(.data(3, half)) == [.update(3, [], 172 * 1024)])
        #expect(peer.side.handler.windowGrowth == 300 * 1024)
        try peer.send(.update(1, .rst))
        #expect(peer.side.handler.windowGrowth == 44 * 1024)
    }

    /// Frames of a few streams with random fields, some bytes of them changed: no trap, no state left behind.
    @Test(arguments: 0..<200 as Range<UInt64>)
    func randomFramesNeverTrap(_ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let peer = try RawPeer(seed % 2 == 0 ? .client : .server)
        if seed % 2 == 0 { for _ in 0..<3 { try peer.side.open().write([1, 2, 3]) } }
        for _ in 0..<50 {
            let kind = YamuxFrameHeader.Kind(rawValue: UInt8.random(in: 0..<3, using: &random)) ?? .data
            let flags = YamuxFrameHeader.Flags(rawValue: UInt16.random(in: 0..<16, using: &random))
            let id = kind == .ping ? 0 : UInt32.random(in: 1..<8, using: &random)
            let payload = [UInt8](repeating: 1, count: kind == .data ? Int.random(in: 0..<300, using: &random) : 0)
            var bytes = Frame(
                header: .init(kind, flags, streamID: id, length: UInt32(payload.count)),
                payload: payload
            ).bytes
            if UInt8.random(in: 0..<30, using: &random) == 0 {
                bytes.setInteger(
                    UInt8.random(in: 0...255, using: &random),
                    at: Int.random(in: 0..<bytes.readableBytes, using: &random)
                )
            }
            try peer.send(bytes)
        }
        peer.side.handler.close()
        peer.loop.run()
        #expect(peer.side.isEmpty, "seed \(seed)")
        #expect(peer.side.closed.value.count == 1)
    }
}
