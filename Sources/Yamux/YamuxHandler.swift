import DequeModule
public import NIOCore

/// Multiplexes streams over one connection: the last handler of its pipeline, with byte buffers below it and a channel for
/// each stream above it.
///
/// Confined to the connection's event loop. Its parts: `YamuxSessionStateMachine` judges frames, each `YamuxStreamChannel` with its
/// `YamuxStreamStateMachine` holds one stream's bytes, `YamuxHandler+Input` cuts and delivers what comes, `YamuxHandler+Output`
/// gathers what goes, and `YamuxHandler+Timers` watches the peer. Bytes wait in the streams, never in the session, so that every
/// bound is a bound of streams; a connection that is not writable is written nothing at all.
///
/// Specification: hashicorp/yamux `spec.md`; where it is silent, what go-yamux does.
public final class YamuxHandler: ChannelInboundHandler {
    public typealias InboundIn = ByteBuffer
    public typealias OutboundOut = ByteBuffer
    public typealias StreamInitializer = (any Channel) -> EventLoopFuture<Void>

    enum Phase { case waiting, active, closed }

    let configuration: YamuxConfiguration
    let events: YamuxEvents
    let inboundStream: StreamInitializer
    var loop: (any EventLoop)?
    var context: ChannelHandlerContext?
    var phase = Phase.waiting
    var machine: YamuxSessionStateMachine
    var roundTrip = YamuxRoundTrip()
    var streams: [UInt32: YamuxStreamChannel] = [:]
    var closeError: YamuxError?

    // What comes.
    var parser: YamuxFrameParser
    /// The stream of the payload that is being read, and whether the stream's input ends with it.
    var target: (stream: YamuxStreamChannel, isLast: Bool)?
    var isParsing = false
    var nestedReads = Deque<ByteBuffer>()
    var readCompletesOwed: [YamuxStreamChannel] = []
    /// Memory that streams hold unread.
    var unreadBytes = 0
    var windowGrowth = 0
    var unreadAccount: YamuxByteBudget.Account?

    // What goes.
    var unsentBytes = 0
    var unsentAccount: YamuxByteBudget.Account?
    /// Streams that are not writable because too much waits in all of them.
    var heldBack: [YamuxStreamChannel] = []
    /// Streams that can send data, in the order of their turns.
    var ring = Deque<YamuxStreamChannel>()
    /// Streams that owe a window update, SYN or ACK.
    var dirty = Deque<YamuxStreamChannel>()
    /// Outbound streams that wait until the peer has acknowledged others.
    var opening = Deque<YamuxStreamChannel>()
    var unacknowledged = 0
    var pongs = Deque<UInt32>()
    var pingToSend: UInt32?
    var resets = Deque<(id: UInt32, code: UInt32)>()
    var batch = YamuxOutboundBatch()
    var isSending = false
    var isTickScheduled = false

    // Time.
    var heardSincePing = false
    var keepAlive: Scheduled<Void>?
    var stall: Scheduled<Void>?
    var drain: Scheduled<Void>?
    var drainCode = GoAwayCode.normal
    var lingerTimer: Scheduled<Void>?
    var lingering = Deque<(deadline: NIODeadline, id: UInt32)>()

    /// - Parameter inboundStream: sets up a stream that the peer opened. When its future succeeds the stream is acknowledged and
    ///   becomes active; when it fails the stream is reset. On the event loop.
    public init(
        role: YamuxRole,
        configuration: YamuxConfiguration = .init(),
        events: YamuxEvents = .init(),
        inboundStream: @escaping StreamInitializer
    ) {
        self.configuration = configuration
        self.events = events
        self.inboundStream = inboundStream
        self.machine = YamuxSessionStateMachine(role: role, configuration: configuration, now: .uptimeNanoseconds(0))
        self.parser = YamuxFrameParser(wholePayloadBytes: configuration.wholePayloadBytes)
    }

    // MARK: For the host, on the event loop

