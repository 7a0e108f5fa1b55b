import NIOCore
import NIOHTTP1

/// Serves one request on a connection and closes it. All state lives on the connection's event loop.
final class AdminHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    /// A request that is not whole by then is given up.
    static let requestDeadline = TimeAmount.seconds(10)
    /// No route of ours takes a body; this much is ignored before the connection is closed.
    static let bodyLimit = 64 * 1024

    private let respond: @Sendable (AdminRequest) async -> AdminResponse
    private var head: HTTPRequestHead?
    private var bodyBytes = 0
    private var isAnswered = false
    private var deadline: Scheduled<Void>?

    init(respond: @escaping @Sendable (AdminRequest) async -> AdminResponse) {
        self.respond = respond
    }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        self.deadline = context.eventLoop.scheduleTask(in: Self.requestDeadline) { channel.close(promise: nil) }
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.deadline?.cancel()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isAnswered else { return }
        switch self.unwrapInboundIn(data) {
        case .head(let head):
            self.head = head
        case .body(let bytes):
            self.bodyBytes += bytes.readableBytes
            if self.bodyBytes > Self.bodyLimit {
                self.isAnswered = true
                self.write(AdminResponse(status: 413, body: "The request is too large.\n"), to: context)
            }
        case .end:
            self.isAnswered = true
            self.answer(context: context)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // A peer that speaks no HTTP, or went away.
        context.close(promise: nil)
    }

    private func answer(context: ChannelHandlerContext) {
        self.deadline?.cancel()
        guard let head = self.head, let request = AdminRequest(method: head.method.rawValue, target: head.uri) else {
            self.write(AdminResponse(status: 405, body: "Only GET and POST are served.\n"), to: context)
            return
        }
        let respond = self.respond
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.makeFutureWithTask { await respond(request) }.whenSuccess { response in
            let (handler, context) = bound.value
            handler.write(response, to: context)
        }
    }

    private func write(_ response: AdminResponse, to context: ChannelHandlerContext) {
        let body = context.channel.allocator.buffer(string: response.body)
        let headers: HTTPHeaders = [
            "content-type": response.contentType, "content-length": String(body.readableBytes), "connection": "close",
        ]
        let head = HTTPResponseHead(
            version: .http1_1,
            status: HTTPResponseStatus(statusCode: response.status),
            headers: headers
        )
        context.write(self.wrapOutboundOut(.head(head)), promise: nil)
        context.write(self.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
        let channel = context.channel
        context.writeAndFlush(self.wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }
}

/// Refuses connections beyond a bound. One instance for all connections of a listener, used on the listener's loop only.
final class ConnectionBound: ChannelInboundHandler {
    typealias InboundIn = any Channel
    typealias InboundOut = any Channel

    private let limit: Int
    private var open = 0

    init(limit: Int) {
        self.limit = limit
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let child = self.unwrapInboundIn(data)
        guard self.open < self.limit else {
            child.close(promise: nil)
            return
        }
        self.open += 1
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        child.closeFuture.hop(to: context.eventLoop).whenComplete { _ in bound.value.open -= 1 }
        context.fireChannelRead(data)
    }
}
