import MeshCore
import NIOCore
import NIOHTTP1
import NIOHTTPCompression
import NIOPosix
import NIOSSL

/// One request to the API server.
struct KubeRequest: Sendable {
    /// Path and query, without the endpoint's prefix.
    var path: String
    /// Nil means GET.
    var body: Body?
    /// The form of the answer that is asked for.
    var accept = "application/json"
    var acceptsGzip = false
    /// The longest silence while an answer is awaited.
    var idleLimit: Duration
    /// The longest time until the answer is complete.
    var totalLimit: Duration
}

extension KubeRequest {
    /// What is sent, and how.
    enum Body: Sendable {
        /// A new object, by POST.
        case json([UInt8])
        /// Changes of fields of an object (RFC 7386), by PATCH.
        case mergePatch([UInt8])

        var bytes: [UInt8] {
            switch self {
            case .json(let bytes), .mergePatch(let bytes): bytes
            }
        }

        var contentType: String {
            switch self {
            case .json: "application/json"
            case .mergePatch: "application/merge-patch+json"
            }
        }

        var method: HTTPMethod {
            switch self {
            case .json: .POST
            case .mergePatch: .PATCH
            }
        }
    }
}

/// Opens HTTP/1.1 connections to one API server. A connection serves one caller, request after request, so a
/// reflector's lists and its watch share one, and a slow list holds up nobody else.
struct KubeTransport: Sendable {
    let endpoint: KubeEndpoint
    let credentials: CredentialStore
    let group: any EventLoopGroup
    let userAgent: String
    var connectLimit: Duration = .seconds(10)

    /// Runs `body` with a new connection and closes it.
    @concurrent
    func withConnection<Result: Sendable>(
        _ body: @concurrent (inout KubeConnection) async throws -> Result
    ) async throws -> Result {
        let channel = try await self.connect()
        return try await channel.executeThenClose { inbound, outbound in
            var connection = KubeConnection(
                transport: self,
                inbound: inbound.makeAsyncIterator(),
                outbound: outbound
            )
            return try await body(&connection)
        }
    }

    private func connect() async throws -> NIOAsyncChannel<HTTPClientResponsePart, KubeConnection.Message> {
        let context = try await self.credentials.tlsContext()
        let serverName = try self.verifiedName()
        let endpoint = self.endpoint
        do {
            return try await ClientBootstrap(group: self.group)
                .connectTimeout(.nanoseconds(self.connectLimit.saturatedNanoseconds))
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelOption(.socketOption(.so_keepalive), value: 1)
                // A watch is silent for minutes: these tell a dead peer from a quiet one within a minute.
                .channelOption(.tcpOption(.init(rawValue: TCPOption.keepIdle)), value: 30)
                .channelOption(.tcpOption(.init(rawValue: TCPOption.keepInterval)), value: 10)
                .channelOption(.tcpOption(.init(rawValue: TCPOption.keepCount)), value: 3)
                .connect(host: endpoint.host, port: endpoint.port) { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let pipeline = channel.pipeline.syncOperations
                        if let context {
                            try pipeline.addHandler(NIOSSLClientHandler(context: context, serverHostname: serverName))
                        }
                        try pipeline.addHTTPClientHandlers()
                        // Unbounded here: the scanners bound each item of what comes out.
                        try pipeline.addHandler(NIOHTTPResponseDecompressor(limit: .none))
                        try pipeline.addHandler(RequestDeadlineHandler(url: endpoint.url))
                        return try NIOAsyncChannel(wrappingChannelSynchronously: channel)
                    }
                }
        } catch let error as KubeError {
            throw error
        } catch {
            throw KubeError(
                .connect,
                "cannot connect to \(endpoint.url); is the server up and the way open?",
                cause: error
            )
        }
    }

    /// The name for SNI and verification; nil makes NIOSSL verify the peer's address against the certificate.
    private func verifiedName() throws(KubeError) -> String? {
        let name = self.endpoint.tls.serverName ?? self.endpoint.host
        guard IPAddress(name) != nil else { return name }
        guard name == self.endpoint.host || self.endpoint.tls.skipsVerification else {
            throw KubeError(
                .invalidConfiguration,
                "tls-server-name \(name) is an address other than the server's, \(self.endpoint.host): give a name"
            )
        }
        return nil
    }
}

