import ByteStreams
import LibP2P
import Multiformats
import NIOCore

/// Sends one request over a stream and takes the answer. Confined to the stream's loop.
final class KademliaRequester: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let request: ByteBuffer
    private let timeout: TimeAmount
    private let promise: EventLoopPromise<KademliaMessage>
    private var received = ByteBuffer()
    private var timer: Scheduled<Void>?
    private var isDone = false

    init(_ request: KademliaMessage, timeout: TimeAmount, promise: EventLoopPromise<KademliaMessage>) {
        var bytes = ByteBuffer()
        bytes.writeVarintPrefixed(request.encoded())
        self.request = bytes
        self.timeout = timeout
        self.promise = promise
    }

    func handlerAdded(context: ChannelHandlerContext) {
        context.writeAndFlush(self.wrapOutboundOut(self.request), promise: nil)
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: self.timeout) {
            self.finish(
                .failure(LibP2PDiscoveryError(code: .timedOut, message: "a peer of the DHT did not answer in time"))
            )
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.finish(.failure(Self.closed)) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return }
        var bytes = self.unwrapInboundIn(data)
        self.received.writeBuffer(&bytes)
        do {
            guard let message = try self.received.readVarintPrefixed(maximumLength: KademliaMessage.maximumLength)
            else { return }
            self.finish(.success(try KademliaMessage(parsing: message)))
        } catch {
            self.finish(.failure(error))
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.finish(.failure(Self.closed)) }
    }

    func channelInactive(context: ChannelHandlerContext) { self.finish(.failure(Self.closed)) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.finish(.failure(error)) }

    private func finish(_ result: Result<KademliaMessage, any Error>) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.promise.completeWith(result)
    }

    private static let closed = LibP2PDiscoveryError(
        code: .malformed,
        message: "a peer of the DHT ended the stream without an answer"
    )
}

/// Answers the requests of one stream, one after the other, and none while the peer does not take the answers. Confined to
/// the stream's loop.
final class KademliaResponder: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Completes on the stream's loop: an answer, nil for a request that wants none; fails to reset the stream.
    typealias Respond = (KademliaMessage) -> EventLoopFuture<KademliaMessage?>

    private let maximumLength: Int
    private let timeout: TimeAmount
    private let respond: Respond
    private var received = ByteBuffer()
    private var isBusy = false
    private var inputClosed = false
    private var timer: Scheduled<Void>?

    init(maximumLength: Int, timeout: TimeAmount, respond: @escaping Respond) {
        self.maximumLength = maximumLength
        self.timeout = timeout
        self.respond = respond
    }

    func handlerAdded(context: ChannelHandlerContext) { self.restartTimer(context) }

    func handlerRemoved(context: ChannelHandlerContext) { self.timer?.cancel() }

    private func restartTimer(_ context: ChannelHandlerContext) {
        self.timer?.cancel()
        let channel = context.channel
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: self.timeout) { channel.closeWithReset() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.received.writeBuffer(&bytes)
        self.process(context)
    }

    func channelReadComplete(context: ChannelHandlerContext) { self.readMore(context) }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.process(context)
        self.readMore(context)
        context.fireChannelWritabilityChanged()
    }

    private func readMore(_ context: ChannelHandlerContext) {
        if !self.isBusy, context.channel.isWritable { context.read() }
    }

    private func process(_ context: ChannelHandlerContext) {
        guard !self.isBusy, context.channel.isWritable else { return }
        do {
            guard let bytes = try self.received.readVarintPrefixed(maximumLength: self.maximumLength) else {
                if self.inputClosed { context.close(promise: nil) }
                return
            }
            self.received.discardReadBytes()
            self.isBusy = true
            self.restartTimer(context)
            let request = try KademliaMessage(parsing: bytes)
            self.respond(request).assumeIsolated().whenComplete { self.answered($0, context) }
        } catch {
            self.fail(context, error)
        }
    }

    private func answered(_ result: Result<KademliaMessage?, any Error>, _ context: ChannelHandlerContext) {
        guard context.channel.isActive else { return }
        switch result {
        case .failure(let error): self.fail(context, error)
        case .success(let answer):
            self.isBusy = false
            if let answer {
                var bytes = ByteBuffer()
                bytes.writeVarintPrefixed(answer.encoded())
                context.writeAndFlush(self.wrapOutboundOut(bytes), promise: nil)
            }
            self.process(context)
            self.readMore(context)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent else { return }
        self.inputClosed = true
        self.process(context)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func fail(_ context: ChannelHandlerContext, _ error: any Error) {
        self.timer?.cancel()
        self.isBusy = true
        context.channel.closeWithReset()
    }
}
