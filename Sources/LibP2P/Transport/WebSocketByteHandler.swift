import NIOCore
import NIOWebSocket

/// Makes a WebSocket look like a connection of bytes. Confined to the channel's loop.
///
/// Binary messages become bytes, whatever their fragments; a write becomes one final binary frame or several. Pings are
/// answered, a close frame is answered and ends the connection, text ends it with an error.
///
/// Data is masked here, both ways, and what a client masks passes NIO's encoder by: masking one byte at a time cost several times
/// what encrypting them does.
final class WebSocketByteHandler: ChannelDuplexHandler {
    typealias InboundIn = WebSocketFrame
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = WebSocketFrame

    /// Frames that other implementations take without complaint.
    private static let maximumFrame = 32 * 1024

    private let isServer: Bool
    /// Writes of this context go on below NIO's encoder.
    private var encoder: ChannelHandlerContext?
    private var closeSent = false

    init(isServer: Bool) {
        self.isServer = isServer
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.encoder = try? context.pipeline.syncOperations.context(handlerType: WebSocketFrameEncoder.self)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.encoder = nil
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
            let bytes = Self.unmask(frame, context.channel.allocator)
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

    private static func unmask(_ frame: WebSocketFrame, _ allocator: ByteBufferAllocator) -> ByteBuffer {
        guard let maskKey = frame.maskKey else { return frame.data }
        var key: UInt32 = 0
        withUnsafeMutableBytes(of: &key) { $0.copyBytes(from: maskKey) }
        var bytes = allocator.buffer(capacity: frame.data.readableBytes)
        bytes.writeMasked(frame.data, key: key)
        return bytes
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        var bytes = self.unwrapOutboundIn(data)
        if !self.isServer, let encoder {
            let frames = Self.maskedFrames(of: &bytes, context.channel.allocator)
            encoder.write(NIOAny(frames), promise: promise)
            return
        }
        while bytes.readableBytes > Self.maximumFrame, let part = bytes.readSlice(length: Self.maximumFrame) {
            context.write(self.wrapOutboundOut(self.frame(.binary, part)), promise: nil)
        }
        context.write(self.wrapOutboundOut(self.frame(.binary, bytes)), promise: promise)
    }

    /// Final binary frames of a client, in one buffer (RFC 6455 section 5.2).
    private static func maskedFrames(of bytes: inout ByteBuffer, _ allocator: ByteBufferAllocator) -> ByteBuffer {
        let headerLength = 8
        let count = bytes.readableBytes / Self.maximumFrame + 1
        var output = allocator.buffer(capacity: bytes.readableBytes + count * headerLength)
        repeat {
            let length = min(bytes.readableBytes, Self.maximumFrame)
            let key = UInt32.random(in: .min ... .max)
            output.writeInteger(0x82 as UInt8)
            if length < 126 {
                output.writeInteger(0x80 | UInt8(length))
            } else {
                output.writeMultipleIntegers(0x80 | 126 as UInt8, UInt16(length))
            }
            output.writeInteger(key, endianness: .host)
            if let part = bytes.readSlice(length: length) { output.writeMasked(part, key: key) }
        } while bytes.readableBytes > 0
        return output
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
