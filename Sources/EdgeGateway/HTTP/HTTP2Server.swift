import NIOCore
import NIOHPACK
import NIOHTTP2

/// Sets up the server side of HTTP/2 on a connection of a client.
enum HTTP2Server {
    /// On the channel's loop. The connection reads by itself from now on; each stream is held back by its flow control.
    static func install(on channel: any Channel, worker: GatewayWorker, client: ClientConnection) throws {
        let limits = worker.limits
        let connection = HTTP2ServerConnection(worker: worker, client: client)
        let management = NIOHTTP2ServerConnectionManagementHandler(
            eventLoop: channel.eventLoop,
            configuration: .init(
                maxIdleTime: limits.keepAliveTimeout,
                maxAge: nil,
                maxGraceTime: limits.drainTimeout,
                keepalive: nil
            )
        )
        let frames = NIOHTTP2Handler(
            mode: .server,
            frameDelegate: connection,
            connectionConfiguration: HTTP2Bounds.connection(limits, isServer: true),
            streamConfiguration: HTTP2Bounds.stream(limits)
        )
        let pipeline = channel.pipeline.syncOperations
        try pipeline.addHandlers([frames, connection, management])
        try channel.syncOptions?.setOption(.autoRead, value: true)
    }

    /// Whether the client has broken HTTP/2, and not only ended its connection without a word.
    static func isBreach(_ error: any Error) -> Bool { error is any NIOHTTP2Error || error is any NIOHPACKError }
}

/// The frames of one HTTP/2 connection of a client, and its streams. A stream is no channel: to make one would cost more than all
/// else that a short request takes. Confined to its loop.
///
/// `NIOHTTP2Handler` keeps to the protocol: states, settings, lengths, windows, floods. Here frames find their requests, and what
/// has been read of a stream opens its window again.
final class HTTP2ServerConnection: ChannelInboundHandler, NIOHTTP2FrameDelegate {
    typealias InboundIn = HTTP2Frame
    typealias InboundOut = HTTP2Frame
    typealias OutboundOut = HTTP2Frame

    let worker: GatewayWorker
    let client: ClientConnection
    private var context: ChannelHandlerContext?
    private var streams: [HTTP2StreamID: HTTP2ServerStream] = [:]
    private var window = ReceiveWindow(target: HTTP2Bounds.connectionWindow)
    /// Streams to which the present read has brought content.
    private var readStreams: [HTTP2ServerStream] = []
    /// Streams that take more again.
    private var drainedStreams: [HTTP2ServerStream] = []
    private var isReading = false
    private var isFlushDue = false
    private var inputEnded = false
    /// For the first request, and for the last bytes; in between the connection's management sees to it.
    private var edgeDeadline: LazyDeadline?
    /// No later than that of any stream.
    private var streamDeadline: LazyDeadline?

    init(worker: GatewayWorker, client: ClientConnection) {
        self.worker = worker
        self.client = client
    }

    var loop: any EventLoop { self.worker.loop }

