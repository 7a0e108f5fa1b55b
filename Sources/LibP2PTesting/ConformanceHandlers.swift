import NIOCore

/// Sends back what comes.
final class Echo: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.writeAndFlush(data, promise: nil)
    }
}

/// Speaks as soon as there is a connection.
final class Greeter: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { self.greet(context) }
    }

    func channelActive(context: ChannelHandlerContext) {
        self.greet(context)
    }

    private func greet(_ context: ChannelHandlerContext) {
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: "welcome")), promise: nil)
    }
}

/// Gathers a number of bytes; fails if the connection ends before.
final class Collector: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let count: Int
    private let promise: EventLoopPromise<ByteBuffer>
    private var bytes = ByteBuffer()
    private var isDone = false

    init(count: Int, promise: EventLoopPromise<ByteBuffer>) {
        self.count = count
        self.promise = promise
        if count == 0 {
            self.isDone = true
            promise.succeed(ByteBuffer())
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // What comes later is the next one's.
        guard !self.isDone else { return context.fireChannelRead(data) }
        var read = self.unwrapInboundIn(data)
        self.bytes.writeBuffer(&read)
        guard self.bytes.readableBytes >= self.count else { return }
        self.isDone = true
        self.promise.succeed(self.bytes)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        guard !self.isDone else { return }
        self.isDone = true
        self.promise.fail(ChannelError.eof)
    }
}
