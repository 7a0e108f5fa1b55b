import NIOCore

/// Fails a stream of a circuit when its peer has sent more bytes than a circuit may carry; what joins it to the other stream then
/// resets both. Confined to the stream's loop.
final class CircuitLimitHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private var left: UInt64
    private var exceeded: (() -> Void)?

    init(bytes: UInt64, exceeded: @escaping () -> Void) {
        self.left = bytes
        self.exceeded = exceeded
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let count = UInt64(self.unwrapInboundIn(data).readableBytes)
        guard count <= self.left else {
            self.left = 0
            self.exceeded?()
            self.exceeded = nil
            context.fireErrorCaught(
                LibP2PRelayError(code: .resourceLimitExceeded, message: "the circuit has carried all that it may")
            )
            return
        }
        self.left -= count
        context.fireChannelRead(data)
    }
}
