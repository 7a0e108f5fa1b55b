import NIOCore
import NIOHTTP1
import NIOPosix

/// One HTTP request to a gateway, on a connection of its own.
enum HTTPExchange {
    struct Response: Sendable {
        var status: Int
        var body: [UInt8]
    }

    /// Descriptions of devices are some 10 KB long.
    static let maximumLength = 128 * 1024

    static func run(
        _ method: HTTPMethod,
        _ url: GatewayURL,
        headers: [(String, String)] = [],
        body: String = "",
        timeout: TimeAmount,
        on loop: any EventLoop
    ) async throws -> Response {
        var head = HTTPRequestHead(version: .http1_1, method: method, uri: url.path)
        head.headers = HTTPHeaders(headers)
        head.headers.add(name: "Host", value: "\(url.host):\(url.port)")
        head.headers.add(name: "Connection", value: "close")
        if method != .GET { head.headers.add(name: "Content-Length", value: "\(body.utf8.count)") }
        let request = head
        let promise = loop.makePromise(of: Response.self)
        let timer = loop.scheduleTask(in: timeout) {
            promise.fail(
                LibP2PRelayError(code: .timedOut, message: "the gateway at \(url.host) does not answer over HTTP")
            )
        }
        let connected = ClientBootstrap(group: loop).connectTimeout(timeout).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHTTPClientHandlers()
                try channel.pipeline.syncOperations.addHandler(Handler(promise: promise))
            }
        }.connect(host: "\(url.host)", port: Int(url.port))
        connected.whenFailure { promise.fail($0) }
        connected.whenSuccess { channel in
            promise.futureResult.whenComplete { _ in channel.close(promise: nil) }
            channel.write(HTTPClientRequestPart.head(request), promise: nil)
            if !body.isEmpty {
                channel.write(HTTPClientRequestPart.body(.byteBuffer(ByteBuffer(string: body))), promise: nil)
            }
            channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
        }
        defer { timer.cancel() }
        return try await promise.futureResult.get()
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPClientResponsePart

        private let promise: EventLoopPromise<Response>
        private var response = Response(status: 0, body: [])

        init(promise: EventLoopPromise<Response>) {
            self.promise = promise
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch self.unwrapInboundIn(data) {
            case .head(let head): self.response.status = Int(head.status.code)
            case .body(let bytes):
                guard self.response.body.count + bytes.readableBytes <= HTTPExchange.maximumLength else {
                    let error = LibP2PRelayError(code: .malformed, message: "the gateway's answer is too long")
                    return self.promise.fail(error)
                }
                self.response.body += bytes.readableBytesView
            case .end: self.promise.succeed(self.response)
            }
        }

        func channelInactive(context: ChannelHandlerContext) {
            self.promise.fail(LibP2PRelayError(code: .unexpected, message: "the gateway closed its connection early"))
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            self.promise.fail(error)
        }
    }
}
