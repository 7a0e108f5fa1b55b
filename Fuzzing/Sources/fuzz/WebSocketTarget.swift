import NIOCore
import NIOEmbedded

@testable import LibP2P

extension FuzzTarget {
    /// A listener of WebSocket whose client sends anything: an HTTP request, and frames behind it. With the first bit of the first
    /// byte, a good request comes first.
    static let webSocket = FuzzTarget(name: "websocket") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard bytes.count >= 2 else { return 0 }
        let (mode, step) = (bytes[0], Int(bytes[1]))
        let channel = EmbeddedChannel()
        guard let address = try? SocketAddress(ipAddress: "192.0.2.1", port: 80) else { fatalError("no address") }
        channel.localAddress = address
        var configuration = WebSocketTransport.Configuration()
        configuration.maximumFrameBytes = 1024
        guard
            let upgraded = try? WebSocketUpgrade.addServer(
                to: channel,
                configuration: configuration,
                layers: [.ws]
            )
        else { fatalError("no handlers") }
        upgraded.whenFailure { _ in channel.close(promise: nil) }
        channel.connect(to: address, promise: nil)
        if mode & 1 != 0 {
            channel.pipeline.fireChannelRead(ByteBuffer(string: request))
            channel.embeddedEventLoop.run()
        }
        for piece in pieces(of: bytes.dropFirst(2), step) {
            channel.pipeline.fireChannelRead(piece)
            channel.pipeline.fireChannelReadComplete()
            channel.embeddedEventLoop.run()
            while let sent = try? channel.readOutbound(as: ByteBuffer.self) { _ = sent }
            while let received = try? channel.readInbound(as: ByteBuffer.self) {
                precondition(received.readableBytes <= 1024, "a frame that is too long")
            }
        }
        end(channel)
        return 0
    }
}

private let request = """
    GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n
    """
