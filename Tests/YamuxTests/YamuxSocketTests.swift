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

    /// A connection over loopback whose client opens streams that each send some bytes, and what came of each.
    private struct Connection {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let results: [EventLoopFuture<(bytes: UInt64, bad: Int)>]
        let client: any Channel
        let listener: any Channel

        /// - Parameter accept: called with each stream that the server is opened, in order, before its handler is added.
        init(
            streams: Int,
            bytesEach: Int,
            accept: @escaping @Sendable (_ index: Int, _ stream: any Channel) throws -> Void = { _, _ in }
        ) async throws {
            let group = self.group
            let promises = (0..<streams).map { _ in group.next().makePromise(of: (bytes: UInt64, bad: Int).self) }
            self.results = promises.map(\.futureResult)
            // Only the one connection of the listener counts them, on its event loop.
            let accepted = Mutex(0)
            self.listener = try await ServerBootstrap(group: group).childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = YamuxHandler(role: .server) { stream in
                        stream.eventLoop.makeCompletedFuture {
                            let index = accepted.withLock { count in
                                defer { count += 1 }
                                return count
                            }
                            try stream.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
                            try accept(index, stream)
                            try stream.pipeline.syncOperations.addHandler(Sink(promises[index]))
                        }
                    }
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }.bind(host: "127.0.0.1", port: 0).get()
            let client = try await ClientBootstrap(group: group).channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(YamuxHandler(role: .client) { $0.close() })
                }
            }.connect(to: try #require(self.listener.localAddress)).get()
            self.client = client
            try await client.eventLoop.submit {
                let handler = try client.pipeline.syncOperations.handler(type: YamuxHandler.self)
                for _ in 0..<streams {
                    _ = handler.openStream { stream in
                        stream.eventLoop.makeCompletedFuture {
                            try stream.pipeline.syncOperations.addHandler(Source(bytesEach))
                        }
                    }
                }
            }.get()
        }

        func close() async throws {
            try await self.client.close()
            try await self.listener.close()
            try await self.group.shutdownGracefully()
        }
    }

    @Test(.timeLimit(.minutes(1)), arguments: [1, 8])
    func sixtyFourMegabytesArriveWhole(_ streams: Int) async throws {
        let each = (64 << 20) / streams
        let connection = try await Connection(streams: streams, bytesEach: each)
        for result in connection.results {
            let (bytes, bad) = try await result.get()
            #expect(bytes == UInt64(each))
            #expect(bad == 0)
        }
        try await connection.close()
    }

    /// One stream is not read, with more under way for it than its window takes: the others move all that they have, and then it
    /// does.
    @Test(.timeLimit(.minutes(1))) func aStalledReaderHoldsNobodyUp() async throws {
        let each = 8 << 20
        let stalled = Mutex<(any Channel)?>(nil)
        let connection = try await Connection(streams: 6, bytesEach: each) { index, stream in
            guard index == 0 else { return }
            try stream.syncOptions?.setOption(.autoRead, value: false)
            stalled.withLock { $0 = stream }
        }
        for result in connection.results.dropFirst() { #expect(try await result.get().bytes == UInt64(each)) }
        let stream = try #require(stalled.withLock { $0 })
        let waiting = try await stream.eventLoop.submit {
            let session = try #require((stream as? YamuxStreamChannel)?.session)
            return (session.openStreams, session.unreadBytes)
        }.get()
        // A window that nobody reads does not grow; what waits is counted with the buffers that hold it.
        #expect(waiting.0 == 1)
        #expect((1...2 * YamuxConfiguration.initialWindowBytes).contains(waiting.1), "\(waiting.1) bytes")
        try await stream.setOption(.autoRead, value: true).get()
        let (bytes, bad) = try await connection.results[0].get()
        #expect((bytes, bad) == (UInt64(each), 0))
        try await connection.close()
    }
}