/// Values of linux/tcp.h that NIO has no names for.
private enum TCPOption {
    static let keepIdle: CInt = 4
    static let keepInterval: CInt = 5
    static let keepCount: CInt = 6
}

/// A connection in use by one task. Its functions are `@concurrent` because NIO's async channel leaves the caller's
/// actor.
struct KubeConnection {
    /// A request head with its limits, for the handler that watches over them.
    struct Message: Sendable {
        var head: HTTPRequestHead
        var body: [UInt8]
        var idleLimit: TimeAmount
        var totalLimit: TimeAmount
    }

    private let transport: KubeTransport
    private var inbound: NIOAsyncChannelInboundStream<HTTPClientResponsePart>.AsyncIterator
    private let outbound: NIOAsyncChannelOutboundWriter<Message>
    /// False once the server, or an answer left unread, makes another request impossible.
    private(set) var isReusable = true
    /// The server may have closed a connection that it answered on, just as the next request was sent: a failure then says
    /// nothing about the server, and GET may be repeated (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
    var mayHaveBeenClosedIdle: Bool { self.requests > 1 && !self.isAnswered }
    private var requests = 0
    private var isAnswered = false
    private var bodyIsPending = false
    private var keepsAlive = true

    init(
        transport: KubeTransport,
        inbound: NIOAsyncChannelInboundStream<HTTPClientResponsePart>.AsyncIterator,
        outbound: NIOAsyncChannelOutboundWriter<Message>
    ) {
        self.transport = transport
        self.inbound = inbound
        self.outbound = outbound
    }

    /// Sends `request` and waits for the head of its answer. The body must then be read to its end.
    @concurrent
    mutating func send(_ request: KubeRequest) async throws -> HTTPResponseHead {
        let endpoint = self.transport.endpoint
        var headers: HTTPHeaders = [
            "Host": endpoint.authority, "User-Agent": self.transport.userAgent, "Accept": request.accept,
            "Accept-Encoding": request.acceptsGzip ? "gzip" : "identity",
        ]
        if let authorization = try await self.transport.credentials.authorization() {
            guard authorization.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) else {
                throw KubeError(.credentials, "the token for \(endpoint.url) holds bytes that no header can carry")
            }
            headers.add(name: "Authorization", value: authorization)
        }
        if let body = request.body {
            headers.add(name: "Content-Type", value: body.contentType)
            headers.add(name: "Content-Length", value: "\(body.bytes.count)")
        }
        let head = HTTPRequestHead(
            version: .http1_1,
            method: request.body?.method ?? .GET,
            uri: endpoint.pathPrefix + request.path,
            headers: headers
        )
        // Until the answer was read to its end, nothing else can be asked on this connection.
        self.isReusable = false
        self.requests += 1
        self.isAnswered = false
        let message = Message(
            head: head,
            body: request.body?.bytes ?? [],
            idleLimit: .nanoseconds(request.idleLimit.saturatedNanoseconds),
            totalLimit: .nanoseconds(request.totalLimit.saturatedNanoseconds)
        )
        do {
            try await self.outbound.write(message)
        } catch {
            // The reading side knows why the connection is gone; the writing side only that it is.
            while try await self.nextPart() != nil {}
            throw KubeError(.disconnected, "\(endpoint.url) closed the connection", cause: error)
        }
        guard case .head(let response) = try await self.nextPart() else {
            throw KubeError(.disconnected, "\(endpoint.url) closed the connection without an answer")
        }
        self.isAnswered = true
        self.bodyIsPending = true
        self.keepsAlive = response.isKeepAlive
        return response
    }

    /// The next bytes of the body; nil at its end.
    @concurrent
    mutating func nextChunk() async throws -> ByteBuffer? {
        guard self.bodyIsPending else { return nil }
        while let part = try await self.nextPart() {
            switch part {
            case .body(let bytes):
                return bytes
            case .end:
                self.bodyIsPending = false
                self.isReusable = self.keepsAlive
                return nil
            case .head:
                continue
            }
        }
        throw KubeError(
            .disconnected,
            "\(self.transport.endpoint.url) broke the connection off in the middle of an answer"
        )
    }

    /// Allows no further request.
    mutating func retire() {
        self.isReusable = false
    }

    /// The whole rest of the body, of at most `limit` bytes.
    @concurrent
    mutating func collect(limit: Int) async throws -> [UInt8] {
        var bytes: [UInt8] = []
        while let chunk = try await self.nextChunk() {
            guard bytes.count + chunk.readableBytes <= limit else {
                throw KubeError(.tooLarge, "\(self.transport.endpoint.url) answered more than \(limit) bytes")
            }
            bytes.append(contentsOf: chunk.readableBytesView)
        }
        return bytes
    }

    @concurrent
    private mutating func nextPart() async throws -> HTTPClientResponsePart? {
        do {
            return try await self.inbound.next()
        } catch let error as KubeError {
            throw error
        } catch {
            let url = self.transport.endpoint.url
            switch error {
            case is CancellationError:
                throw error
            case is NIOSSLError, is NIOSSLExtraError, is BoringSSLError:
                let message = "the TLS connection to \(url) failed; check its CA, name and client certificate"
                throw KubeError(.tls, message, cause: error)
            default:
                throw KubeError(.disconnected, "the connection to \(url) broke", cause: error)
            }
        }
    }
}