    /// Streams that are open, or closed here and not yet finished with the peer.
    public var openStreams: Int { self.streams.count }
    public var isIdle: Bool { self.streams.isEmpty }
    /// Smoothed, of pings; nil until the first answer.
    public var roundTripTime: TimeAmount? { self.roundTrip.time }
    /// Memory held by bytes that wait in streams: received and not read, written and not sent.
    public var bufferedBytes: Int { self.unreadBytes + self.unsentBytes }

    /// Opens a stream. It needs no answer of the peer: the stream is active once `initializer` is done, and what is written in
    /// the same tick leaves in its first frame.
    ///
    /// The initializer's future is of this event loop. Fails with ``YamuxError``: `sessionClosed`, `remoteGoAway`, `limitExceeded`. On the event loop only.
    public func openStream(_ initializer: @escaping StreamInitializer) -> EventLoopFuture<any Channel> {
        guard let loop = self.loop else { preconditionFailure("streams are opened on a session that is in a pipeline") }
        loop.preconditionInEventLoop()
        guard let context = self.context, self.phase != .closed else {
            return loop.makeFailedFuture(
                YamuxError(code: .sessionClosed, message: "the session is closed", cause: self.closeError)
            )
        }
        let id: UInt32
        do { id = try self.machine.open() } catch { return loop.makeFailedFuture(error) }
        let stream = self.add(id, inbound: false, on: context.channel)
        let promise = loop.makePromise(of: (any Channel).self)
        initializer(stream).assumeIsolated().whenComplete { result in
            switch result {
            case .success:
                guard stream.session != nil else {
                    let error = YamuxError(code: .sessionClosed, message: "the stream was closed while it was opened")
                    return promise.fail(self.closeError ?? error)
                }
                stream.flags.insert(.awaitsSlot)
                self.opening.append(stream)
                stream.activate()
                self.scheduleTick()
                promise.succeed(stream)
            case .failure(let error):
                stream.reset(code: 0)
                promise.fail(error)
            }
        }
        return promise.futureResult
    }

