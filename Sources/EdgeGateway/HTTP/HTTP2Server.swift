import ByteStreams
import NIOCore
import NIOHPACK
import NIOHTTP2

/// Sets up the server side of HTTP/2 on a connection of a client.
enum HTTP2Server {
    /// On the channel's loop. The connection reads by itself from now on; each stream is held back by its flow control.
    static func install(on channel: any Channel, worker: GatewayWorker, client: ClientConnection) throws {
        let limits = worker.limits
        let management = NIOHTTP2ServerConnectionManagementHandler(
            eventLoop: channel.eventLoop,
            configuration: .init(
                maxIdleTime: limits.keepAliveTimeout,
                maxAge: nil,
                maxGraceTime: limits.drainTimeout,
                keepalive: nil
            )
        )
        let connectionGuard = HTTP2ConnectionGuard(worker: worker)
        let connection = NIOLoopBound((worker, client, connectionGuard), eventLoop: channel.eventLoop)
        let pipeline = channel.pipeline.syncOperations
        _ = try pipeline.configureHTTP2Pipeline(
            mode: .server,
            connectionConfiguration: HTTP2Bounds.connection(limits, isServer: true),
            streamConfiguration: HTTP2Bounds.stream(limits),
            streamDelegate: management.http2StreamDelegate
        ) { stream in
            stream.eventLoop.makeCompletedFuture {
                let (worker, client, connectionGuard) = connection.value
                connectionGuard.streamBegan()
                try stream.syncOptions?.setOption(.autoRead, value: false)
                try stream.pipeline.syncOperations.addHandler(HTTP2ServerStream(worker: worker, client: client))
            }
        }
        try pipeline.addHandler(management)
        try pipeline.addHandler(connectionGuard)
        try channel.syncOptions?.setOption(.autoRead, value: true)
    }

    /// Whether the client has broken HTTP/2, and not only ended its connection without a word.
    static func isBreach(_ error: any Error) -> Bool { error is any NIOHTTP2Error || error is any NIOHPACKError }
}

/// Ends a connection whose peer does not keep to HTTP/2. An error of one stream is that stream's.
private final class HTTP2ConnectionGuard: ChannelInboundHandler {
    typealias InboundIn = HTTP2Frame

    private let worker: GatewayWorker
    /// For the first request; from then on the connection's management sees to it.
    private var deadline: LazyDeadline?

    init(worker: GatewayWorker) { self.worker = worker }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        self.deadline = LazyDeadline(on: context.eventLoop) { channel.close(promise: nil) }
        self.deadline?.set(self.worker.limits.keepAliveTimeout)
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.streamBegan() }

    func streamBegan() {
        self.deadline?.cancel()
        self.deadline = nil
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard !(error is NIOHTTP2Errors.StreamError) else { return }
        if HTTP2Server.isBreach(error) { self.worker.counters.requestsRefused += 1 }
        context.close(promise: nil)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // Nothing comes after the client's end of input, and its answers cannot be told to be wanted.
        if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }
}

/// One request over HTTP/2. Confined to its loop.
final class HTTP2ServerStream: ChannelInboundHandler, RemovableChannelHandler, Downstream {
    typealias InboundIn = HTTP2Frame.FramePayload
    typealias OutboundOut = HTTP2Frame.FramePayload

    var deadline: LazyDeadline? { nil }
    private let worker: GatewayWorker
    private let client: ClientConnection
    private var context: ChannelHandlerContext?
    private var exchange: Exchange?
    private var requestEnded = false
    private var hasEnded = false
    private var hasContent = true
    private var isReading = false
    /// It is written with what follows it: a response without content is one frame, and so gRPC's clients find the status of a
    /// call that failed at once ("Trailers-Only" of its HTTP/2 protocol).
    private var unwrittenHead: HPACKHeaders?
    private var owesContinue = false
    /// The request asks for a tunnel (RFC 8441): what follows its head is not HTTP's.
    private var isTunnel = false
    /// What the client has sent before its tunnel is there.
    private var early: ByteBuffer?

