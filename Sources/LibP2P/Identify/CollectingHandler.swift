import NIOCore

/// Gathers all that a peer sends on a stream until it ends it, up to a bound. Confined to the stream's loop.
final class CollectingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let maximum: Int
    private let promise: EventLoopPromise<ByteBuffer>
    private let timeout: TimeAmount
    private var bytes = ByteBuffer()
    private var timer: Scheduled<Void>?
    private var isDone = false

    private init(maximum: Int, timeout: TimeAmount, promise: EventLoopPromise<ByteBuffer>) {
        self.maximum = maximum
        self.timeout = timeout
        self.promise = promise
    }

    /// Reads the stream to its end, then closes it, if that is wanted; a stream that is too long or too slow is reset. On the
    /// stream's loop.
    static func collect(
        _ stream: NegotiatedStream,
        maximum: Int,
        timeout: TimeAmount,
        closes: Bool = true
    ) -> EventLoopFuture<ByteBuffer> {
        let channel = stream.channel
        let promise = channel.eventLoop.makePromise(of: ByteBuffer.self)
        do {
            try channel.pipeline.syncOperations.addHandler(
                CollectingHandler(maximum: maximum, timeout: timeout, promise: promise)
            )
            try channel.syncOptions?.setOption(.autoRead, value: true)
        } catch {
            promise.fail(error)
        }
        promise.futureResult.whenComplete { result in
            switch result {
            case .success: if closes { channel.close(promise: nil) }
            case .failure: stream.reset()
            }
        }
        return promise.futureResult
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: self.timeout) {
            self.finish(.failure(LibP2PError(code: .timedOut, message: "the peer did not end its message in time")))
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.finish(.failure(Self.closed))
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return }
        var read = self.unwrapInboundIn(data)
        guard self.bytes.readableBytes + read.readableBytes <= self.maximum else {
            self.finish(
                .failure(LibP2PError(code: .malformed, message: "the peer sends more than \(self.maximum) bytes"))
            )
            return
        }
        self.bytes.writeBuffer(&read)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.finish(.success(self.bytes)) }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.finish(.failure(error))
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.finish(.failure(Self.closed))
        context.fireChannelInactive()
    }

    private func finish(_ result: Result<ByteBuffer, any Error>) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.promise.completeWith(result)
    }

    private static let closed = LibP2PError(
        code: .connectionClosed,
        message: "the stream was closed before the peer ended its message"
    )
}