    /// Ends the session: new streams are refused at once; when all are finished, or `drainUntil` has passed, the peer is told
    /// `code` and the connection is closed. The GoAway comes last as some peers (go-yamux) close everything at its sight.
    public func close(_ code: GoAwayCode = .normal, drainUntil deadline: NIODeadline? = nil) {
        guard self.phase != .closed else { return }
        self.machine.isDraining = true
        self.drainCode = code
        self.drain?.cancel()
        if let deadline, !self.streams.isEmpty, let context = self.context {
            self.drain = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) {
                self.end(error: nil, goAway: code)
            }
        } else {
            self.end(error: nil, goAway: code)
        }
    }

    // MARK: Pipeline

    public func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.loop = context.eventLoop
        self.unreadAccount = self.configuration.unreadBudget?.open(for: self, on: context.eventLoop)
        self.unsentAccount = self.configuration.unsentBudget?.open(for: self, on: context.eventLoop)
        if context.channel.isActive { self.activate() }
    }

    public func handlerRemoved(context: ChannelHandlerContext) {
        self.end(error: YamuxError(code: .sessionClosed, message: "the session's handler was removed"), goAway: nil)
        self.context = nil
    }

    public func channelActive(context: ChannelHandlerContext) {
        self.activate()
        context.fireChannelActive()
    }

    public func channelInactive(context: ChannelHandlerContext) {
        self.end(error: YamuxError(code: .sessionClosed, message: "the connection was closed"), goAway: nil)
        context.fireChannelInactive()
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.end(
            error: YamuxError(code: .sessionClosed, message: "the connection failed", cause: error),
            goAway: nil
        )
        context.fireErrorCaught(error)
    }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed = event as? ChannelEvent {
            self.end(error: YamuxError(code: .sessionClosed, message: "the peer ended the connection"), goAway: nil)
        }
        context.fireUserInboundEventTriggered(event)
    }

    public func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.stall?.cancel()
        self.stall = nil
        if context.channel.isWritable { self.send() }
        context.fireChannelWritabilityChanged()
    }

    private func activate() {
        guard self.phase == .waiting else { return }
        self.phase = .active
        self.ping()
        self.scheduleTick()
    }

    // MARK: Streams come and go

    func add(_ id: UInt32, inbound: Bool, on channel: any Channel) -> YamuxStreamChannel {
        let stream = YamuxStreamChannel(
            id: id,
            session: self,
            parent: channel,
            inbound: inbound,
            configuration: self.configuration
        )
        self.streams[id] = stream
        self.events.streamOpened(inbound)
        return stream
    }

    /// The stream is over; the peer will hear nothing more of it but a reset that was queued.
    func finished(_ stream: YamuxStreamChannel) {
        guard self.streams[stream.id] === stream else { return }
        self.streams[stream.id] = nil
        self.release(stream)
        self.machine.closed(stream.id)
        self.windowGrowth -= stream.machine.receiveWindow.growth
        self.dropEnded(&self.dirty)
        self.dropEnded(&self.ring)
        self.dropEnded(&self.opening)
        // What it had to send gives room to others.
        if !self.heldBack.isEmpty { self.scheduleTick() }
        self.events.streamClosed(self.machine.isInbound(stream.id))
        if self.machine.isDraining, self.streams.isEmpty, self.phase == .active {
            // The last frames of the stream leave first.
            self.drain?.cancel()
            self.drain = self.context?.eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(0)) {
                self.end(error: nil, goAway: self.drainCode)
            }
        }
    }

    /// Streams that have ended leave a queue at its turn. That does not come while the connection takes no bytes, and the peer
    /// may go on to open and reset streams.
    private func dropEnded(_ queue: inout Deque<YamuxStreamChannel>) {
        guard queue.count > 2 * self.streams.count + 64 else { return }
        queue.removeAll { $0.session == nil || self.streams[$0.id] !== $0 }
    }

    /// What the stream holds of the session's limits on beginnings.
    func release(_ stream: YamuxStreamChannel) {
        if stream.flags.contains(.holdsSlot) {
            stream.flags.remove(.holdsSlot)
            self.unacknowledged -= 1
            if !self.opening.isEmpty { self.scheduleTick() }
        }
        if stream.flags.contains(.awaitsAccept) {
            stream.flags.remove(.awaitsAccept)
            self.machine.accepted()
        }
    }

    /// Ends the session with all its streams.
    /// - Parameter error: nil if it ends in peace.
    func end(error: YamuxError?, goAway: GoAwayCode?) {
        guard self.phase != .closed else { return }
        let wasActive = self.phase == .active
        if wasActive, goAway != nil { self.send() }
        guard self.phase != .closed else { return }
        self.phase = .closed
        let cause = YamuxError(code: .sessionClosed, message: "the session was closed", cause: error)
        self.closeError = error ?? cause
        for timer in [self.keepAlive, self.stall, self.drain, self.lingerTimer] { timer?.cancel() }
        (self.keepAlive, self.stall, self.drain, self.lingerTimer) = (nil, nil, nil, nil)
        if let goAway, wasActive, let context = self.context, context.channel.isActive {
            var frame = context.channel.allocator.buffer(capacity: YamuxFrameHeader.byteCount)
            YamuxFrameHeader(.goAway, length: goAway.rawValue).write(to: &frame)
            context.writeAndFlush(self.wrapOutboundOut(frame), promise: nil)
        }
        for stream in self.streams.values { stream.end(error: cause) }
        if let account = self.unreadAccount { self.configuration.unreadBudget?.close(account) }
        if let account = self.unsentAccount { self.configuration.unsentBudget?.close(account) }
        (self.unreadAccount, self.unsentAccount) = (nil, nil)
        self.target = nil
        self.nestedReads = []
        self.readCompletesOwed = []
        self.lingering = []
        (self.ring, self.dirty, self.opening, self.pongs, self.resets) = ([], [], [], [], [])
        self.heldBack = []
        self.events.sessionClosed(error)
        self.context?.close(promise: nil)
    }

    /// The peer did what ends the session.
    func fail(_ error: YamuxError) {
        self.end(error: error, goAway: error.code == .protocolViolation ? .protocolError : .internalError)
    }
}
