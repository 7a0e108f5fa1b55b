import ByteStreams
import NIOCore

/// One HTTP/1.1 connection to a backend, which serves requests one after the other. Confined to its loop.
final class HTTP1Upstream: ChannelInboundHandler, RemovableChannelHandler, UpstreamStream {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum State {
        case idle
        /// The head of the response is waited for.
        case head
        case body(HTTP1BodyDecoder)
        case closed
    }

    /// Not weak: it holds its stream until the request is over, which costs less.
    var observer: (any UpstreamObserver)?
    /// Where it goes when a request is done and it may have another; called once for each.
    var onIdle: ((HTTP1Upstream) -> Void)?
    var onClose: ((HTTP1Upstream) -> Void)?
    private var state = State.idle
    private var context: ChannelHandlerContext?
    private var parser: HTTP1HeadParser
    private let limits: HTTP1HeadParser.Limits
    private let spares: SpareBuffers
    private var received: ByteBuffer?
    private var method = ""
    private var isChunked = false
    private var requestEnded = false
    private var keepsAlive = true
    private var hasAnswered = false
    private(set) var requests = 0
    private var isReading = false
    /// TLS is up, or there is none.
    private var isReady: Bool

    init(limits: HTTP1HeadParser.Limits, isSecured: Bool, spares: SpareBuffers = SpareBuffers()) {
        self.spares = spares
        self.limits = limits
        self.isReady = !isSecured
        self.parser = HTTP1HeadParser(.response, limits: limits)
    }

    var isWritable: Bool { self.context?.channel.isWritable ?? false }

    /// Its channel says so, when it ends, before anybody can ask.
    var isOpen: Bool { if case .closed = self.state { false } else { self.context != nil } }

    // MARK: The request

    func send(_ head: RequestHead) {
        guard let context = self.context, self.isOpen else { return self.fail(.reset(isStale: self.requests > 0)) }
        self.requests += 1
        self.state = .head
        self.method = head.method
        self.isChunked = head.body == .streamed
        self.requestEnded = false
        self.keepsAlive = head.upgrade == nil
        self.hasAnswered = false
        var buffer = self.spares.take(1024)
        HTTP1Writer.request(head, into: &buffer)
        context.write(self.wrapOutboundOut(buffer), promise: nil)
        self.spares.give(buffer)
    }

    func write(_ bytes: ByteBuffer) {
        guard let context = self.context, bytes.readableBytes > 0 else { return }
        guard self.isChunked else { return context.write(self.wrapOutboundOut(bytes), promise: nil) }
        HTTP1Chunks.write(bytes, allocator: context.channel.allocator) {
            context.write(self.wrapOutboundOut($0), promise: nil)
        }
    }

    func end(_ trailers: HeaderFields?) {
        self.requestEnded = true
        guard let context = self.context, self.isChunked else { return }
        var buffer = context.channel.allocator.buffer(capacity: 64)
        HTTP1Writer.lastChunk(trailers, into: &buffer)
        context.write(self.wrapOutboundOut(buffer), promise: nil)
    }

    func flush() { self.context?.flush() }

    func read() {
        guard let context = self.context, !self.isReading else { return }
        self.isReading = true
        context.read()
    }

    func cancel() {
        self.observer = nil
        self.close()
    }

    func close() {
        self.state = .closed
        self.context?.close(promise: nil)
    }

    // MARK: Pipeline

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if self.received?.readableBytes ?? 0 == 0 { self.received = bytes } else { self.received?.writeBuffer(&bytes) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.isReading = false
        self.process()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelEvent, case .inputClosed? = event as? ChannelEvent { self.ended() }
        context.fireUserInboundEventTriggered(event)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.observer?.upstreamBecameWritable() }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if self.isReady {
            self.fail(.reset(isStale: self.isStale))
        } else {
            self.fail(.connect("TLS: \(error)"))
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.ended()
        self.state = .closed
        self.onClose?(self)
        self.onIdle = nil
        self.onClose = nil
        context.fireChannelInactive()
    }

    /// TLS tells that it is up.
    func secured() { self.isReady = true }

    // MARK: The response

    private var isStale: Bool { self.requests > 1 && !self.hasAnswered }

