import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

@Suite struct YamuxStreamTests {
    @Test func aStreamCarriesBytesBothWaysAndEnds() throws {
        let pair = try Pair()
        let ours = try pair.client.open()
        ours.write([1, 2, 3])
        try pair.settle()
        let theirs = try #require(pair.server.inbound.value.first)
        #expect(theirs.received == [1, 2, 3])
        #expect(theirs.readCompletes == 1)
        theirs.write([4, 5])
        try pair.settle()
        #expect(ours.received == [4, 5])
        #expect(ours.channel?.parent === pair.client.channel)
        #expect(ours.channel?.remoteAddress == pair.client.channel.remoteAddress)

        // One half after the other.
        ours.channel?.close(mode: .output, promise: nil)
        try pair.settle()
        #expect((ours.outputClosed, theirs.inputClosed) == (1, 1))
        #expect(ours.channel?.isActive == true)
        theirs.write([6])
        theirs.channel?.close(mode: .output, promise: nil)
        try pair.settle()
        #expect(ours.received == [4, 5, 6])
        #expect((ours.inactive, theirs.inactive) == (1, 1))
        #expect((ours.errors.count, theirs.errors.count) == (0, 0))
        #expect(ours.channel?.isActive == false)
        #expect(pair.client.isEmpty && pair.server.isEmpty)
        #expect(pair.client.events.value == ["opened outbound", "closed outbound"])
        #expect(pair.server.events.value == ["opened inbound", "closed inbound"])
        try pair.finish()
    }

