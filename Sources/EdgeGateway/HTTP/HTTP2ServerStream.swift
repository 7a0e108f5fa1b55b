import NIOCore
import NIOHPACK
import NIOHTTP2

/// One request over HTTP/2. Confined to its loop; it lives until its stream is closed.
final class HTTP2ServerStream: Downstream {
    private let id: HTTP2StreamID
    private let worker: GatewayWorker
    private var connection: HTTP2ServerConnection?
    private var exchange: Exchange?
    private var method = ""
    private var hasBegun = false
    private var requestEnded = false
    private var hasEnded = false
    private var isReset = false
    private var hasContent = true
    private var owesContinue = false

    /// The exchange, or the tunnel, has asked for content.
    private var wantsContent = false
    /// Content that nobody has asked for yet: no more than a window of it.
    private var kept: [ByteBuffer] = []
    private var window = ReceiveWindow(target: HTTP2Bounds.streamWindow)
    /// The fields behind the content, once it has all come.
    private var trailers: HeaderFields?

    /// It is written with what follows it: a response without content is one frame, and so gRPC's clients find the status of a
    /// call that failed at once ("Trailers-Only" of its HTTP/2 protocol).
    private var unwrittenHead: HPACKHeaders?
    /// The last of the content: the end is told with it.
    private var unwrittenContent: ByteBuffer?
    /// Content that waits for the client's window.
    private(set) var unsent = 0
    private var isFull = false
    /// The client is to stop sending once it has all of its answer.
    private var isResetDue = false

    private(set) var idleDeadline: NIODeadline = .distantFuture
    /// The request asks for a tunnel (RFC 8441): what follows its head is not HTTP's.
    private var isTunnel = false
    private var tunnel: HTTP2Tunnel?

    init(_ id: HTTP2StreamID, of connection: HTTP2ServerConnection) {
        self.id = id
        self.connection = connection
        self.worker = connection.worker
    }

    // MARK: From the client

    func receive(_ frame: HTTP2Frame.FramePayload.Headers) {
        if frame.endStream { self.requestEnded = true }
        guard self.hasBegun else { return self.begin(frame) }
        if frame.endStream { self.end(of: HTTP2Heads.trailers(frame.headers)) }
    }

    func receive(_ frame: HTTP2Frame.FramePayload.Data) {
        if frame.endStream { self.requestEnded = true }
        if case .byteBuffer(let bytes) = frame.data, bytes.readableBytes > 0 {
            self.window.received(bytes.readableBytes)
            if self.wantsContent { self.pass(bytes) } else { self.kept.append(bytes) }
        }
        if frame.endStream { self.end(of: nil) }
    }

    private func end(of trailers: HeaderFields?) {
        self.trailers = trailers
        if self.kept.isEmpty { self.completeRequest() }
    }

    private func completeRequest() {
        self.wantsContent = false
        self.exchange?.requestCompleted(self.trailers)
        self.tunnel?.clientEnded()
    }

    private func pass(_ bytes: ByteBuffer) {
        if let tunnel { tunnel.clientSent(bytes) } else { self.exchange?.requestSent(bytes) }
        self.open(self.window.passed(bytes.readableBytes))
    }

    /// The read that brought content is over.
    func readComplete() {
        guard self.wantsContent else { return }
        self.wantsContent = false
        if let tunnel { tunnel.clientPaused() } else { self.exchange?.requestReadComplete() }
    }

    func windowChanged(to size: Int) { self.open(self.window.changed(to: size)) }

    func windowChanged(by delta: Int) { self.open(self.window.changed(by: delta)) }

    private func open(_ increment: Int?) {
        guard let increment, !self.requestEnded, !self.hasEnded || self.tunnel != nil else { return }
        self.connection?.write(.windowUpdate(windowSizeIncrement: increment), on: self.id)
    }

    private func begin(_ frame: HTTP2Frame.FramePayload.Headers) {
        guard let connection = self.connection else { return }
        self.hasBegun = true
        do {
            var head = try HTTP2Heads.request(frame.headers, ends: frame.endStream, limits: self.worker.limits)
            head.port = connection.client.port
            if head.upgrade != nil {
                self.isTunnel = true
                // The backend's protocol wants one (RFC 6455 section 4.1); the client's does without.
                head.fields.set("sec-websocket-key", WebSocketKey.make(using: &self.worker.generator))
            }
            self.owesContinue = head.expectsContinue
            self.method = head.method
            let exchange = Exchange(worker: self.worker, client: connection.client, head: head, downstream: self)
            self.exchange = exchange
            exchange.begin()
        } catch {
            self.worker.counters.requestsRefused += 1
            let answer = GatewayAnswer.make(error.status, error.message, to: nil, detail: self.worker.showsReasons)
            self.answer(answer.head)
            self.send(answer.body)
            self.end(nil)
        }
    }

    /// The stream is over, whoever ended it.
    /// - Parameter isReset: nothing more is wanted of it.
    func closed(isReset: Bool) {
        let exchange = self.exchange
        let tunnel = self.tunnel
        self.exchange = nil
        self.tunnel = nil
        self.connection = nil
        self.hasEnded = true
        self.kept = []
        self.unwrittenContent = nil
        exchange?.downstreamClosed()
        tunnel?.streamClosed(isReset: isReset)
    }

    func becameWritable() {
        if self.isResetDue, self.unsent == 0, !self.requestEnded {
            self.isResetDue = false
            return self.write(.rstStream(.noError))
        }
        guard self.isWritable else { return }
        if let tunnel { tunnel.clientBecameWritable() } else { self.exchange?.downstreamBecameWritable() }
    }

