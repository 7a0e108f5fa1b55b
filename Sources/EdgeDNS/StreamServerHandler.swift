import DNSWire
import MeshCore
import NIOCore

/// Answers queries on one TCP connection (RFC 7766): several may be under way, and replies go out as they are ready.
/// Reading stops while too many wait or the client does not take its replies.
final class StreamServerHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let responder: QueryResponder
    private let onClose: () -> Void
    private var context: ChannelHandlerContext?
    private var received = ByteBuffer()
    private var outstanding = 0
    private var isReadWanted = false
    private var lastQuery = NIODeadline.now()
    private var idleTimer: Scheduled<Void>?

    init(_ responder: QueryResponder, onClose: @escaping () -> Void) {
        self.responder = responder
        self.onClose = onClose
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.scheduleIdleCheck(context)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.context = nil
        self.idleTimer?.cancel()
        self.onClose()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.received.writeImmutableBuffer(self.unwrapInboundIn(data))
        self.answerReceived(context)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }

    func read(context: ChannelHandlerContext) {
        if self.mayRead(context) { context.read() } else { self.isReadWanted = true }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.resumeReading(context)
    }

    private func mayRead(_ context: ChannelHandlerContext) -> Bool {
        context.channel.isWritable && self.outstanding < self.responder.settings.maximumQueriesPerConnection
    }

    private func resumeReading(_ context: ChannelHandlerContext) {
        guard self.mayRead(context) else { return }
        self.answerReceived(context)
        guard self.isReadWanted, self.mayRead(context) else { return }
        self.isReadWanted = false
        context.read()
    }

    private func answerReceived(_ context: ChannelHandlerContext) {
        while self.mayRead(context), let message = self.received.readLengthPrefixedSlice(as: UInt16.self) {
            self.lastQuery = .now()
            var reply = context.channel.allocator.buffer(capacity: 512)
            reply.writeInteger(UInt16(0))
            let disposition = message.withUnsafeReadableBytes {
                self.responder.respond(to: $0, overTCP: true, into: &reply)
            }
            switch disposition {
            case .answered:
                self.write(reply, context)
            case .ignored:
                return context.close(promise: nil)
            case .deferred(let query):
                self.outstanding += 1
                self.responder.resolve(query) { [weak self] answer in self?.deliver(answer) }
            }
        }
        self.received.discardReadBytes()
    }

    private func deliver(_ answer: ByteBuffer) {
        self.outstanding -= 1
        guard let context else { return }
        var reply = context.channel.allocator.buffer(capacity: answer.readableBytes + 2)
        reply.writeInteger(UInt16(0))
        reply.writeImmutableBuffer(answer)
        self.write(reply, context)
        context.flush()
        self.resumeReading(context)
    }

    /// The first two octets of `reply` become its length.
    private func write(_ reply: ByteBuffer, _ context: ChannelHandlerContext) {
        var reply = reply
        reply.setInteger(UInt16(truncatingIfNeeded: reply.readableBytes - 2), at: reply.readerIndex)
        context.write(self.wrapOutboundOut(reply), promise: nil)
    }

    /// The time runs from the last whole query, so that neither silence nor single octets keep a connection open.
    private func scheduleIdleCheck(_ context: ChannelHandlerContext) {
        let timeout = TimeAmount.nanoseconds(self.responder.settings.connectionIdleTimeout.saturatedNanoseconds)
        let deadline = self.lastQuery + timeout
        self.idleTimer = context.eventLoop.assumeIsolated().scheduleTask(
            deadline: max(deadline, .now() + .milliseconds(100))
        ) {
            guard let context = self.context else { return }
            let isIdle = NIODeadline.now() >= self.lastQuery + timeout
            if isIdle, self.outstanding == 0 || !context.channel.isWritable {
                context.close(promise: nil)
            } else {
                self.scheduleIdleCheck(context)
            }
        }
    }
}
