import ByteStreams
import NIOCore

/// The requests of one HTTP/1 connection, one after the other. Confined to its loop.
///
/// What a client sends ahead waits: no more is read than one read's worth beyond what the present request takes.
final class HTTP1Server: ChannelInboundHandler, RemovableChannelHandler, Downstream {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum State {
        case waiting
        case exchanging(Exchange)
        /// The last response is written; what still comes is dropped until the client closes, or until its time is over.
        case closing
        case joined
    }

    private let worker: GatewayWorker
    private let client: ClientConnection
    private var context: ChannelHandlerContext?
    private var state = State.waiting
    private var parser: HTTP1HeadParser
    private var content: HTTP1BodyDecoder?
    private var received: ByteBuffer?
    private var inputEnded = false
    private var isReading = false
    private var isProcessing = false
    private var wantsContent = false
    private var requests = 0
    /// Of the present request.
    private var method = ""
    private var version = HTTPVersion.http11
    private var owesContinue = false
    private var hasAnswered = false
    private var isChunked = false
    private var closesAfter = false
    private var hasWrittenAll = false
    private var hasContent = true
    /// The head of a response, until it is known what goes with it: a short one is one write with its content.
    private var unwrittenHead: ByteBuffer?
    private var deadline: LazyDeadline?

    init(worker: GatewayWorker, client: ClientConnection) {
        self.worker = worker
        self.client = client
        self.parser = HTTP1HeadParser(.request, limits: worker.limits.heads)
    }

