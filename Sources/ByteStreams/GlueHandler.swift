public import NIOCore

/// Bytes that the glued connections of one event loop have moved. Confined to that loop.
public final class GlueCounters {
    public var clientToServerBytes: UInt64 = 0
    public var serverToClientBytes: UInt64 = 0
    /// Pairs that were reset because one side had ended and the other did not take what was left for it.
    public var lingered: UInt64 = 0

    public init() {}
}

/// One half of a pair that joins two byte streams of one event loop.
///
/// - A side is read only while the other side's write buffer has room, so a slow reader holds at most
///   `StreamOptions.highWaterMark` and one read of memory.
/// - The end of a side's input ends the other side's output once its pending bytes are written; the other direction goes on.
/// - As long as something is left for a side when the other has ended, some of it has to be taken in each linger timeout, else
///   both are reset: a peer that stopped reading would hold the pair for ever.
/// - An error on a side resets the other; a side that is closed without one has its pending bytes written first.
///
/// Both channels have `autoRead` off, `allowRemoteHalfClosure` on (see `StreamOptions`) and share the event loop; the pair
/// is confined to it. It keeps neither channel alive after both are closed.
public final class GlueHandler: ChannelInboundHandler {
    public typealias InboundIn = ByteBuffer
    public typealias OutboundOut = ByteBuffer

    private enum Side { case client, server }

    private struct Flags: OptionSet {
        let rawValue: UInt8
        /// The partner's buffer was full when this side could have been read.
        static let readWanted = Flags(rawValue: 1)
        /// No more bytes come from this channel.
        static let inputEnded = Flags(rawValue: 2)
        /// No more bytes may be written to this channel: the end is sent, or waits behind pending bytes.
        static let outputEnded = Flags(rawValue: 4)
        static let active = Flags(rawValue: 8)
        static let closing = Flags(rawValue: 16)
        static let started = Flags(rawValue: 32)
        /// All that was to be written is with the kernel.
        static let flushed = Flags(rawValue: 64)
    }

    private let side: Side
    private let counters: GlueCounters
    private var flags: Flags = []
    private var context: ChannelHandlerContext?
    private var partner: GlueHandler?
    private var idle: IdleTimer?
    private let lingerTimeout: TimeAmount?
    private var linger: Scheduled<Void>?

    private init(side: Side, counters: GlueCounters, lingerTimeout: TimeAmount?) {
        self.side = side
        self.counters = counters
        self.lingerTimeout = lingerTimeout
    }

    /// The two halves; each goes into the pipeline of its channel, then `start()` of either begins the reading.
    /// - Parameters:
    ///   - idleTimeout: both sides are closed after this long without a byte in either direction.
    ///   - lingerTimeout: how long a side may take nothing of what is left for it when the other has ended; nil for ever.
    public static func matchedPair(
        counters: GlueCounters,
        idleTimeout: TimeAmount? = nil,
        lingerTimeout: TimeAmount? = nil
    ) -> (client: GlueHandler, server: GlueHandler) {
        let client = GlueHandler(side: .client, counters: counters, lingerTimeout: lingerTimeout)
        let server = GlueHandler(side: .server, counters: counters, lingerTimeout: lingerTimeout)
        client.partner = server
        server.partner = client
        if let idleTimeout {
            let timer = IdleTimer(timeout: idleTimeout)
            client.idle = timer
            server.idle = timer
        }
        return (client, server)
    }

    /// Begins reading on both sides. Both halves are in their pipelines; call it on the client's half.
    /// - Parameters:
    ///   - received: bytes that came from the client before, to be sent first.
    ///   - inputEnded: the client's end of input came before, too.
    public func start(received: ByteBuffer? = nil, inputEnded: Bool = false) {
        guard let partner = self.partner, self.context != nil, let target = partner.context else { return }
        self.flags.insert(.started)
        partner.flags.insert(.started)
        if let loop = self.context?.eventLoop { self.idle?.start(self, on: loop) }
        if let received, received.readableBytes > 0 {
            self.counters.clientToServerBytes &+= UInt64(received.readableBytes)
            target.writeAndFlush(self.wrapOutboundOut(received), promise: nil)
        }
        if inputEnded {
            self.flags.insert(.inputEnded)
            self.partner?.endOutput()
        }
        self.requestRead()
        self.partner?.requestRead()
    }

    // MARK: Pipeline

