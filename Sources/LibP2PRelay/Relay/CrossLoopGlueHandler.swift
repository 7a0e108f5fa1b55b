import ByteStreams
import NIOCore

/// One half of a pair that joins two streams of different event loops, each half confined to its own.
///
/// What one read brings crosses to the other loop at once, in one task. A side is read while fewer than `window` bytes are on their
/// way; the other side acknowledges half a window at a time, and only while its own buffer has room, so a slow reader
/// holds at most a window and one read of memory. Ends, errors and closes go through as with `GlueHandler`.
final class CrossLoopGlueHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    typealias Half = NIOLoopBound<CrossLoopGlueHandler>

    static let window = 128 * 1024

    private let counters: GlueCounters?
    private var context: ChannelHandlerContext?
    private var partner: Half?
    private var hasStarted = false
    private var isOver = false
    private var inputEnded = false
    private var outputEnded = false
    private var batch: [ByteBuffer] = []
    private var batchBytes = 0
    /// Bytes handed to the other half that it has not acknowledged.
    private var inFlight = 0
    /// Bytes written here that are not acknowledged to the other half.
    private var unacknowledged = 0

    /// - Parameter counters: those of the source's loop, given to the half that belongs to the source.
    init(counters: GlueCounters?) {
        self.counters = counters
    }

    /// Begins to read, once both halves are in their pipelines.
    /// - Parameter received: bytes that came from this side before, to be sent first.
    func start(partner: Half, received: ByteBuffer) {
        self.partner = partner
        self.hasStarted = true
        if self.isOver { return self.tell { $0.partnerGone(reset: true) } }
        if received.readableBytes > 0 { self.gather(received) }
        self.handOver()
        if self.inputEnded { self.tell { $0.endOutput() } }
        self.requestRead()
    }

    // MARK: Pipeline

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if !context.channel.isActive { self.isOver = true }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.finish(reset: false)
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.gather(self.unwrapInboundIn(data))
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.handOver()
        self.requestRead()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.acknowledge()
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent {
            self.inputEnded = true
            self.handOver()
            self.tell { $0.endOutput() }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.finish(reset: true)
        context.channel.closeWithReset()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.finish(reset: false)
        context.fireChannelInactive()
    }

    // MARK: From this side to the other

    private func gather(_ bytes: ByteBuffer) {
        self.batch.append(bytes)
        self.batchBytes += bytes.readableBytes
        self.counters?.clientToServerBytes &+= UInt64(bytes.readableBytes)
    }

    private func handOver() {
        guard !self.batch.isEmpty, self.partner != nil else { return }
        let (batch, count) = (self.batch, self.batchBytes)
        self.batch = []
        self.batchBytes = 0
        self.inFlight += count
        self.tell { $0.write(batch, count) }
    }

    private func requestRead() {
        guard self.hasStarted, !self.inputEnded, !self.isOver, self.inFlight < Self.window else { return }
        self.context?.read()
    }

    /// The other half has room again.
    private func acknowledged(_ count: Int) {
        let wasFull = self.inFlight >= Self.window
        self.inFlight -= count
        if wasFull { self.requestRead() }
    }

    /// Nothing more goes or comes on this side.
    private func finish(reset: Bool) {
        guard !self.isOver else { return }
        self.isOver = true
        self.inputEnded = true
        self.outputEnded = true
        self.handOver()
        self.tell { $0.partnerGone(reset: reset) }
        self.partner = nil
    }

    private func tell(_ what: @escaping @Sendable (CrossLoopGlueHandler) -> Void) {
        guard let partner = self.partner else { return }
        partner.eventLoop.execute { what(partner.value) }
    }

    // MARK: From the other side to this

    private func write(_ batch: [ByteBuffer], _ count: Int) {
        guard let context = self.context, !self.outputEnded else { return }
        for bytes in batch { context.write(self.wrapOutboundOut(bytes), promise: nil) }
        context.flush()
        self.counters?.serverToClientBytes &+= UInt64(count)
        self.unacknowledged += count
        self.acknowledge()
    }

    private func acknowledge() {
        guard self.unacknowledged >= Self.window / 2, self.context?.channel.isWritable ?? false else { return }
        let count = self.unacknowledged
        self.unacknowledged = 0
        self.tell { $0.acknowledged(count) }
    }

    /// The other side's input has ended: so does this side's output, behind what is pending.
    private func endOutput() {
        guard !self.outputEnded else { return }
        self.outputEnded = true
        self.context?.close(mode: .output, promise: nil)
    }

    private func partnerGone(reset: Bool) {
        self.partner = nil
        guard !self.isOver else { return }
        self.isOver = true
        self.outputEnded = true
        if reset { self.context?.channel.closeWithReset() } else { self.context?.close(promise: nil) }
    }
}