/// Writes requests and closes the connection when an answer is late. Only time spent waiting for the server counts as
/// silence: while the reader holds back, no read is outstanding.
final class RequestDeadlineHandler: ChannelDuplexHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias InboundOut = HTTPClientResponsePart
    typealias OutboundIn = KubeConnection.Message
    typealias OutboundOut = HTTPClientRequestPart

    private let url: String
    private var idleLimit = TimeAmount.zero
    private var waitingSince: NIODeadline?
    private var totalDeadline = NIODeadline.distantFuture
    private var timer: Scheduled<Void>?

    init(url: String) {
        self.url = url
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let message = self.unwrapOutboundIn(data)
        context.write(self.wrapOutboundOut(.head(message.head)), promise: nil)
        if !message.body.isEmpty {
            let buffer = context.channel.allocator.buffer(bytes: message.body)
            context.write(self.wrapOutboundOut(.body(.byteBuffer(buffer))), promise: nil)
        }
        context.write(self.wrapOutboundOut(.end(nil)), promise: promise)
        self.idleLimit = message.idleLimit
        self.totalDeadline = context.eventLoop.now + message.totalLimit
        self.waitingSince = context.eventLoop.now
        self.timer?.cancel()
        self.schedule(context: context, in: min(message.idleLimit, message.totalLimit))
    }

    func read(context: ChannelHandlerContext) {
        self.waitingSince = self.waitingSince ?? context.eventLoop.now
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.waitingSince = nil
        if case .end = self.unwrapInboundIn(data) {
            self.timer?.cancel()
            self.timer = nil
        }
        context.fireChannelRead(data)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.timer?.cancel()
        context.fireChannelInactive()
    }

    private func schedule(context: ChannelHandlerContext, in delay: TimeAmount) {
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        self.timer = context.eventLoop.scheduleTask(in: delay) {
            let (handler, context) = bound.value
            handler.check(context: context)
        }
    }

    private func check(context: ChannelHandlerContext) {
        let now = context.eventLoop.now
        let silentUntil = self.waitingSince.map { $0 + self.idleLimit } ?? now + self.idleLimit
        let deadline = min(silentUntil, self.totalDeadline)
        guard now >= deadline else { return self.schedule(context: context, in: deadline - now) }
        context.fireErrorCaught(KubeError(.timeout, "\(self.url) did not answer in time"))
        context.close(promise: nil)
    }
}