    public func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.flags.insert(.active) }
    }

    public func handlerRemoved(context: ChannelHandlerContext) {
        self.idle?.cancel()
        self.idle = nil
        self.linger?.cancel()
        self.context = nil
        self.detachPartner()?.peerIsGone()
    }

    public func channelActive(context: ChannelHandlerContext) {
        self.flags.insert(.active)
        context.fireChannelActive()
        if self.flags.contains(.started) { self.requestRead() }
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let partner = self.partner, let target = partner.context, !partner.flags.contains(.outputEnded) else {
            return
        }
        let bytes = self.unwrapInboundIn(data)
        switch self.side {
        case .client: self.counters.clientToServerBytes &+= UInt64(bytes.readableBytes)
        case .server: self.counters.serverToClientBytes &+= UInt64(bytes.readableBytes)
        }
        target.write(self.wrapOutboundOut(bytes), promise: nil)
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        self.idle?.touch(context.eventLoop.now)
        // A flush can fail and close everything under our feet; `requestRead` looks again.
        self.partner?.context?.flush()
        if self.flags.contains(.started) { self.requestRead() }
    }

    public func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable, let partner = self.partner, partner.flags.contains(.readWanted) {
            self.idle?.touch(context.eventLoop.now)
            partner.requestRead()
        }
        context.fireChannelWritabilityChanged()
    }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event as? ChannelEvent {
        case .inputClosed:
            self.flags.insert(.inputEnded)
            self.partner?.endOutput()
        case .outputClosed:
            self.flags.insert(.outputEnded)
            if self.flags.contains(.inputEnded) { self.close() }
        default:
            break
        }
        context.fireUserInboundEventTriggered(event)
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.detachPartner()?.reset()
        self.reset()
    }

    public func channelInactive(context: ChannelHandlerContext) {
        self.flags.insert([.inputEnded, .outputEnded, .closing])
        self.idle?.cancel()
        self.linger?.cancel()
        self.detachPartner()?.peerIsGone()
        context.fireChannelInactive()
    }

    // MARK: This side

    private func requestRead() {
        guard let context = self.context, !self.flags.contains(.inputEnded), self.flags.contains(.active),
            let target = self.partner?.context
        else { return }
        if target.channel.isWritable {
            self.flags.remove(.readWanted)
            context.read()
        } else {
            self.flags.insert(.readWanted)
        }
    }

    /// The partner's input has ended: so does our output, behind what is pending.
    private func endOutput() {
        guard let context = self.context, !self.flags.contains(.outputEnded) else { return }
        self.flags.insert(.outputEnded)
        if self.flags.contains(.inputEnded) {
            // NIO turns the second half-close of a socket into a close at once, which would drop pending bytes.
            self.closeAfterPendingBytes()
        } else {
            let promise = context.eventLoop.makePromise(of: Void.self)
            let handler = NIOLoopBound(self, eventLoop: context.eventLoop)
            // A channel that cannot close one direction is closed whole: an end must not be lost.
            promise.futureResult.whenComplete { handler.value.outputClosed($0) }
            context.close(mode: .output, promise: promise)
            self.boundLinger(context)
        }
    }

    private func outputClosed(_ result: Result<Void, any Error>) {
        self.flags.insert(.flushed)
        self.linger?.cancel()
        self.linger = nil
        if case .failure = result { self.close() }
    }

    /// What is left for this side is with the channel. Until it is all with the kernel, the peer has to take some of it in each
    /// linger timeout. (What the kernel holds is not seen: it takes more when about a third of its buffer is free.)
    private func boundLinger(_ context: ChannelHandlerContext) {
        guard let lingerTimeout, self.linger == nil, !self.flags.contains(.flushed), self.context != nil else { return }
        let options = context.channel.syncOptions
        let before = try? options?.getOption(.bufferedWritableBytes)
        self.linger = context.eventLoop.assumeIsolated().scheduleTask(in: lingerTimeout) {
            self.linger = nil
            let after = try? options?.getOption(.bufferedWritableBytes)
            // Nothing is added any more, so fewer bytes are progress.
            if let before, let after, after < before { return self.boundLinger(context) }
            self.counters.lingered &+= 1
            self.detachPartner()?.reset()
            self.reset()
        }
    }

    private func peerIsGone() {
        self.flags.insert(.outputEnded)
        self.closeAfterPendingBytes()
    }

    private func closeAfterPendingBytes() {
        guard let context = self.context, !self.flags.contains(.closing) else { return }
        self.flags.insert(.closing)
        let promise = context.eventLoop.makePromise(of: Void.self)
        let handler = NIOLoopBound(self, eventLoop: context.eventLoop)
        // Writes end in order: this one tells that all before it are with the kernel.
        promise.futureResult.whenComplete { _ in handler.value.close() }
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer()), promise: promise)
        self.boundLinger(context)
    }

    private func reset() {
        guard let context = self.context else { return }
        self.flags.insert([.outputEnded, .closing])
        context.channel.closeWithReset()
    }

    fileprivate func close() {
        self.flags.insert([.outputEnded, .closing, .flushed])
        self.context?.close(promise: nil)
    }

    fileprivate func closeBoth() {
        let partner = self.detachPartner()
        self.close()
        partner?.close()
    }

    /// Breaks the pair, so that neither half keeps the other.
    private func detachPartner() -> GlueHandler? {
        let partner = self.partner
        self.partner = nil
        partner?.partner = nil
        return partner
    }
}

/// Closes a pair that has been silent for too long. One timer serves both sides and is not moved with each byte.
private final class IdleTimer: NIOScheduledCallbackHandler {
    private let timeout: TimeAmount
    private var lastActivity = NIODeadline.now()
    private var callback: NIOScheduledCallback?
    private var handler: GlueHandler?

    init(timeout: TimeAmount) {
        self.timeout = timeout
    }

    func start(_ handler: GlueHandler, on loop: any EventLoop) {
        self.handler = handler
        self.lastActivity = loop.now
        self.callback = try? loop.assumeIsolated().scheduleCallback(
            at: self.lastActivity + self.timeout,
            handler: self
        )
    }

    func touch(_ now: NIODeadline) {
        self.lastActivity = now
    }

    func cancel() {
        let callback = self.callback
        self.callback = nil
        self.handler = nil
        callback?.cancel()
    }

    func handleScheduledCallback(eventLoop: some EventLoop) {
        guard let handler = self.handler else { return }
        let deadline = self.lastActivity + self.timeout
        if eventLoop.now >= deadline {
            handler.closeBoth()
        } else {
            self.callback = try? eventLoop.assumeIsolated().scheduleCallback(at: deadline, handler: self)
        }
    }
}
