import ByteStreams
import NIOCore

/// Holds the first bytes of a connection until they tell what is to serve it, gives them to that, and goes.
final class FirstBytesHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    /// Puts what serves the connection into the pipeline behind this handler; false if more bytes are needed.
    typealias Decision = (ChannelHandlerContext, FirstBytesHandler, ByteBuffer) throws -> Bool

    private let timeout: TimeAmount
    private let decide: Decision
    /// The bytes did not come in time, or serve nothing: the connection is closed.
    private let onRefused: (any Error) -> Void
    private var received: ByteBuffer?
    private var deadline: LazyDeadline?

    init(timeout: TimeAmount, onRefused: @escaping (any Error) -> Void, decide: @escaping Decision) {
        self.timeout = timeout
        self.onRefused = onRefused
        self.decide = decide
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        let onRefused = self.onRefused
        self.deadline = LazyDeadline(on: context.eventLoop) {
            onRefused(GatewayError(.clientHello, "the first bytes did not come in time"))
            channel.close(promise: nil)
        }
        self.deadline?.set(self.timeout)
        if context.channel.isActive { context.read() }
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.deadline?.cancel() }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if self.received == nil { self.received = bytes } else { self.received?.writeBuffer(&bytes) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard let received = self.received else { return context.read() }
        do {
            guard try self.decide(context, self, received) else { return context.read() }
        } catch {
            self.onRefused(error)
            return context.close(promise: nil)
        }
        self.received = nil
        context.fireChannelRead(self.wrapInboundOut(received))
        context.fireChannelReadComplete()
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        context.fireUserInboundEventTriggered(event)
        if event is ChannelShouldQuiesceEvent { return context.close(promise: nil) }
        if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