    init(worker: GatewayWorker, client: ClientConnection) {
        self.worker = worker
        self.client = client
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.readRequest() }
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        self.readRequest()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .headers(let frame):
            if frame.endStream { self.requestEnded = true }
            if self.exchange == nil, !self.hasEnded {
                self.begin(frame)
            } else if frame.endStream {
                self.exchange?.requestCompleted(HTTP2Heads.trailers(frame.headers))
            }
        case .data(let frame):
            if frame.endStream { self.requestEnded = true }
            if case .byteBuffer(let bytes) = frame.data, bytes.readableBytes > 0 { self.received(bytes) }
            if frame.endStream { self.exchange?.requestCompleted(nil) }
        default: break
        }
    }

    private func received(_ bytes: ByteBuffer) {
        guard self.isTunnel else {
            self.exchange?.requestSent(bytes)
            return
        }
        // No more than one window of them: nothing is read before the tunnel is there.
        if self.early == nil { self.early = bytes } else { self.early?.writeImmutableBuffer(bytes) }
    }

    private func begin(_ frame: HTTP2Frame.FramePayload.Headers) {
        do {
            var head = try HTTP2Heads.request(frame.headers, ends: frame.endStream, limits: self.worker.limits)
            head.port = self.client.port
            if head.upgrade != nil {
                self.isTunnel = true
                // The backend's protocol wants one (RFC 6455 section 4.1); the client's does without.
                head.fields.set("sec-websocket-key", WebSocketKey.make(using: &self.worker.generator))
            }
            self.owesContinue = head.expectsContinue
            let exchange = Exchange(worker: self.worker, client: self.client, head: head, downstream: self)
            self.exchange = exchange
            self.method = head.method
            exchange.begin()
        } catch {
            self.worker.counters.requestsRefused += 1
            let answer = GatewayAnswer.make(error.status, error.message, to: nil, detail: self.worker.showsReasons)
            self.answer(answer.head)
            self.send(answer.body)
            self.end(nil)
        }
    }

    private var method = ""

    func channelReadComplete(context: ChannelHandlerContext) {
        self.isReading = false
        if self.exchange != nil { self.exchange?.requestReadComplete() } else if !self.hasEnded { self.readRequest() }
        context.fireChannelReadComplete()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.exchange?.downstreamBecameWritable() }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.gone()
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.gone()
        context.fireChannelInactive()
    }

    private func gone() {
        let exchange = self.exchange
        self.exchange = nil
        self.hasEnded = true
        exchange?.downstreamClosed()
    }

    // MARK: Downstream

    var isWritable: Bool { self.context?.channel.isWritable ?? false }

    func readRequest() {
        guard !self.isReading, !self.requestEnded, let context = self.context else { return }
        if self.owesContinue {
            self.owesContinue = false
            self.inform(ResponseHead(status: 100))
        }
        self.isReading = true
        context.read()
    }

    func inform(_ head: ResponseHead) {
        guard !self.hasEnded else { return }
        self.write(.headers(.init(headers: HTTP2Heads.encode(head), endStream: false)))
        self.flush()
    }

    func answer(_ head: ResponseHead) {
        guard !self.hasEnded else { return }
        self.owesContinue = false
        let isRefused = self.isTunnel && (200..<300).contains(head.status)
        let head = isRefused ? ResponseHead(status: 502) : self.isTunnel ? self.tunnelled(head) : head
        self.hasContent = !isRefused && !ResponseHead.hasNoContent(status: head.status, method: self.method)
        self.unwrittenHead = HTTP2Heads.encode(head)
    }

    private func writeHead(endStream: Bool) {
        guard let headers = self.unwrittenHead else { return }
        self.unwrittenHead = nil
        self.write(.headers(.init(headers: headers, endStream: endStream)))
    }

    /// RFC 8441 section 5: a tunnel begins with 200, which is why no other answer to such a request may have it.
    private func tunnelled(_ head: ResponseHead) -> ResponseHead {
        guard head.status == 101 else { return head }
        var head = head
        head.status = 200
        for name in ["upgrade", "connection", "sec-websocket-accept"] { head.fields.remove(name) }
        return head
    }

    func send(_ bytes: ByteBuffer) {
        guard !self.hasEnded, self.hasContent else { return }
        self.writeHead(endStream: false)
        self.write(.data(.init(data: .byteBuffer(bytes))))
    }

    func flush() {
        self.writeHead(endStream: false)
        self.context?.flush()
    }

    func end(_ trailers: HeaderFields?) {
        guard !self.hasEnded, let context = self.context else { return }
        self.hasEnded = true
        self.exchange = nil
        if let trailers {
            self.writeHead(endStream: false)
            self.write(.headers(.init(headers: HTTP2Heads.encode(trailers), endStream: true)))
        } else if self.unwrittenHead != nil {
            self.writeHead(endStream: true)
        } else {
            self.write(.data(.init(data: .byteBuffer(ByteBuffer()), endStream: true)))
        }
        // RFC 9113 section 8.1: the client may stop sending, and has its answer.
        if !self.requestEnded { self.write(.rstStream(.noError)) }
        context.flush()
    }

    func abort() {
        self.hasEnded = true
        self.exchange = nil
        self.unwrittenHead = nil
        self.write(.rstStream(.internalError))
        self.flush()
    }

    func join(_ channel: any Channel, received: ByteBuffer?) {
        guard self.isTunnel, !self.hasEnded, let context = self.context else { return channel.close(promise: nil) }
        self.exchange = nil
        self.hasEnded = true
        let pair = GlueHandler.matchedPair(
            counters: self.worker.glue,
            idleTimeout: self.worker.limits.streamIdleTimeout,
            lingerTimeout: self.worker.limits.lingerTimeout
        )
        self.writeHead(endStream: false)
        if let received { self.write(.data(.init(data: .byteBuffer(received)))) }
        context.flush()
        let (early, inputEnded) = (self.early, self.requestEnded)
        self.early = nil
        do {
            try channel.pipeline.syncOperations.addHandler(pair.server)
            let tunnel = HTTP2Tunnel(inputEnded: inputEnded)
            try context.pipeline.syncOperations.addHandler(pair.client, position: .after(self))
            try context.pipeline.syncOperations.addHandler(tunnel, position: .after(self))
        } catch {
            channel.close(promise: nil)
            return context.close(promise: nil)
        }
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
        pair.client.start(received: early, inputEnded: inputEnded)
    }

    private func write(_ frame: HTTP2Frame.FramePayload) {
        self.context?.write(self.wrapOutboundOut(frame), promise: nil)
    }
}

/// `Sec-WebSocket-Key`: 16 random bytes in base64.
enum WebSocketKey {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func make(using generator: inout some RandomNumberGenerator) -> String {
        // The last digit stands for two bits only, and the four behind them are zero.
        let digits = (0..<22).map { index in
            let value = Int.random(in: 0..<64, using: &generator)
            return Self.alphabet[index < 21 ? value : value & 0x30]
        }
        return String(decoding: digits, as: UTF8.self) + "=="
    }
}
