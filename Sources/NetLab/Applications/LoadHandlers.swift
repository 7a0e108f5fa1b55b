import NIOCore
import NIOHTTP1
import NIOWebSocket

/// A connection for one exchange, whose answer fails if the connection ends before.
protocol ExchangeHandler: ChannelInboundHandler {
    var answer: EventLoopPromise<String?> { get }
}

extension ExchangeHandler {
    func channelInactive(context: ChannelHandlerContext) {
        self.answer.fail(LoadFailure.closed)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.answer.fail(error)
        context.close(promise: nil)
    }
}

/// Sends one GET and completes with the body of the answer.
final class HTTPExchange: ExchangeHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    /// Longer answers are cut: what counts is who answered.
    private static let maximumAnswer = 256

    let answer: EventLoopPromise<String?>
    private var body = ""
    private var isSuccess = false

    init(_ answer: EventLoopPromise<String?>) {
        self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
        var head = HTTPRequestHead(version: .http1_1, method: .GET, uri: "/")
        head.headers.add(name: "host", value: "lab")
        head.headers.add(name: "connection", value: "close")
        context.write(self.wrapOutboundOut(.head(head)), promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .head(let head):
            self.isSuccess = head.status == .ok
        case .body(let bytes):
            if self.body.utf8.count < Self.maximumAnswer {
                self.body += String(
                    buffer: bytes.getSlice(at: bytes.readerIndex, length: min(bytes.readableBytes, Self.maximumAnswer))
                        ?? bytes
                )
            }
        case .end:
            self.isSuccess ? self.answer.succeed(self.body.trimmed) : self.answer.fail(LoadFailure.status)
        }
    }
}

/// Sends one datagram and completes with the text of the first that comes back.
final class DatagramExchange: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias OutboundOut = ByteBuffer

    private let answer: EventLoopPromise<String?>

    init(_ answer: EventLoopPromise<String?>) {
        self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: "who are you?\n")), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.answer.succeed(String(buffer: self.unwrapInboundIn(data).data).trimmed)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.answer.fail(error)
    }
}

/// Sends a line to an echo server and completes with the server's banner once the line has come back.
final class LineExchange: ExchangeHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private static let line = "are you there?"
    let answer: EventLoopPromise<String?>
    private var received = ByteBuffer()

    init(_ answer: EventLoopPromise<String?>) {
        self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: Self.line + "\n")), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.received.writeImmutableBuffer(self.unwrapInboundIn(data))
        let lines = String(buffer: self.received).split(separator: "\n", omittingEmptySubsequences: false)
        if lines.count == 3, lines[1] == Self.line { self.answer.succeed(String(lines[0])) }
    }
}

/// Sends a WebSocket message and completes with the one that comes back.
final class WebSocketExchange: ExchangeHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundOut = WebSocketFrame

    let answer: EventLoopPromise<String?>

    private init(_ answer: EventLoopPromise<String?>) {
        self.answer = answer
    }

    static func add(
        to pipeline: ChannelPipeline.SynchronousOperations,
        _ answer: EventLoopPromise<String?>
    ) throws {
        let upgrader = NIOWebSocketClientUpgrader(upgradePipelineHandler: { channel, _ in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(WebSocketExchange(answer))
            }
        })
        try pipeline.addHTTPClientHandlers(
            withClientUpgrade: (
                upgraders: [upgrader],
                completionHandler: { context in
                    context.pipeline.syncOperations.removeHandler(name: WebSocketRequest.name, promise: nil)
                }
            )
        )
        try pipeline.addHandler(WebSocketRequest(answer), name: WebSocketRequest.name)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let message = ByteBuffer(string: "are you there?")
        let frame = WebSocketFrame(fin: true, opcode: .text, maskKey: .random(), data: message)
        context.writeAndFlush(self.wrapOutboundOut(frame), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = self.unwrapInboundIn(data)
        if frame.opcode == .text { self.answer.succeed(String(buffer: frame.unmaskedData)) }
    }
}

/// Asks for the upgrade, and stays until it has come.
private final class WebSocketRequest: ExchangeHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    static let name = "upgrade"
    let answer: EventLoopPromise<String?>

    init(_ answer: EventLoopPromise<String?>) {
        self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
        var head = HTTPRequestHead(version: .http1_1, method: .GET, uri: "/")
        head.headers.add(name: "host", value: "lab")
        context.write(self.wrapOutboundOut(.head(head)), promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // An answer that is no upgrade.
        self.answer.fail(LoadFailure.status)
    }
}
