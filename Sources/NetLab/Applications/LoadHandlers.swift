import NIOCore
import NIOHTTP1

/// Sends one GET and completes with the body of the answer.
final class HTTPExchange: ChannelInboundHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    /// Longer answers are cut: what counts is who answered.
    private static let maximumAnswer = 256

    private let answer: EventLoopPromise<String?>
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

    func channelInactive(context: ChannelHandlerContext) {
        self.answer.fail(LoadFailure.closed)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.answer.fail(error)
        context.close(promise: nil)
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
