public import NIOCore

/// Bytes that the glued connections of one event loop have moved. Confined to that loop.
public final class GlueCounters {
    public var clientToServerBytes: UInt64 = 0
    public var serverToClientBytes: UInt64 = 0
    /// Pairs that were reset because one side had ended and the other did not take what was left for it.
    public var lingered: UInt64 = 0

    public init() {}
}

/// Goes on with the sockets of a glued pair that moves much. Confined to the pair's loop.
public protocol GluedSocketsCarrier: AnyObject {
    /// Takes the two sockets over if it can: it duplicates them, calls `release`, which closes their channels without ending
    /// the connections, and goes on. The channels have no byte of theirs left.
    /// - Returns: false if it cannot; the pair goes on as it is and does not ask again.
    func carry(client: NIOBSDSocket.Handle, server: NIOBSDSocket.Handle, release: () -> Void) -> Bool
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
        /// Nothing is read until the partner's pending bytes are with the kernel and the sockets can be handed over.
        static let handingOver = Flags(rawValue: 128)
    }

    /// A read of so many bytes is one of a bulk transfer; after `bulkBytes` of them the sockets are offered to the carrier.
    static let bulkRead = 16 * 1024
    static let bulkBytes = 256 * 1024

    private let side: Side
    private let counters: GlueCounters
    private var flags: Flags = []
    private var context: ChannelHandlerContext?
    private var partner: GlueHandler?
    private var idle: IdleTimer?
    private let lingerTimeout: TimeAmount?
    private var linger: Scheduled<Void>?
    private var carrier: (any GluedSocketsCarrier)?
    /// Bytes of this side's bulk reads since the sockets were offered last.
    private var inBulk = 0

    private init(
        side: Side,
        counters: GlueCounters,
        lingerTimeout: TimeAmount?,
        carrier: (any GluedSocketsCarrier)?
    ) {
        self.side = side
        self.counters = counters
        self.lingerTimeout = lingerTimeout
        self.carrier = carrier
    }

    /// The two halves; each goes into the pipeline of its channel, then `start()` of either begins the reading.
    /// - Parameters:
    ///   - idleTimeout: both sides are closed after this long without a byte in either direction.
    ///   - lingerTimeout: how long a side may take nothing of what is left for it when the other has ended; nil for ever.
    ///   - carrier: who is offered the sockets when they move bulk data; only where no handler stands between them and the
    ///     pair. A channel that is no socket is never offered.
    public static func matchedPair(
        counters: GlueCounters,
        idleTimeout: TimeAmount? = nil,
        lingerTimeout: TimeAmount? = nil,
        carrier: (any GluedSocketsCarrier)? = nil
    ) -> (client: GlueHandler, server: GlueHandler) {
        func half(_ side: Side) -> GlueHandler {
            GlueHandler(side: side, counters: counters, lingerTimeout: lingerTimeout, carrier: carrier)
        }
        let client = half(.client)
        let server = half(.server)
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
        self.carrier = nil
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
        if bytes.readableBytes >= Self.bulkRead { self.inBulk &+= bytes.readableBytes }
        target.write(self.wrapOutboundOut(bytes), promise: nil)
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        self.idle?.touch(context.eventLoop.now)
        // A flush can fail and close everything under our feet; `requestRead` looks again.
        self.partner?.context?.flush()
        if self.inBulk >= Self.bulkBytes { self.offerSockets() }
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
        guard let context = self.context, self.flags.isDisjoint(with: [.inputEnded, .handingOver]),
            self.flags.contains(.active), let target = self.partner?.context
        else { return }
        if target.channel.isWritable {
            self.flags.remove(.readWanted)
            context.read()
        } else {
            self.flags.insert(.readWanted)
        }
    }

    /// This side moves much: the carrier may have both sockets as soon as the partner's has taken what was read before.
    private func offerSockets() {
        self.inBulk = 0
        guard self.carrier != nil, self.flags.isDisjoint(with: [.inputEnded, .handingOver]), let partner = self.partner,
            let target = partner.context
        else { return }
        guard partner.hasPendingBytes else { return self.handOver() }
        self.flags.insert(.handingOver)
        let promise = target.eventLoop.makePromise(of: Void.self)
        let handler = NIOLoopBound(self, eventLoop: target.eventLoop)
        promise.futureResult.whenComplete { _ in
            handler.value.flags.remove(.handingOver)
            handler.value.handOver()
            handler.value.requestRead()
        }
        target.writeAndFlush(self.wrapOutboundOut(ByteBuffer()), promise: promise)
    }

    /// Gives both sockets to the carrier, if neither has ended and no byte is between them.
    private func handOver() {
        guard let carrier = self.carrier, let partner = self.partner, self.isWholeAndEmpty, partner.isWholeAndEmpty
        else {
            return
        }
        let (client, server) = self.side == .client ? (self, partner) : (partner, self)
        let isCarried =
            if let clientSocket = client.socket, let serverSocket = server.socket {
                carrier.carry(client: clientSocket, server: serverSocket) { self.closeBoth() }
            } else {
                false
            }
        if !isCarried {
            self.carrier = nil
            partner.carrier = nil
        }
    }

    private var isWholeAndEmpty: Bool {
        self.flags.contains(.active) && self.flags.isDisjoint(with: [.inputEnded, .outputEnded, .closing])
            && !self.hasPendingBytes
    }

    /// Whether bytes wait in the channel for its peer.
    private var hasPendingBytes: Bool {
        (try? self.context?.channel.syncOptions?.getOption(.bufferedWritableBytes)) != 0
    }

    private var socket: NIOBSDSocket.Handle? {
        try? self.context?.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) { $0 }
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
