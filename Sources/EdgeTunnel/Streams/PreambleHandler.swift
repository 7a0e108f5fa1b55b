import ByteStreams
import Multiformats
import NIOCore

/// Reads the message that a stream begins with, for one who waits for it; then holds what follows until somebody reads, hands
/// that over as it came, and leaves the pipeline. Confined to the stream's loop.
///
/// It asks for bytes only while the message is not whole. The rest of what came with it, the end of the stream included, is for
/// the handlers behind this one: they may be added at any time before the first read.
final class PreambleHandler: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    typealias Completion = (Result<ByteBuffer, any Error>) -> Void

    private var input = ByteBuffer()
    /// The one who waits; nil once the message or a failure was told.
    private var completion: Completion?
    private var timer: Scheduled<Void>?
    private var held: [ByteBuffer] = []
    private var inputClosed = false
    private var isReadWanted = false
    private var isHandedOver = false

    private init(_ completion: @escaping Completion) {
        self.completion = completion
    }

    /// Awaits the first message of `channel`, whose `autoRead` is off, until `deadline`, and calls `completion` once. After a
    /// failure the stream is of no use. On the channel's loop.
    static func read(on channel: any Channel, deadline: NIODeadline, _ completion: @escaping Completion) throws {
        let handler = PreambleHandler(completion)
        try channel.pipeline.syncOperations.addHandler(handler)
        handler.timer = channel.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) {
            handler.complete(.failure(PreambleError.late))
        }
        try channel.pipeline.syncOperations.context(handler: handler).read()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.complete(.failure(PreambleError.closed))
    }

    // MARK: Input

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isHandedOver else { return context.fireChannelRead(data) }
        var bytes = self.unwrapInboundIn(data)
        guard self.completion != nil else { return self.held.append(bytes) }
        if self.input.readableBytes == 0 { self.input = bytes } else { self.input.writeBuffer(&bytes) }
        do {
            guard
                let message = try self.input.readVarintPrefixed(maximumLength: TunnelProtocol.maximumMessageLength)
            else { return }
            if self.input.readableBytes > 0 { self.held.append(self.input) }
            self.input = ByteBuffer()
            self.complete(.success(message))
            if self.isReadWanted { self.handOver(context) }
        } catch {
            self.complete(.failure(error))
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if self.isHandedOver {
            context.fireChannelReadComplete()
        } else if self.completion != nil {
            context.read()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard !self.isHandedOver, case .inputClosed? = event as? ChannelEvent else {
            return context.fireUserInboundEventTriggered(event)
        }
        self.inputClosed = true
        self.complete(.failure(PreambleError.ended))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.complete(.failure(error))
        context.fireErrorCaught(error)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.complete(.failure(PreambleError.closed))
        // What came before the end is whole, and is not asked for any more.
        self.deliver(context)
        context.fireChannelInactive()
    }

    // MARK: Handing over

    func read(context: ChannelHandlerContext) {
        if self.isHandedOver {
            context.read()
        } else if self.completion != nil {
            self.isReadWanted = true
        } else {
            self.handOver(context)
        }
    }

    private func handOver(_ context: ChannelHandlerContext) {
        guard !self.isHandedOver else { return }
        let isAnswered = self.deliver(context)
        if !isAnswered || (try? context.channel.syncOptions?.getOption(.autoRead)) == true { context.read() }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }

    @discardableResult
    private func deliver(_ context: ChannelHandlerContext) -> Bool {
        guard !self.isHandedOver else { return false }
        self.isHandedOver = true
        let held = self.held
        self.held = []
        for bytes in held { context.fireChannelRead(self.wrapInboundOut(bytes)) }
        if !held.isEmpty { context.fireChannelReadComplete() }
        if self.inputClosed { context.fireUserInboundEventTriggered(ChannelEvent.inputClosed) }
        return !held.isEmpty || self.inputClosed
    }

    private func complete(_ result: Result<ByteBuffer, any Error>) {
        guard let completion = self.completion else { return }
        self.completion = nil
        self.timer?.cancel()
        completion(result)
    }
}

/// Why no first message came.
enum PreambleError: Error, Hashable {
    case late
    /// The peer has ended the stream instead.
    case ended
    case closed
}
