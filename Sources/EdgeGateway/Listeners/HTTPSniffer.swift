import ByteStreams
import NIOCore

/// Tells HTTP/2 with prior knowledge from HTTP/1 by a connection's first bytes (RFC 9113 section 3.4).
final class HTTPSniffer: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

    private let worker: GatewayWorker
    private let client: ClientConnection
    private var received: ByteBuffer?
    private var deadline: LazyDeadline?

    init(worker: GatewayWorker, client: ClientConnection) {
        self.worker = worker
        self.client = client
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        self.deadline = LazyDeadline(on: context.eventLoop) { channel.close(promise: nil) }
        self.deadline?.set(self.worker.limits.keepAliveTimeout)
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
        let front = received.readableBytesView.prefix(Self.preface.count)
        guard Self.preface.starts(with: front) else { return self.install(context, isHTTP2: false) }
        if front.count == Self.preface.count { self.install(context, isHTTP2: true) } else { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        context.fireUserInboundEventTriggered(event)
        if event is ChannelShouldQuiesceEvent { return context.close(promise: nil) }
        if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
    }

    private func install(_ context: ChannelHandlerContext, isHTTP2: Bool) {
        do {
            try self.worker.installHTTP(on: context.channel, self.client, isHTTP2: isHTTP2)
        } catch {
            return context.close(promise: nil)
        }
        if let received = self.received {
            self.received = nil
            context.fireChannelRead(self.wrapInboundOut(received))
            context.fireChannelReadComplete()
        }
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
    }
}
