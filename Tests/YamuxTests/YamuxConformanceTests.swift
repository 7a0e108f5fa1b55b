import MeshCore
import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// What any multiplexer must do, over a connection that the test holds in its hands.
@Suite struct YamuxConformanceTests {
    private static func echo(_ recorder: StreamRecorder, _ channel: any Channel) {
        recorder.onRead = { context, bytes in context.writeAndFlush(NIOAny(bytes), promise: nil) }
        recorder.onInputClosed = { $0.close(mode: .output, promise: nil) }
    }

    @Test func aThousandStreamsAtOnce() throws {
        let pair = try Pair(setUp: Self.echo)
        let streams = try (0..<1000).map { _ in try pair.client.open() }
        for (index, stream) in streams.enumerated() {
            stream.write(Array("stream \(index)".utf8))
            stream.channel?.close(mode: .output, promise: nil)
        }
        try pair.settle()
        for (index, stream) in streams.enumerated() {
            #expect(String(decoding: stream.received, as: UTF8.self) == "stream \(index)")
            #expect((stream.inputClosed, stream.inactive, stream.errors.count) == (1, 1, 0))
        }
        #expect(pair.client.isEmpty && pair.server.isEmpty)
        try pair.finish()
    }

    @Test func aStalledReaderAmongAHundredHoldsNobodyBack() throws {
        let pair = try Pair(setUp: { recorder, channel in
            // The first stream is not read.
            if recorder.channel == nil, let id = (channel as? YamuxStreamChannel)?.id, id == 1 {
                withoutAutoRead(recorder, channel)
            }
        })
        let streams = try (0..<101).map { _ in try pair.client.open() }
        let payload = [UInt8](repeating: 7, count: 50_000)
        for _ in 0..<10 {
            for stream in streams { stream.write(payload) }
            try pair.settle()
        }
        #expect(pair.server.inbound.value.first?.received.count == 0)
        #expect(pair.server.inbound.value.dropFirst().allSatisfy { $0.received.count == 500_000 })
        #expect(pair.server.handler.unreadBytes <= 2 * 256 * 1024)
        #expect(streams[0].channel?.isWritable == false)
        #expect(pair.client.handler.unsentBytes == 500_000 - 256 * 1024)
        try pair.server.inbound.value.first?.channel?.syncOptions?.setOption(.autoRead, value: true)
        try pair.settle()
        #expect(pair.server.inbound.value.first?.received.count == 500_000)
        try pair.finish()
    }

    /// A small write beside bulk ones waits for at most one frame of each: counted in frames, not in time.
    @Test func turnsAreFair() throws {
        let peer = try RawPeer(.client)
        peer.side.channel.isWritable = false
        let bulk = try (0..<3).map { _ in try peer.side.open() }
        let small = try peer.side.open()
        for stream in bulk { for _ in 0..<3 { stream.write(Array(repeating: 1, count: 80_000)) } }
        small.write(Array(repeating: 2, count: 64))
        peer.loop.run()
        peer.side.channel.isWritable = true
        peer.side.channel.pipeline.fireChannelWritabilityChanged()
        let order = try peer.send().filter { $0.header.kind == .data }.map(\.header.streamID)
        #expect(order.firstIndex(of: 7) == 3)
        #expect(Array(order.prefix(7)) == [1, 3, 5, 7, 1, 3, 5])
    }

    @Test func oneTurnOfTheLoopIsBounded() throws {
        let peer = try RawPeer(.client)
        let streams = try (0..<8).map { _ in try peer.side.open() }
        for stream in streams { stream.write(Array(repeating: 1, count: 256 * 1024)) }
        peer.loop.run()
        let bound = YamuxHandler.batchesPerTurn * (YamuxHandler.batchBytes + 65536)
        #expect(try peer.side.takeOutput().readableBytes <= bound)
        peer.loop.advanceTime(by: .milliseconds(1))
        #expect(try peer.side.takeOutput().readableBytes > 0)
        #expect(peer.side.handler.unsentBytes == 0)
    }

