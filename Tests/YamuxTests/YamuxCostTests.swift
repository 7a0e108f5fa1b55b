import CMallocCounter
import NIOCore
import NIOEmbedded
import Testing

@testable import Yamux

/// What frames and streams cost, counted exactly: no time is measured.
@Suite(.enabled(if: cmalloc_counter_works(), "a sanitizer allocates in its own way"))
struct YamuxCostTests {
    private final class Counter: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        var bytes = 0

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.bytes += self.unwrapInboundIn(data).readableBytes
        }
    }

    /// Allocations of this thread while `body` runs.
    private static func allocations(_ body: () throws -> Void) rethrows -> Int {
        let before = cmalloc_counter_read().allocations
        try body()
        return Int(cmalloc_counter_read().allocations - before)
    }

    /// A received frame is a slice of what was read: it costs no memory, and neither does its delivery.
    @Test(arguments: [100, 1000]) func receivingAFrameAllocatesNothing(_ size: Int) throws {
        let counter = Counter()
        let side = try Side(
            .server,
            loop: EmbeddedEventLoop(),
            insteadOfRecorder: { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(counter) }
            }
        )
        func receive(_ count: Int, flags: YamuxFrameHeader.Flags = []) throws {
            var bytes = ByteBuffer()
            let frame = Frame.data(1, [UInt8](repeating: 1, count: size), flags).bytes
            for _ in 0..<count { bytes.writeImmutableBuffer(frame) }
            side.channel.pipeline.fireChannelRead(bytes)
            side.channel.pipeline.fireChannelReadComplete()
        }
        try receive(1, flags: .syn)
        side.channel.embeddedEventLoop.run()
        let few = try Self.allocations { try receive(10) }
        let many = try Self.allocations { try receive(60) }
        // The buffer that is received grows with its length.
        #expect(many - few <= 12, "50 frames of \(size) bytes: \(many - few) allocations")
        #expect(counter.bytes == 71 * size)
    }

    /// Frames that leave together share one buffer of headers, and large payloads go as they are. What is left for each frame is
    /// growing arrays, of the embedded channel too, and an accessor's frame that only an unoptimised build allocates.
    @Test(arguments: [100, 8192]) func sendingAFrameAllocatesNoBuffer(_ size: Int) throws {
        let peer = try RawPeer(.client)
        let stream = try #require(try peer.side.open().channel)
        let payload = NIOAny(ByteBuffer(repeating: 1, count: size))
        func send(_ count: Int) throws -> Int {
            let allocations = Self.allocations {
                for _ in 0..<count { stream.pipeline.syncOperations.write(payload, promise: nil) }
                stream.flush()
                peer.loop.run()
            }
            #expect(try peer.side.takeFrames().filter { $0.header.kind == .data }.count == count)
            return allocations
        }
        // The queues reach their size.
        _ = try send(14)
        let (few, many) = (try send(2), try send(14))
        #expect(many - few <= 30, "12 frames of \(size) bytes: \(many - few) allocations")
    }

    /// The goal of an idle stream: 1.5 KiB, its channel and pipeline with a handler included.
    @Test func anIdleStreamIsSmall() throws {
        let side = try Side(
            .server,
            loop: EmbeddedEventLoop(),
            insteadOfRecorder: { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Counter()) }
            }
        )
        var next: UInt32 = 1
        func open(_ count: Int) throws {
            for _ in 0..<count {
                side.channel.pipeline.fireChannelRead(Frame.update(next, .syn).bytes)
                side.channel.embeddedEventLoop.run()
                next += 2
            }
            _ = try side.takeOutput()
        }
        try open(1000)
        let before = cmalloc_counter_read().live_bytes
        try open(1000)
        let each = Double(cmalloc_counter_read().live_bytes - before) / 1000
        #expect(side.handler.openStreams == 2000)
        #expect(each < 1536, "\(each) bytes for a stream")
    }
}