    // MARK: Pipeline

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.closeIn(self.worker.limits.keepAliveTimeout, context.channel)
        self.streamDeadline = LazyDeadline(on: self.loop) { self.endIdleStreams() }
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.gone() }

    func channelInactive(context: ChannelHandlerContext) {
        self.gone()
        context.fireChannelInactive()
    }

    private func gone() {
        self.context = nil
        self.edgeDeadline?.cancel()
        self.streamDeadline?.cancel()
        let streams = self.streams
        self.streams = [:]
        self.readStreams = []
        self.drainedStreams = []
        for stream in streams.values { stream.closed(isReset: false) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.isReading = true
        let frame = self.unwrapInboundIn(data)
        switch frame.payload {
        case .headers(let head): self.stream(frame.streamID).receive(head)
        case .data(let content):
            guard let stream = self.streams[frame.streamID] else { return }
            stream.receive(content)
            self.readStreams.append(stream)
        default: context.fireChannelRead(data)
        }
    }

    /// A stream that is new is so by its first frame: those of streams that are over do not come here.
    private func stream(_ id: HTTP2StreamID) -> HTTP2ServerStream {
        if let known = self.streams[id] { return known }
        self.edgeDeadline?.cancel()
        self.edgeDeadline = nil
        let stream = HTTP2ServerStream(id, of: self)
        self.streams[id] = stream
        return stream
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        let streams = self.readStreams
        self.readStreams.removeAll(keepingCapacity: true)
        for stream in streams { stream.readComplete() }
        self.isReading = false
        self.flush()
        self.resumeStreams()
        context.fireChannelReadComplete()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable {
            self.drainedStreams = []
            for stream in self.streams.values { stream.becameWritable() }
        }
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case let change as NIOHTTP2WindowUpdatedEvent: return self.windowChanged(change)
        case let change as NIOHTTP2BulkStreamWindowChangeEvent:
            for stream in self.streams.values { stream.windowChanged(by: change.delta) }
        case let start as NIOHTTP2StreamCreatedEvent:
            // The management counts streams: one whose head was refused never came to be.
            guard self.streams[start.streamID] != nil else { return }
        case let end as StreamClosedEvent:
            guard let stream = self.streams.removeValue(forKey: end.streamID) else { return }
            stream.closed(isReset: end.reason != nil)
            if self.inputEnded, self.streams.isEmpty { self.finishSoon() }
        case ChannelEvent.inputClosed:
            // What was asked is answered.
            self.inputEnded = true
            if self.streams.isEmpty { self.finishSoon() }
            for stream in self.streams.values { stream.inputEnded() }
        default: break
        }
        context.fireUserInboundEventTriggered(event)
    }

    /// An error of one stream is that stream's; a peer that does not keep to HTTP/2 loses the connection.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let error = error as? NIOHTTP2Errors.StreamError {
            self.streams[error.streamID]?.abort()
        } else {
            if HTTP2Server.isBreach(error) { self.worker.counters.requestsRefused += 1 }
            context.close(promise: nil)
        }
    }

    // MARK: Windows

    private func windowChanged(_ change: NIOHTTP2WindowUpdatedEvent) {
        guard let size = change.inboundWindowSize else { return }
        if change.streamID == .rootStream {
            if let increment = self.window.changed(to: size) {
                self.write(.windowUpdate(windowSizeIncrement: increment), on: .rootStream)
            }
        } else {
            self.streams[change.streamID]?.windowChanged(to: size)
        }
    }

    /// Not the time to write: the frame is on its way.
    func wroteFrame(_ frame: HTTP2Frame) {
        guard case .data(let content) = frame.payload, let stream = self.streams[frame.streamID] else { return }
        if stream.sent(content.data.readableBytes) { self.drainedStreams.append(stream) }
    }

    private func resumeStreams() {
        guard !self.drainedStreams.isEmpty, self.isWritable else { return }
        let streams = self.drainedStreams
        self.drainedStreams = []
        for stream in streams { stream.becameWritable() }
    }

    // MARK: Writing

    var isWritable: Bool { self.context?.channel.isWritable ?? false }

    func write(_ payload: HTTP2Frame.FramePayload, on stream: HTTP2StreamID) {
        guard let context = self.context else { return }
        // Before the frame: one that ends the last stream of a connection that is to close has it closed in the next tick.
        self.flushSoon()
        context.write(self.wrapOutboundOut(HTTP2Frame(streamID: stream, payload: payload)), promise: nil)
    }

    /// What all backends bring in one tick of the loop goes together: a flush is a record of TLS and a call of the kernel.
    private func flushSoon() {
        guard !self.isFlushDue else { return }
        self.isFlushDue = true
        guard !self.isReading else { return }
        let connection = NIOLoopBound(self, eventLoop: self.loop)
        self.loop.execute { connection.value.flushAndResume() }
    }

    private func flushAndResume() {
        self.flush()
        self.resumeStreams()
    }

    func flush() {
        guard self.isFlushDue else { return }
        self.isFlushDue = false
        self.context?.flush()
    }

    /// Behind the frame that has ended the last stream, which is still being written.
    private func finishSoon() {
        let connection = NIOLoopBound(self, eventLoop: self.loop)
        self.loop.execute { connection.value.finish() }
    }

    /// Closes the connection of a client that sends nothing more, once all that it is to have is with the kernel.
    private func finish() {
        guard let context = self.context else { return }
        let channel = context.channel
        self.closeIn(self.worker.limits.lingerTimeout, channel)
        let written = self.loop.makePromise(of: Void.self)
        written.futureResult.whenComplete { _ in channel.close(promise: nil) }
        let last = HTTP2Frame.FramePayload.goAway(lastStreamID: .maxID, errorCode: .noError, opaqueData: nil)
        context.writeAndFlush(self.wrapOutboundOut(HTTP2Frame(streamID: .rootStream, payload: last)), promise: written)
    }

    // MARK: Times

    private func closeIn(_ timeout: TimeAmount, _ channel: any Channel) {
        self.edgeDeadline?.cancel()
        self.edgeDeadline = LazyDeadline(on: self.loop) { channel.close(promise: nil) }
        self.edgeDeadline?.set(timeout)
    }

    /// A stream has set a deadline this far away.
    func watch(_ timeout: TimeAmount) {
        if let deadline = self.streamDeadline, !deadline.isSet { deadline.set(timeout) }
    }

    private func endIdleStreams() {
        let now = self.loop.now
        for stream in self.streams.values where stream.idleDeadline <= now { stream.idledOut() }
        if let next = self.streams.values.map(\.idleDeadline).min(), next < .distantFuture {
            self.streamDeadline?.set(max(next - now, .nanoseconds(1)))
        }
    }
}

/// How much a peer may send until it is told that there is room for more (RFC 9113 section 6.9). A value.
struct ReceiveWindow {
    private let target: Int
    /// What is left of it; unknown until something has come.
    private var size: Int?
    /// Bytes that have come and are kept: for these there is no room yet.
    private var kept = 0

    init(target: Int) { self.target = target }

    mutating func received(_ bytes: Int) { self.kept += bytes }

    /// By how much it is to be opened when bytes have been passed on.
    mutating func passed(_ bytes: Int) -> Int? {
        self.kept -= bytes
        return self.increment
    }

    /// By how much it is to be opened when it has this size.
    mutating func changed(to size: Int) -> Int? {
        self.size = size
        return self.increment
    }

    mutating func changed(by delta: Int) -> Int? {
        self.size = self.size.map { $0 + delta }
        return self.increment
    }

    /// At half its size: each is a frame.
    private var increment: Int? {
        guard let size else { return nil }
        let (open, isOver) = size.addingReportingOverflow(self.kept)
        return isOver || open > self.target / 2 ? nil : self.target - open
    }
}