    /// Random operations on both sides, over a connection that is cut at random places and stalls at random; the model is what
    /// was written to each stream.
    @Test(arguments: 0..<24 as Range<UInt64>)
    func whateverIsDoneWhatIsWrittenArrives(_ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let pool = (0..<1 << 18).map { UInt8(truncatingIfNeeded: ($0 &* 0x9E37_79B1) >> 13) }
        let pair = try Pair(setUp: withoutAutoRead)
        var written: [ObjectIdentifier: [UInt8]] = [:]
        var opened: [(side: Side, stream: StreamRecorder)] = []
        var wires: [ByteBuffer] = [ByteBuffer(), ByteBuffer()]
        var ended: Set<ObjectIdentifier> = []
        let sides = [pair.client, pair.server]

        func all() -> [StreamRecorder] { opened.map(\.stream) + sides.flatMap(\.inbound.value) }
        func shuttle(_ limit: Int) throws {
            for index in 0..<2 {
                var more = try sides[index].takeOutput()
                wires[index].writeBuffer(&more)
                if let part = wires[index].readSlice(length: min(limit, wires[index].readableBytes)) {
                    // A copy, as a socket's reads are.
                    try pair.deliver(ByteBuffer(bytes: part.readableBytesView), to: sides[1 - index])
                }
                wires[index].discardReadBytes()
            }
        }
        for _ in 0..<300 {
            switch UInt8.random(in: 0..<20, using: &random) {
            case 0, 1:
                let side = sides[Int.random(in: 0..<2, using: &random)]
                if side.handler.openStreams < 40 { opened.append((side, try side.open(setUp: withoutAutoRead))) }
            case 2..<9:
                guard let stream = all().randomElement(using: &random), !ended.contains(ObjectIdentifier(stream)),
                    stream.channel?.isActive == true
                else { continue }
                let magnitude = Int.random(in: 0..<18, using: &random)
                let count = Int.random(in: 0...(1 << magnitude), using: &random)
                let start = Int.random(in: 0...(pool.count - count), using: &random)
                let bytes = Array(pool[start..<start + count])
                written[ObjectIdentifier(stream), default: []] += bytes
                stream.write(bytes)
            case 9..<14:
                all().randomElement(using: &random)?.channel?.read()
            case 14:
                guard let stream = all().randomElement(using: &random), stream.channel?.isActive == true,
                    ended.insert(ObjectIdentifier(stream)).inserted
                else { continue }
                stream.channel?.close(mode: .output, promise: nil)
            case 15:
                let side = sides[Int.random(in: 0..<2, using: &random)]
                side.channel.isWritable.toggle()
                side.channel.pipeline.fireChannelWritabilityChanged()
            case 16:
                pair.loop.advanceTime(by: .microseconds(Int64.random(in: 0..<100_000, using: &random)))
            default:
                try shuttle(Int.random(in: 1...200_000, using: &random))
            }
        }
        // The rest arrives.
        for side in sides {
            side.channel.isWritable = true
            side.channel.pipeline.fireChannelWritabilityChanged()
        }
        for _ in 0..<2000 {
            pair.loop.advanceTime(by: .microseconds(20))
            try shuttle(.max)
            for stream in all() {
                try? stream.channel?.syncOptions?.setOption(.autoRead, value: true)
                if stream.channel?.isActive == true, ended.insert(ObjectIdentifier(stream)).inserted {
                    stream.channel?.close(mode: .output, promise: nil)
                }
            }
            if sides.allSatisfy(\.isEmpty) { break }
        }
        #expect(sides.allSatisfy { $0.isEmpty && $0.closed.value.isEmpty }, "seed \(seed)")
        for (side, stream) in opened {
            let id = try #require((stream.channel as? YamuxStreamChannel)?.id)
            let others = (side === pair.client ? pair.server : pair.client).inbound.value
            let other = try #require(others.first { ($0.channel as? YamuxStreamChannel)?.id == id })
            #expect(other.received == written[ObjectIdentifier(stream)] ?? [], "seed \(seed), stream \(id)")
            #expect(stream.received == written[ObjectIdentifier(other)] ?? [], "seed \(seed), stream \(id)")
            #expect((stream.inactive, other.inactive) == (1, 1), "seed \(seed), stream \(id)")
            #expect(stream.errors.isEmpty && other.errors.isEmpty, "seed \(seed), stream \(id)")
        }
        try pair.finish()
    }
}
