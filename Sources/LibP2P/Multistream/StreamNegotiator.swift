import ByteStreams
import NIOCore
import Yamux

/// Agrees on the protocol of a stream and hands its bytes over when they are first asked for. Confined to the stream's loop.
///
/// States: negotiating -> holding -> gone from the pipeline, or failed.
/// - The channel has `autoRead` off. While it negotiates, this handler reads for itself; from then on it holds what came behind
///   the negotiation, and the end of the input, until somebody reads. So nothing is lost, however late handlers are added.
/// - What it holds meanwhile counts in no bound but this: it reads little at a time.
/// - A lazy initiator lets the stream be written at once: its proposal goes with the first bytes, or alone at the end of the tick.
final class StreamNegotiator: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum Phase { case idle, negotiating, holding, done }

    /// A first write of at most this size is copied behind the proposal, to travel in the same frame.
    private static let maximumCopied = 16 * 1024
    /// What one read brings as long as this handler is there.
    static let maximumRead = 4 * 1024

    let agreed: EventLoopPromise<String>
    private let isLazy: Bool
    private let timeout: TimeAmount
    private var machine: MultistreamStateMachine
    private var phase = Phase.idle
    private var input = ByteBuffer()
    private var proposal: ByteBuffer?
    private var inputClosed = false
    private var readRequested = false
    private var deadline: Scheduled<Void>?

    init(
        role: MultistreamStateMachine.Role,
        isLazy: Bool,
        timeout: TimeAmount,
        agreed: EventLoopPromise<String>
    ) {
        self.machine = MultistreamStateMachine(role: role)
        self.isLazy = isLazy
        self.timeout = timeout
        self.agreed = agreed
    }

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { self.start(context) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.deadline?.cancel()
        self.fail(Self.closed)
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        self.start(context)
    }

    private func start(_ context: ChannelHandlerContext) {
        guard self.phase == .idle else { return }
        self.phase = .negotiating
        YamuxStream.limitReads(of: context.channel, to: Self.maximumRead)
        let bound = NIOLoopBound((handler: self, context: context), eventLoop: context.eventLoop)
        self.deadline = context.eventLoop.scheduleTask(in: self.timeout) {
            bound.value.handler.abort(bound.value.context, Self.late)
        }
        var output = ByteBuffer()
        self.machine.start(to: &output)
        if output.readableBytes > 0 {
            if self.isLazy {
                self.proposal = output
                context.eventLoop.execute { bound.value.handler.sendProposal(bound.value.context) }
            } else {
                context.writeAndFlush(self.wrapOutboundOut(output), promise: nil)
            }
        }
        context.read()
    }

    // MARK: Outbound

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard var first = self.proposal else {
            context.write(data, promise: promise)
            return
        }
        self.proposal = nil
        var bytes = self.unwrapOutboundIn(data)
        if bytes.readableBytes <= Self.maximumCopied {
            first.writeBuffer(&bytes)
            context.write(self.wrapOutboundOut(first), promise: promise)
        } else {
            context.write(self.wrapOutboundOut(first), promise: nil)
            context.write(self.wrapOutboundOut(bytes), promise: promise)
        }
    }

    func flush(context: ChannelHandlerContext) {
        self.writeProposal(context)
        context.flush()
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        if mode == .output {
            self.writeProposal(context)
            context.flush()
        }
        context.close(mode: mode, promise: promise)
    }

    private func writeProposal(_ context: ChannelHandlerContext) {
        guard let proposal = self.proposal else { return }
        self.proposal = nil
        context.write(self.wrapOutboundOut(proposal), promise: nil)
    }

    private func sendProposal(_ context: ChannelHandlerContext) {
        guard self.proposal != nil else { return }
        self.writeProposal(context)
        context.flush()
    }

    func read(context: ChannelHandlerContext) {
        switch self.phase {
        case .idle, .negotiating: self.readRequested = true
        case .holding: self.handOver(context)
        case .done: context.read()
        }
    }

    // MARK: Inbound

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.phase != .done else {
            context.fireChannelRead(data)
            return
        }
        var bytes = self.unwrapInboundIn(data)
        self.input.writeBuffer(&bytes)
        if self.phase == .negotiating { self.advance(context) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        switch self.phase {
        case .negotiating: context.read()
        case .idle, .holding: break
        case .done: context.fireChannelReadComplete()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent, self.phase != .done else {
            context.fireUserInboundEventTriggered(event)
            return
        }
        self.inputClosed = true
        if self.phase == .negotiating { self.abort(context, Self.closed) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(Self.closed)
        if self.phase == .holding { self.deliver(context) }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(error)
        context.fireErrorCaught(error)
    }

    private func advance(_ context: ChannelHandlerContext) {
        var output = ByteBuffer()
        let outcome: MultistreamStateMachine.Outcome
        do throws(LibP2PError) {
            outcome = try self.machine.receive(&self.input, output: &output)
        } catch {
            if output.readableBytes > 0 { context.writeAndFlush(self.wrapOutboundOut(output), promise: nil) }
            self.abort(context, error)
            return
        }
        if output.readableBytes > 0 { context.write(self.wrapOutboundOut(output), promise: nil) }
        guard case .agreed(let name) = outcome else {
            context.flush()
            return
        }
        self.phase = .holding
        self.deadline?.cancel()
        // A handler that answers at once has its first bytes coalesced with the answer of the negotiation.
        let channel = context.channel
        self.agreed.succeed(name)
        // Not through the context: whoever reads at once has removed this handler.
        channel.flush()
        if self.phase == .holding, self.readRequested { self.handOver(context) }
    }

    /// Somebody reads: gives what is held, then leaves.
    private func handOver(_ context: ChannelHandlerContext) {
        YamuxStream.limitReads(of: context.channel, to: nil)
        let hadBytes = self.deliver(context)
        // Bytes that were held answer the read, unless nobody would ask for more.
        let autoRead = (try? context.channel.syncOptions?.getOption(.autoRead)) ?? false
        if !hadBytes || autoRead { context.read() }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }

    @discardableResult
    private func deliver(_ context: ChannelHandlerContext) -> Bool {
        self.phase = .done
        let bytes = self.input
        self.input = ByteBuffer()
        if bytes.readableBytes > 0 {
            context.fireChannelRead(self.wrapInboundOut(bytes))
            context.fireChannelReadComplete()
        }
        if self.inputClosed { context.fireUserInboundEventTriggered(ChannelEvent.inputClosed) }
        return bytes.readableBytes > 0 || self.inputClosed
    }

    // MARK: Failure

    private func abort(_ context: ChannelHandlerContext, _ error: LibP2PError) {
        guard self.phase == .idle || self.phase == .negotiating else { return }
        self.fail(error)
        if self.isLazy { context.fireErrorCaught(error) }
        // Who does not answer would not end the stream either.
        if error.code == .timedOut { context.channel.closeWithReset() } else { context.close(promise: nil) }
    }

    private func fail(_ error: any Error) {
        guard self.phase == .idle || self.phase == .negotiating else { return }
        self.phase = .done
        self.deadline?.cancel()
        self.agreed.fail(error)
    }

    private static let closed = LibP2PError(
        code: .connectionClosed,
        message: "the stream was closed during protocol negotiation"
    )
    private static let late = LibP2PError(
        code: .timedOut,
        message: "the peer did not answer the proposal of a protocol in time"
    )
}
