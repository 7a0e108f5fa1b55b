import NIOCore
import NIOWebSocket

/// Makes a WebSocket look like a connection of bytes. Confined to the channel's loop.
///
/// Binary messages become bytes, whatever their fragments; a write becomes one final binary frame or several. Pings are
/// answered, a close frame is answered and ends the connection, text ends it with an error.
final class WebSocketByteHandler: ChannelDuplexHandler {
    typealias InboundIn = WebSocketFrame
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = WebSocketFrame

    /// Frames that other implementations take without complaint.
    private static let maximumFrame = 32 * 1024

    private let isServer: Bool
    private var closeSent = false

    init(isServer: Bool) {
        self.isServer = isServer
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = self.unwrapInboundIn(data)
        // RFC 6455 section 5.1: clients mask, servers do not.
        guard (frame.maskKey != nil) == self.isServer else {
            self.fail(context, .protocolError, "a frame that is \(self.isServer ? "not masked" : "masked")")
            return
        }
        switch frame.opcode {
        case .binary, .continuation:
            let bytes = frame.unmaskedData
            if bytes.readableBytes > 0 { context.fireChannelRead(self.wrapInboundOut(bytes)) }
        case .ping:
            // A peer that does not read gets no answers either.
            if context.channel.isWritable { self.send(context, .pong, frame.unmaskedData) }
        case .pong:
            break
        case .connectionClose:
            self.sendClose(context, .normalClosure)
            context.close(promise: nil)
        default:
            self.fail(context, .unacceptableData, "a frame that is not binary")
        }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        var bytes = self.unwrapOutboundIn(data)
        while bytes.readableBytes > Self.maximumFrame, let part = bytes.readSlice(length: Self.maximumFrame) {
            context.write(self.wrapOutboundOut(self.frame(.binary, part)), promise: nil)
        }
        context.write(self.wrapOutboundOut(self.frame(.binary, bytes)), promise: promise)
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        self.sendClose(context, .goingAway)
        context.close(mode: mode, promise: promise)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let error = error as? NIOWebSocketError {
            let code: WebSocketErrorCode = error == .invalidFrameLength ? .messageTooLarge : .protocolError
            self.fail(context, code, "frames that break RFC 6455 or are too long")
        } else {
            context.fireErrorCaught(error)
        }
    }

    private func fail(_ context: ChannelHandlerContext, _ code: WebSocketErrorCode, _ what: String) {
        context.fireErrorCaught(LibP2PError(code: .malformed, message: "the peer sends \(what)"))
        self.sendClose(context, code)
        context.close(promise: nil)
    }

    private func sendClose(_ context: ChannelHandlerContext, _ code: WebSocketErrorCode) {
        guard !self.closeSent, context.channel.isActive else { return }
        self.closeSent = true
        var reason = context.channel.allocator.buffer(capacity: 2)
        reason.write(webSocketErrorCode: code)
        self.send(context, .connectionClose, reason)
    }

    private func send(_ context: ChannelHandlerContext, _ opcode: WebSocketOpcode, _ bytes: ByteBuffer) {
        context.writeAndFlush(self.wrapOutboundOut(self.frame(opcode, bytes)), promise: nil)
    }

    private func frame(_ opcode: WebSocketOpcode, _ bytes: ByteBuffer) -> WebSocketFrame {
        WebSocketFrame(fin: true, opcode: opcode, maskKey: self.isServer ? nil : .random(), data: bytes)
    }
}