    @Test func theFirstWriteCarriesSYNAndTheAnswerACK() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.write([9])
        #expect(try peer.send() == [.data(1, [9], .syn)])
        let silent = try peer.side.open()
        #expect(try peer.send() == [.update(3, .syn)])
        silent.write([8])
        #expect(try peer.send() == [.data(3, [8])])
        // Accepted in silence, and with an answer in the same tick.
        #expect(try peer.send(.update(2, .syn)) == [.update(2, .ack)])
        let answering = try RawPeer(setUp: { recorder, _ in
            recorder.onRead = { context, _ in
                context.writeAndFlush(NIOAny(ByteBuffer(bytes: [7])), promise: nil)
            }
        })
        #expect(try answering.send(.data(1, [1], .syn)) == [.data(1, [7], .ack)])
    }

    @Test func anUnusedStreamIsNeverHeardOf() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.channel?.close(promise: nil)
        #expect(try peer.send() == [])
        #expect(stream.inactive == 1)
        #expect(peer.side.isEmpty)
    }

    @Test func eachWriteIsAFrameAndEachFrameARead() throws {
        let pair = try Pair()
        let ours = try pair.client.open()
        for size in [1, 20, 5000, 16384, 1] { ours.write(Array(repeating: 1, count: size)) }
        try pair.settle()
        #expect(pair.server.inbound.value.first?.reads == [1, 20, 5000, 16384, 1])
    }

    @Test func onlyFlushedWritesLeave() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.channel?.write(ByteBuffer(bytes: [1]), promise: nil)
        #expect(try peer.send() == [.update(1, .syn)])
        stream.channel?.flush()
        #expect(try peer.send() == [.data(1, [1])])
    }

    @Test func framesOfATickLeaveInOneFlush() throws {
        let peer = try RawPeer(.client)
        let streams = try (0..<10).map { _ in try peer.side.open() }
        for stream in streams { stream.write(Array(repeating: 1, count: 10)) }
        peer.loop.run()
        var pieces = 0
        while try peer.side.channel.readOutbound(as: ByteBuffer.self) != nil { pieces += 1 }
        #expect(pieces == 1)
    }

    @Test func largePayloadsAreNotCopied() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        let payload = ByteBuffer(repeating: 3, count: 8192)
        stream.channel?.writeAndFlush(payload, promise: nil)
        peer.loop.run()
        #expect(try peer.side.channel.readOutbound(as: ByteBuffer.self)?.readableBytes == 12)
        let sent = try #require(try peer.side.channel.readOutbound(as: ByteBuffer.self))
        let same = payload.withUnsafeReadableBytes { ours in
            sent.withUnsafeReadableBytes { $0.baseAddress == ours.baseAddress }
        }
        #expect(same)
    }

    @Test func writesSucceedWhenTheyAreHandedOnAndInOrder() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        var done: [Int] = []
        func write(_ count: Int, _ tag: Int) {
            let promise = peer.loop.makePromise(of: Void.self)
            promise.futureResult.assumeIsolated().whenSuccess { done.append(tag) }
            stream.write(Array(repeating: 0, count: count), promise: promise)
        }
        write(10, 1)
        write(256 * 1024 - 10, 2)
        write(5, 3)
        write(0, 4)
        #expect(done == [])
        try peer.send()
        #expect(done == [1, 2])
        try peer.send(.update(1, .ack, 4))
        #expect(done == [1, 2])
        try peer.send(.update(1, [], 1))
        #expect(done == [1, 2, 3, 4])
        #expect(peer.side.handler.unsentBytes == 0)
    }

    @Test func theWindowIsExhaustedAndOpens() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        stream.write(Array(repeating: 1, count: 300 * 1024))
        let first = try peer.send()
        #expect(first.map(\.payload.count) == [65536, 65536, 65536, 65536])
        #expect(stream.channel?.isWritable == true)
        #expect(try peer.send(.update(1, .ack, 1000)).map(\.payload.count) == [1000])
        stream.channel?.close(mode: .output, promise: nil)
        let last = try peer.send(.update(1, [], 1 << 20))
        // FIN has its own frame.
        #expect(last.map(\.payload.count) == [300 * 1024 - 256 * 1024 - 1000, 0])
        #expect(last.last == .update(1, .fin))
        #expect(stream.outputClosed == 1)
    }

    @Test func writabilityFollowsTheWaterMarks() throws {
        let peer = try RawPeer(.client)
        let stream = try peer.side.open()
        try stream.channel?.syncOptions?.setOption(.writeBufferWaterMark, value: .init(low: 1000, high: 2000))
        stream.channel?.write(ByteBuffer(repeating: 1, count: 2000), promise: nil)
        #expect(stream.channel?.isWritable == true)
        stream.channel?.write(ByteBuffer(repeating: 1, count: 1), promise: nil)
        #expect(stream.channel?.isWritable == false)
        stream.channel?.flush()
        try peer.send()
        #expect(stream.channel?.isWritable == true)
        #expect(stream.writabilityChanges == 2)
    }

    @Test func nothingIsWrittenToAConnectionThatTakesNothing() throws {
        let peer = try RawPeer(.client)
        peer.side.channel.isWritable = false
        let stream = try peer.side.open()
        stream.write(Array(repeating: 1, count: 200_000))
        #expect(try peer.send(.ping(1, .syn)) == [])
        #expect(stream.channel?.isWritable == false)
        peer.side.channel.isWritable = true
        peer.side.channel.pipeline.fireChannelWritabilityChanged()
        let frames = try peer.send()
        #expect(frames.first == .ping(1, .ack))
        #expect(frames.dropFirst().reduce(0) { $0 + $1.payload.count } == 200_000)
        #expect(stream.channel?.isWritable == true)
    }

    // MARK: Reading

    @Test func aStreamThatIsNotReadHoldsItsWindowAndNoMore() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.update(1, .syn))
        for _ in 0..<4 { #expect(try peer.send(.data(1, Array(repeating: 5, count: 65536))) == []) }
        let stream = try #require(peer.side.inbound.value.first)
        #expect(stream.reads == [])
        #expect(peer.side.handler.unreadBytes <= 2 * 256 * 1024 + 4 * YamuxStreamChannel.readOverhead)
        // Half of the window read opens it.
        YamuxStream.limitReads(of: try #require(stream.channel), to: 65536)
        stream.channel?.read()
        #expect(stream.reads == [65536])
        #expect(try peer.send() == [])
        stream.channel?.read()
        #expect(stream.readCompletes == 2)
        #expect(try peer.send() == [.update(1, [], 131072)])
        #expect(peer.side.closed.value.isEmpty)
        try peer.send(.data(1, Array(repeating: 5, count: 65536)), .data(1, Array(repeating: 5, count: 65537)))
        #expect(peer.failure == .protocolViolation)
    }

    /// Whoever passes the bytes on does so once for each read of the connection, whatever frames they came in.
    @Test(arguments: [true, false]) func whatOneReadOfTheConnectionBringsIsOneReadOfTheStream(_ isAwaited: Bool) throws
    {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.update(1, .syn))
        let stream = try #require(peer.side.inbound.value.first)
        if isAwaited { stream.channel?.read() }
        var bytes = ByteBuffer()
        for size in [100, 65536, 65436] {
            bytes.writeImmutableBuffer(Frame.data(1, Array(repeating: 5, count: size)).bytes)
        }
        try peer.send(bytes)
        if !isAwaited { stream.channel?.read() }
        #expect(stream.reads == [100, 65536, 65436])
        #expect(stream.readCompletes == 1)
        try peer.send(.data(1, [6]))
        #expect(stream.readCompletes == 1)
    }

    @Test func aReadThatWaitsIsAnsweredByWhatComes() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.update(1, .syn))
        let stream = try #require(peer.side.inbound.value.first)
        stream.channel?.read()
        try peer.send(.data(1, [1]), .data(1, [2]))
        #expect(stream.reads == [1, 1])
        #expect(stream.readCompletes == 1)
        try peer.send(.data(1, [3]))
        #expect(stream.reads == [1, 1])
        stream.channel?.read()
        #expect(stream.reads == [1, 1, 1])
    }

    @Test func aReadFromWithinADeliveryIsNotLost() throws {
        let peer = try RawPeer(setUp: { recorder, channel in
            withoutAutoRead(recorder, channel)
            recorder.onRead = { context, _ in context.read() }
        })
        try peer.send(.update(1, .syn))
        let stream = try #require(peer.side.inbound.value.first)
        stream.channel?.read()
        for value in 0..<5 as Range<UInt8> { try peer.send(.data(1, [value])) }
        #expect(stream.received == [0, 1, 2, 3, 4])
    }

    @Test func slicesOfGreatReadsAreCopiedWhenTheyWait() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        var bytes = Frame.update(1, .syn).bytes
        bytes.writeImmutableBuffer(Frame.data(1, [1, 2, 3]).bytes)
        bytes.reserveCapacity(1 << 20)
        try peer.send(bytes)
        #expect(peer.side.handler.unreadBytes <= 16 + YamuxStreamChannel.readOverhead)
        peer.side.inbound.value.first?.channel?.read()
        #expect(peer.side.inbound.value.first?.received == [1, 2, 3])
        #expect(peer.side.handler.unreadBytes == 0)
    }

    @Test func manySmallFramesThatWaitAreJoined() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.update(1, .syn))
        var bytes = ByteBuffer()
        for value in 0..<100_000 { bytes.writeImmutableBuffer(Frame.data(1, [UInt8(truncatingIfNeeded: value)]).bytes) }
        try peer.send(bytes)
        let stream = try #require(peer.side.handler.streams[1])
        #expect(stream.reads.count <= YamuxStreamChannel.separateReads + 2)
        #expect(stream.retainedBytes < 512 * 1024)
        let recorder = try #require(peer.side.inbound.value.first)
        try recorder.channel?.syncOptions?.setOption(.autoRead, value: true)
        #expect(recorder.received == (0..<100_000).map { UInt8(truncatingIfNeeded: $0) })
    }

    @Test func theEndComesAfterTheLastByte() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.data(1, [1, 2], .syn), .data(1, [3], .fin))
        let stream = try #require(peer.side.inbound.value.first)
        #expect(stream.inputClosed == 0)
        stream.channel?.read()
        #expect(stream.received == [1, 2, 3])
        #expect(stream.inputClosed == 1)
        // With nothing before it the end needs no read.
        try peer.send(.update(3, .syn), .update(3, .fin))
        #expect(peer.side.inbound.value.last?.inputClosed == 1)
    }

    @Test func bytesOfAFinishedStreamWaitForTheirReader() throws {
        let peer = try RawPeer(setUp: withoutAutoRead)
        try peer.send(.data(1, [1, 2], [.syn, .fin]))
        let stream = try #require(peer.side.inbound.value.first)
        stream.channel?.close(mode: .output, promise: nil)
        #expect(try peer.send() == [.update(1, .fin)])
        #expect(stream.inactive == 0)
        stream.channel?.read()
        #expect(stream.received == [1, 2])
        #expect((stream.inputClosed, stream.inactive) == (1, 1))
        peer.loop.run()
        #expect(peer.side.isEmpty)
    }
}
