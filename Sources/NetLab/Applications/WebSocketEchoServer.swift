import NIOCore
import NIOHTTP1
import NIOPosix
import NIOWebSocket

/// Upgrades every request to a WebSocket (RFC 6455) and sends text and binary messages back.
final class WebSocketEchoServer: ChannelInboundHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundOut = WebSocketFrame

    static let maximumFrame = 1 << 20

    static func start(on address: SocketAddress) async throws -> any Channel {
        try await LabServer.bootstrap()
            .childChannelOption(.allowRemoteHalfClosure, value: false)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let upgrader = NIOWebSocketServerUpgrader(
                        maxFrameSize: Self.maximumFrame,
                        shouldUpgrade: { channel, _ in channel.eventLoop.makeSucceededFuture([:]) },
                        upgradePipelineHandler: { channel, _ in
                            channel.eventLoop.makeCompletedFuture {
                                try channel.pipeline.syncOperations.addHandler(WebSocketEchoServer())
                            }
                        }
                    )
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(
                        withServerUpgrade: (upgraders: [upgrader], completionHandler: { _ in })
                    )
                }
            }
            .bind(to: address).get()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = self.unwrapInboundIn(data)
        let opcode: WebSocketOpcode
        switch frame.opcode {
        case .text, .binary, .continuation: opcode = frame.opcode
        case .ping: opcode = .pong
        case .connectionClose: opcode = .connectionClose
        default: return
        }
        let reply = WebSocketFrame(fin: frame.fin, opcode: opcode, data: frame.unmaskedData)
        let written = context.writeAndFlush(self.wrapOutboundOut(reply))
        if opcode == .connectionClose {
            let channel = context.channel
            written.whenComplete { _ in channel.close(promise: nil) }
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