    // MARK: Pipeline

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.deadline = LazyDeadline(on: context.eventLoop) { self.late() }
        self.deadline?.set(self.worker.limits.keepAliveTimeout)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.gone()
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if case .closing = self.state { return }
        if self.received?.readableBytes ?? 0 == 0 { self.received = bytes } else { self.received?.writeBuffer(&bytes) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.isReading = false
        if case .closing = self.state { self.read() } else { self.process() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent {
            self.closesAfter = true
            if case .waiting = self.state, !self.parser.isWithin { self.closeGently(context) }
        }
        if case .inputClosed? = event as? ChannelEvent {
            self.inputEnded = true
            switch self.state {
            case .closing: if self.hasWrittenAll { context.close(promise: nil) }
            default: self.process()
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable, case .exchanging(let exchange) = self.state {
            exchange.downstreamBecameWritable()
        }
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
        self.deadline?.cancel()
        self.received = nil
        if case .exchanging(let exchange) = self.state {
            self.state = .closing
            exchange.downstreamClosed()
        }
    }

    /// Between requests a connection is closed; a head that does not come to its end is answered; content is the exchange's matter.
    private func late() {
        switch self.state {
        case .waiting where self.parser.isWithin:
            self.refuse(HTTP1Error(408, "the head of the request did not come in time"))
        case .waiting, .closing: self.context?.close(promise: nil)
        case .exchanging(let exchange): exchange.idledOut()
        case .joined: break
        }
    }

    private func read() {
        guard let context = self.context, !self.isReading, !self.inputEnded else { return }
        self.isReading = true
        context.read()
    }

    // MARK: Requests

    /// Takes what has come as far as it is wanted. What it calls may call it again: then it goes on in its own loop.
    private func process() {
        guard !self.isProcessing else { return }
        self.isProcessing = true
        defer { self.isProcessing = false }
        while self.step() {}
    }

    /// False if there is nothing to do but wait.
    private func step() -> Bool {
        switch self.state {
        case .waiting: return self.takeHead()
        case .exchanging(let exchange): return self.takeContent(exchange)
        case .closing, .joined: return false
        }
    }

    private func takeHead() -> Bool {
        guard let context = self.context else { return false }
        do {
            var bytes = self.received ?? ByteBuffer()
            self.received = nil
            let parsed = try self.parser.next(&bytes)
            if bytes.readableBytes > 0 { self.received = bytes } else { self.worker.spares.give(bytes) }
            guard let parsed else { return self.awaitHead(context) }
            var request = try HTTP1Semantics.request(parsed, scheme: self.client.isSecure ? "https" : "http")
            request.port = self.client.port
            self.begin(request)
            return true
        } catch {
            self.worker.counters.requestsRefused += 1
            self.refuse(error)
            return false
        }
    }

    private func awaitHead(_ context: ChannelHandlerContext) -> Bool {
        if self.inputEnded || self.worker.isStopping && !self.parser.isWithin {
            self.closeGently(context)
            return false
        }
        self.read()
        // From its first byte on a head has its time, however slowly it comes.
        if self.parser.isWithin, self.deadlineIsForIdling {
            self.deadlineIsForIdling = false
            self.deadline?.set(self.worker.limits.headTimeout)
        }
        return false
    }

    private var deadlineIsForIdling = true

    private func begin(_ request: RequestHead) {
        self.requests += 1
        self.deadline?.clear()
        self.method = request.method
        self.version = request.version
        self.hasAnswered = false
        self.isChunked = false
        self.wantsContent = false
        self.owesContinue = request.expectsContinue
        self.closesAfter =
            !request.keepsAlive || self.requests >= self.worker.limits.requestsPerConnection || self.worker.isStopping
        switch request.body {
        case .none: self.content = nil
        case .known(let length): self.content = HTTP1BodyDecoder(.length(length), limits: self.worker.limits.heads)
        case .streamed: self.content = HTTP1BodyDecoder(.chunked, limits: self.worker.limits.heads)
        }
        let exchange = Exchange(worker: self.worker, client: self.client, head: request, downstream: self)
        self.state = .exchanging(exchange)
        exchange.begin()
        // What comes ahead is kept, one read of it: to ask for it only later would cost two calls of the kernel a request.
        if request.body == .none, self.received == nil { self.read() }
    }

    private func takeContent(_ exchange: Exchange) -> Bool {
        guard self.wantsContent, var decoder = self.content else { return false }
        var bytes = self.received ?? ByteBuffer()
        self.received = nil
        do {
            while let event = try decoder.next(&bytes) {
                switch event {
                case .bytes(let slice): exchange.requestSent(slice)
                case .end(let trailers):
                    self.content = nil
                    self.wantsContent = false
                    self.keep(bytes)
                    exchange.requestCompleted(trailers)
                    return true
                }
                // It may have answered, and be done with this request.
                guard case .exchanging(let present) = self.state, present === exchange else { return false }
            }
        } catch {
            self.closesAfter = true
            exchange.requestBroke(error)
            return false
        }
        self.content = decoder
        self.keep(bytes)
        if self.inputEnded {
            exchange.downstreamClosed()
            self.context?.close(promise: nil)
            return false
        }
        self.wantsContent = false
        exchange.requestReadComplete()
        // If it wants more it has said so.
        if self.wantsContent { self.read() }
        return false
    }

    private func keep(_ bytes: ByteBuffer) {
        self.received = bytes.readableBytes > 0 ? bytes : nil
    }

    func readRequest() {
        guard let context = self.context, self.content != nil else { return }
        if self.owesContinue {
            self.owesContinue = false
            if self.received?.readableBytes ?? 0 == 0 {
                self.write(ByteBuffer(string: "HTTP/1.1 100 Continue\r\n\r\n"))
                context.flush()
            }
        }
        self.wantsContent = true
        guard !self.isProcessing else { return }
        if self.received != nil { self.process() }
        if self.wantsContent { self.read() }
    }

    // MARK: Responses

    func setDeadline(_ timeout: TimeAmount) { self.deadline?.set(timeout) }

    func clearDeadline() { self.deadline?.clear() }

    var isWritable: Bool { self.context?.channel.isWritable ?? false }

    func inform(_ head: ResponseHead) {
        guard let context = self.context, !self.hasAnswered else { return }
        var buffer = context.channel.allocator.buffer(capacity: 512)
        HTTP1Writer.response(head, isChunked: false, connection: nil, into: &buffer)
        self.write(buffer)
        context.flush()
    }

    func answer(_ head: ResponseHead) {
        guard self.context != nil else { return }
        self.hasAnswered = true
        // Whether the client sends what nobody asked it for is not known.
        if self.owesContinue { self.closesAfter = true }
        self.owesContinue = false
        // What nobody will read any more cannot be skipped in bounded time.
        if self.content != nil, case .exchanging(let exchange) = self.state, exchange.isFinished {
            self.closesAfter = true
        }
        self.hasContent = !ResponseHead.hasNoContent(status: head.status, method: self.method)
        if self.hasContent, head.body == .streamed {
            self.isChunked = self.version == .http11
            if !self.isChunked { self.closesAfter = true }
        }
        var connection: String? = self.closesAfter ? "close" : self.version == .http10 ? "keep-alive" : nil
        if head.status == 101 { connection = "upgrade" }
        var capacity = 512
        if case .known(let length) = head.body, length <= Self.shortContent { capacity += Int(length) }
        var buffer = self.worker.spares.take(capacity)
        let isChunked = self.isChunked || !self.hasContent && self.version == .http11
        HTTP1Writer.response(head, isChunked: isChunked, connection: connection, into: &buffer)
        self.unwrittenHead = buffer
    }

    /// To copy so much costs less than one more write.
    private static let shortContent = 8 * 1024

    func send(_ bytes: ByteBuffer) {
        guard self.hasContent, bytes.readableBytes > 0, let context = self.context else { return }
        if !self.isChunked, bytes.readableBytes <= Self.shortContent, self.unwrittenHead != nil {
            self.unwrittenHead?.writeImmutableBuffer(bytes)
            return self.writeHead()
        }
        self.writeHead()
        guard self.isChunked else { return self.write(bytes) }
        HTTP1Chunks.write(bytes, allocator: context.channel.allocator) { self.write($0) }
    }

    private func writeHead() {
        guard let head = self.unwrittenHead else { return }
        self.unwrittenHead = nil
        self.write(head)
        self.worker.spares.give(head)
    }

    func flush() {
        self.writeHead()
        self.context?.flush()
    }

    func end(_ trailers: HeaderFields?) {
        guard let context = self.context else { return }
        self.writeHead()
        if self.isChunked {
            var buffer = context.channel.allocator.buffer(capacity: 64)
            HTTP1Writer.lastChunk(trailers, into: &buffer)
            self.write(buffer)
        }
        context.flush()
        if self.closesAfter || self.content != nil { return self.closeGently(context) }
        self.state = .waiting
        self.deadlineIsForIdling = true
        self.deadline?.set(self.worker.limits.keepAliveTimeout)
        self.process()
    }

    func abort() {
        self.state = .closing
        // A plain end could look like that of the response.
        self.context?.channel.closeWithReset()
    }

    func join(_ channel: any Channel, received: ByteBuffer?) {
        guard let context = self.context else { return channel.close(promise: nil) }
        self.state = .joined
        self.deadline?.cancel()
        let pair = GlueHandler.matchedPair(
            counters: self.worker.glue,
            idleTimeout: self.worker.limits.streamIdleTimeout,
            lingerTimeout: self.worker.limits.lingerTimeout
        )
        let (early, inputEnded) = (self.received, self.inputEnded)
        self.received = nil
        self.writeHead()
        if let received { self.write(received) }
        context.flush()
        do {
            try channel.pipeline.syncOperations.addHandler(pair.server)
            try context.pipeline.syncOperations.addHandler(pair.client, position: .after(self))
        } catch {
            channel.close(promise: nil)
            return context.channel.closeWithReset()
        }
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
        pair.client.start(received: early, inputEnded: inputEnded)
    }

    private func write(_ bytes: ByteBuffer) { self.context?.write(self.wrapOutboundOut(bytes), promise: nil) }

    /// Answers what is no request. Then the connection is of no use: nobody knows where the next request begins.
    private func refuse(_ error: HTTP1Error) {
        guard let context = self.context else { return }
        let answer = GatewayAnswer.make(error.status, error.message, to: nil, detail: self.worker.showsReasons)
        var buffer = context.channel.allocator.buffer(capacity: 512)
        HTTP1Writer.response(answer.head, isChunked: false, connection: "close", into: &buffer)
        buffer.writeImmutableBuffer(answer.body)
        context.writeAndFlush(self.wrapOutboundOut(buffer), promise: nil)
        self.closeGently(context)
    }

    /// Ends the output once all is written, and takes what the client still sends, for a while: a close with bytes unread would
    /// reset the connection, and the client might lose the response (RFC 9112 section 9.6).
    private func closeGently(_ context: ChannelHandlerContext) {
        self.state = .closing
        self.received = nil
        self.deadline?.set(self.worker.limits.lingerTimeout)
        let promise = context.eventLoop.makePromise(of: Void.self)
        let server = NIOLoopBound(self, eventLoop: context.eventLoop)
        // Writes end in order: this one tells that all before it are with the kernel.
        promise.futureResult.whenComplete { _ in server.value.wroteAll() }
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer()), promise: promise)
    }

    private func wroteAll() {
        guard let context = self.context, case .closing = self.state else { return }
        self.hasWrittenAll = true
        guard !self.inputEnded else { return context.close(promise: nil) }
        self.deadline?.set(self.worker.limits.closeTimeout)
        context.close(mode: .output, promise: nil)
        self.read()
    }
}
