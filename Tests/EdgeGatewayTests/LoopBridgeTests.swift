import ByteStreams
import NIOCore
import NIOPosix
import Testing

@testable import EdgeGateway

/// Streams that live on another loop than their clients.
@Suite(.timeLimit(.minutes(1))) struct LoopBridgeTests {
    /// Sends back what has come, once the other side has ended.
    private final class LateEcho: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private var bytes = ByteBuffer()

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var part = self.unwrapInboundIn(data)
            self.bytes.writeBuffer(&part)
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            guard case .inputClosed? = event as? ChannelEvent else { return }
            let channel = context.channel
            channel.writeAndFlush(self.bytes).assumeIsolated().whenComplete { _ in channel.close(promise: nil) }
        }
    }

    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private var text = ""
        private let promise: EventLoopPromise<String>

        init(_ promise: EventLoopPromise<String>) { self.promise = promise }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.text += String(buffer: self.unwrapInboundIn(data))
        }

        func channelReadComplete(context: ChannelHandlerContext) { context.read() }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
        }

        func channelInactive(context: ChannelHandlerContext) { self.promise.succeed(self.text) }
    }

    /// Bytes and their end may be in the bridge before its far half has been looked at. The kernel tells the end at once, and with it all
    /// is read.
    @Test func anEndThatComesAtOnceIsNotLost() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 3)
        let loops = Array(group.makeIterator())
        let server = try await ServerBootstrap(group: loops[1])
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(LateEcho()) }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(server.localAddress)
        // A loop that is awake has the far half ready before the near one has handed it its handlers.
        let waker = loops[2].scheduleRepeatedTask(initialDelay: .zero, delay: .nanoseconds(1)) { _ in
            loops[1].execute {}
        }
        for _ in 0..<20 {
            let far = try await ClientBootstrap(group: loops[1])
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture { try StreamOptions.apply(to: channel) }
                }
                .connect(to: address).get()
            let answer = loops[0].makePromise(of: String.self)
            let near = loops[0].flatSubmit {
                LoopBridge.bring(far, to: loops[0]).flatMapThrowing { channel in
                    try channel.pipeline.syncOperations.addHandler(Collector(answer))
                    channel.writeAndFlush(ByteBuffer(string: "half\n"), promise: nil)
                    channel.close(mode: .output, promise: nil)
                    channel.read()
                }
            }
            near.cascadeFailure(to: answer)
            #expect(try await answer.futureResult.get() == "half\n")
        }
        waker.cancel()
        try await server.close()
        try await group.shutdownGracefully()
    }
}
