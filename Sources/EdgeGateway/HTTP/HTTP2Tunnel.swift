import NIOCore
import NIOHTTP2

/// The bytes of a stream that is a tunnel, such as a WebSocket (RFC 8441 section 5): DATA frames in, DATA frames out, and
/// END_STREAM for the end of a direction.
final class HTTP2Tunnel: ChannelDuplexHandler {
    typealias InboundIn = HTTP2Frame.FramePayload
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = HTTP2Frame.FramePayload

    private var hasEndedInput: Bool
    private var hasEndedOutput = false

    /// - Parameter inputEnded: the client has ended its direction before.
    init(inputEnded: Bool) { self.hasEndedInput = inputEnded }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        // The client's fields behind its bytes mean nothing here but their end.
        let (bytes, isEnd): (ByteBuffer?, Bool) =
            switch self.unwrapInboundIn(data) {
            case .data(let frame):
                if case .byteBuffer(let buffer) = frame.data {
                    (buffer, frame.endStream)
                } else {
                    (nil, frame.endStream)
                }
            case .headers(let frame): (nil, frame.endStream)
            default: (nil, false)
            }
        if let bytes, bytes.readableBytes > 0 { context.fireChannelRead(self.wrapInboundOut(bytes)) }
        guard isEnd, !self.hasEndedInput else { return }
        self.hasEndedInput = true
        context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        if self.hasEndedOutput { context.close(promise: nil) }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let frame = HTTP2Frame.FramePayload.data(.init(data: .byteBuffer(self.unwrapOutboundIn(data))))
        context.write(self.wrapOutboundOut(frame), promise: promise)
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard !self.hasEndedOutput, mode != .input else { return context.close(mode: mode, promise: promise) }
        self.hasEndedOutput = true
        // A stream that both sides have ended is closed by itself; one that only we end is reset when all of it is to go.
        let end = HTTP2Frame.FramePayload.data(.init(data: .byteBuffer(ByteBuffer()), endStream: true))
        guard mode == .all, !self.hasEndedInput else {
            return context.writeAndFlush(self.wrapOutboundOut(end), promise: promise)
        }
        context.writeAndFlush(self.wrapOutboundOut(end), promise: nil)
        context.close(mode: .all, promise: promise)
    }
}
