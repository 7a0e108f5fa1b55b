import MeshCore
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import Yamux

/// Two sessions over loopback sockets, each on its own event loop.
@Suite struct YamuxSocketTests {
    /// Counts and compares what comes, and tells when it ended.
    private final class Sink: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private var next: UInt64 = 0
        private var bad = 0
        private let done: EventLoopPromise<(bytes: UInt64, bad: Int)>

        init(_ done: EventLoopPromise<(bytes: UInt64, bad: Int)>) { self.done = done }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = self.unwrapInboundIn(data)
            while bytes.readableBytes > 0, let part = bytes.readSlice(length: min(bytes.readableBytes, Source.period)) {
                // The source repeats one block: each part is compared with what must lie there.
                let offset = Int(self.next % UInt64(Source.period))
                if part != Source.block.getSlice(at: offset, length: part.readableBytes) { self.bad += 1 }
                self.next += UInt64(part.readableBytes)
            }
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            guard case .inputClosed = event as? ChannelEvent else { return }
            self.done.succeed((self.next, self.bad))
            context.close(mode: .output, promise: nil)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.done.fail(error) }
        func channelInactive(context: ChannelHandlerContext) { self.done.fail(ChannelError.alreadyClosed) }
    }

    /// Writes blocks while the stream is writable, and ends it.
    private final class Source: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        static let period = 65536
        /// Two periods, so that any offset has a period behind it.
        static let block: ByteBuffer = {
            var random = SeededGenerator(seed: 1)
            let period = (0..<65536).map { _ in UInt8.random(in: 0...255, using: &random) }
            return ByteBuffer(bytes: period + period)
        }()
        private var remaining: Int

        init(_ count: Int) { self.remaining = count }

        func channelActive(context: ChannelHandlerContext) { self.write(context) }
        func channelWritabilityChanged(context: ChannelHandlerContext) { self.write(context) }

        private func write(_ context: ChannelHandlerContext) {
            while context.channel.isWritable, self.remaining > 0,
                let bytes = Self.block.getSlice(at: 0, length: min(Self.period, self.remaining))
            {
                self.remaining -= bytes.readableBytes
                context.writeAndFlush(self.wrapOutboundOut(bytes), promise: nil)
                if self.remaining == 0 { context.close(mode: .output, promise: nil) }
            }
        }
    }

    @Test(.timeLimit(.minutes(1)), arguments: [1, 8])
    func sixtyFourMegabytesArriveWhole(_ streams: Int) async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let total = 64 << 20
        let results = (0..<streams).map { _ in group.next().makePromise(of: (bytes: UInt64, bad: Int).self) }
        // Only the one connection of the listener takes them, on its event loop.
        let unused = Mutex(results[...])
        let listener = try await ServerBootstrap(group: group).childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                let handler = YamuxHandler(role: .server) { stream in
                    stream.eventLoop.makeCompletedFuture {
                        try stream.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
                        let promise = try #require(unused.withLock { $0.popFirst() })
                        try stream.pipeline.syncOperations.addHandler(Sink(promise))
                    }
                }
                try channel.pipeline.syncOperations.addHandler(handler)
            }
        }.bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(listener.localAddress)
        let client = try await ClientBootstrap(group: group).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(YamuxHandler(role: .client) { $0.close() })
            }
        }.connect(to: address).get()
        try await client.eventLoop.submit {
            let handler = try client.pipeline.syncOperations.handler(type: YamuxHandler.self)
            for _ in 0..<streams {
                _ = handler.openStream { stream in
                    stream.eventLoop.makeCompletedFuture {
                        try stream.pipeline.syncOperations.addHandler(Source(total / streams))
                    }
                }
            }
        }.get()
        for result in results {
            let (bytes, bad) = try await result.futureResult.get()
            #expect(bytes == UInt64(total / streams))
            #expect(bad == 0)
        }
        try await client.close()
        try await listener.close()
        try await group.shutdownGracefully()
    }
}