    private func process() {
        guard var bytes = self.received else { return self.finishRead() }
        self.received = nil
        do {
            try self.take(&bytes)
        } catch {
            return self.fail(.malformed(error.message))
        }
        if bytes.readableBytes == 0 { self.spares.give(bytes) }
        self.finishRead()
    }

    private func finishRead() {
        switch self.state {
        case .idle, .closed: break
        case .head: self.read()
        case .body: self.observer?.upstreamReadComplete()
        }
    }

    private func take(_ bytes: inout ByteBuffer) throws(HTTP1Error) {
        while true {
            switch self.state {
            case .closed: return
            case .idle:
                // What nobody asked for must not become the next request's answer.
                if bytes.readableBytes > 0 { self.close() }
                return
            case .head:
                guard let parsed = try self.parser.next(&bytes) else {
                    self.received = bytes
                    return
                }
                self.hasAnswered = true
                let head = try HTTP1Semantics.response(parsed, method: self.method)
                if head.status == 101 { return self.switched(head, &bytes) }
                if head.isInformational {
                    self.observer?.upstreamInformed(head)
                    continue
                }
                try self.answered(head)
            case .body(var decoder):
                guard let event = try decoder.next(&bytes) else {
                    self.state = .body(decoder)
                    if bytes.readableBytes > 0 { self.received = bytes }
                    return
                }
                self.state = .body(decoder)
                switch event {
                case .bytes(let slice): self.observer?.upstreamSent(slice)
                case .end(let trailers):
                    if bytes.readableBytes > 0 { self.keepsAlive = false }
                    return self.done(trailers)
                }
            }
        }
    }

    private func answered(_ head: ResponseHead) throws(HTTP1Error) {
        if !head.keepsAlive { self.keepsAlive = false }
        let framing: HTTP1BodyDecoder.Framing =
            if ResponseHead.hasNoContent(status: head.status, method: self.method) {
                .length(0)
            } else {
                switch head.body {
                case .none: .length(0)
                case .known(let length): .length(length)
                case .streamed: head.isChunked ? .chunked : .untilEnd
                }
            }
        self.state = .body(HTTP1BodyDecoder(framing, limits: self.limits))
        self.observer?.upstreamAnswered(head)
    }

    private func done(_ trailers: HeaderFields?) {
        let observer = self.observer
        self.observer = nil
        if self.keepsAlive, self.requestEnded, let onIdle = self.onIdle {
            self.state = .idle
            onIdle(self)
            // Its end is seen while it waits.
            self.read()
        } else {
            self.close()
        }
        observer?.upstreamEnded(trailers)
    }

    private func switched(_ head: ResponseHead, _ bytes: inout ByteBuffer) {
        guard let context = self.context, let observer = self.observer else { return self.close() }
        self.observer = nil
        self.state = .closed
        self.onIdle = nil
        // The pool has no more to do with it.
        self.onClose?(self)
        self.onClose = nil
        let rest = bytes.readableBytes > 0 ? bytes : nil
        let channel = context.channel
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
        observer.upstreamSwitched(head, channel, received: rest)
    }

    private func ended() {
        switch self.state {
        case .closed: break
        case .idle: self.close()
        case .body(let decoder) where decoder.endsWithConnection:
            let observer = self.observer
            self.observer = nil
            self.close()
            observer?.upstreamEnded(nil)
        case .head, .body: self.fail(.reset(isStale: self.isStale))
        }
    }

    private func fail(_ failure: UpstreamFailure) {
        let observer = self.observer
        self.observer = nil
        self.close()
        observer?.upstreamFailed(failure)
    }
}

/// Chunks of a body (RFC 9112 section 7.1).
enum HTTP1Chunks {
    /// One chunk; a small one is copied, so that it is one write.
    static func write(_ bytes: ByteBuffer, allocator: ByteBufferAllocator, _ write: (ByteBuffer) -> Void) {
        let count = bytes.readableBytes
        var head = allocator.buffer(capacity: count <= 4096 ? count + 12 : 12)
        HTTP1Writer.chunkHead(count, into: &head)
        if count <= 4096 {
            head.writeImmutableBuffer(bytes)
            head.writeString("\r\n")
            return write(head)
        }
        write(head)
        write(bytes)
        write(ByteBuffer(string: "\r\n"))
    }
}