    func idledOut() {
        self.idleDeadline = .distantFuture
        if let exchange { return exchange.idledOut() }
        // The client takes nothing of the rest of its answer.
        self.worker.counters.timeouts += 1
        self.abort()
    }

    /// The client sends nothing more: a request that is not whole never will be.
    func inputEnded() {
        if !self.requestEnded, !self.isResetDue { self.abort() }
    }

    /// Content has gone out; whether there is room for more again.
    func sent(_ bytes: Int) -> Bool {
        self.unsent -= bytes
        self.boundRest()
        if self.isResetDue, self.unsent == 0 { return true }
        guard self.isFull, self.unsent <= HTTP2Bounds.lowWaterMark else { return false }
        self.isFull = false
        return true
    }

    // MARK: Downstream

    var isWritable: Bool { !self.isFull && self.connection?.isWritable ?? false }

    func setDeadline(_ timeout: TimeAmount) {
        self.idleDeadline = self.worker.loop.now + timeout
        self.connection?.watch(timeout)
    }

    func clearDeadline() { self.idleDeadline = .distantFuture }

    func readRequest() {
        guard !self.wantsContent, !self.requestEnded || !self.kept.isEmpty else { return }
        if self.owesContinue {
            self.owesContinue = false
            self.inform(ResponseHead(status: 100))
        }
        self.wantsContent = true
        guard !self.kept.isEmpty else { return }
        let kept = self.kept
        self.kept = []
        for bytes in kept { self.pass(bytes) }
        if self.requestEnded { self.completeRequest() } else { self.readComplete() }
    }

    func inform(_ head: ResponseHead) {
        guard !self.hasEnded else { return }
        self.write(.headers(.init(headers: HTTP2Heads.encode(head), endStream: false)))
    }

    func answer(_ head: ResponseHead) {
        guard !self.hasEnded else { return }
        self.owesContinue = false
        let isRefused = self.isTunnel && (200..<300).contains(head.status)
        let head = isRefused ? ResponseHead(status: 502) : self.isTunnel ? self.tunnelled(head) : head
        self.hasContent = !isRefused && !ResponseHead.hasNoContent(status: head.status, method: self.method)
        self.unwrittenHead = HTTP2Heads.encode(head)
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
        guard !self.hasEnded, self.hasContent, bytes.readableBytes > 0 else { return }
        self.flush()
        self.unwrittenContent = bytes
        self.unsent += bytes.readableBytes
        if self.unsent > HTTP2Bounds.highWaterMark { self.isFull = true }
    }

    /// Hands on what is there; the connection sends it at the end of the loop's tick.
    func flush() {
        if let head = self.unwrittenHead {
            self.unwrittenHead = nil
            self.write(.headers(.init(headers: head, endStream: false)))
        }
        if let bytes = self.unwrittenContent {
            self.unwrittenContent = nil
            self.write(.data(.init(data: .byteBuffer(bytes))))
        }
    }

    func end(_ trailers: HeaderFields?) {
        guard !self.hasEnded else { return }
        self.hasEnded = true
        self.exchange = nil
        if let trailers {
            self.flush()
            self.write(.headers(.init(headers: HTTP2Heads.encode(trailers), endStream: true)))
        } else if let head = self.unwrittenHead, self.unwrittenContent == nil {
            self.unwrittenHead = nil
            self.write(.headers(.init(headers: head, endStream: true)))
        } else {
            let last = self.unwrittenContent ?? ByteBuffer()
            self.unwrittenContent = nil
            self.flush()
            self.write(.data(.init(data: .byteBuffer(last), endStream: true)))
        }
        self.boundRest()
        guard !self.requestEnded else { return }
        // RFC 9113 section 8.1: the client may stop sending, and has its answer. A reset drops what is not on its way.
        self.connection?.flush()
        if self.unsent == 0 { self.write(.rstStream(.noError)) } else { self.isResetDue = true }
    }

    /// From the end of an answer on nothing else sees to it that the client takes what is left.
    private func boundRest() {
        guard self.hasEnded, self.tunnel == nil else { return }
        if self.unsent > 0 { self.setDeadline(self.worker.limits.idleTimeout) } else { self.clearDeadline() }
    }

    func abort() {
        guard !self.isReset else { return }
        let exchange = self.exchange
        self.isReset = true
        self.hasEnded = true
        self.exchange = nil
        self.unwrittenHead = nil
        self.unwrittenContent = nil
        self.write(.rstStream(.internalError))
        exchange?.downstreamClosed()
    }

    private func write(_ frame: HTTP2Frame.FramePayload) { self.connection?.write(frame, on: self.id) }

    // MARK: Tunnels

    func join(_ channel: any Channel, received: ByteBuffer?) {
        guard self.isTunnel, !self.hasEnded else { return channel.close(promise: nil) }
        self.exchange = nil
        let tunnel = HTTP2Tunnel(self, worker: self.worker)
        self.tunnel = tunnel
        do {
            try channel.pipeline.syncOperations.addHandler(tunnel)
        } catch {
            channel.close(promise: nil)
            return self.abort()
        }
        if let received { self.send(received) }
        self.flush()
        tunnel.start()
        if self.requestEnded, self.kept.isEmpty { tunnel.clientEnded() }
    }

    /// The backend has ended its direction; the client may go on.
    func endTunnel() {
        guard !self.hasEnded else { return }
        self.hasEnded = true
        let last = self.unwrittenContent ?? ByteBuffer()
        self.unwrittenContent = nil
        self.write(.data(.init(data: .byteBuffer(last), endStream: true)))
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
