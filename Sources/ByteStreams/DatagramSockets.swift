public import MeshCore
public import NIOCore
import NIOPosix

/// Takes what comes to a listening UDP socket. Confined to its loop.
public protocol DatagramListening: AnyObject {
    func received(_ bytes: ByteBuffer, from address: SocketAddress)
    func readCompleted()
    /// The socket is closed.
    func close()
}

/// Feeds it from its channel.
public final class DatagramListenerHandler: ChannelInboundHandler {
    public typealias InboundIn = AddressedEnvelope<ByteBuffer>

    public let listener: any DatagramListening

    public init(_ listener: any DatagramListening) {
        self.listener = listener
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        self.listener.received(envelope.data, from: envelope.remoteAddress)
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        self.listener.readCompleted()
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // An ICMP error about one client says nothing of the listener.
    }

    public func channelInactive(context: ChannelHandlerContext) {
        self.listener.close()
        context.fireChannelInactive()
    }
}

public enum DatagramSockets {
    /// Listens for datagrams, which go to what `make` makes of the socket's channel; several loops may listen on one address.
    ///
    /// A port that the kernel chooses must be nobody's: for a UDP socket that shares its port it may choose one that other
    /// sockets of this user share, who would get a part of the datagrams. So such a socket begins to share when it has its port.
    /// - Parameter make: called on the loop, before the socket is bound.
    public static func listen(
        _ address: TransportAddress,
        on loop: any EventLoop,
        _ make: @escaping @Sendable (any Channel) -> any DatagramListening
    ) -> EventLoopFuture<any Channel> {
        DatagramBootstrap(group: loop)
            .channelOption(SocketOption.reusePort, value: address.port == 0 ? 0 : 1)
            .channelOption(SocketOption.receiveBufferBytes, value: 4 << 20)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelOption(
                .writeBufferWaterMark,
                value: ChannelOptions.Types.WriteBufferWaterMark(low: 256 << 10, high: 1 << 20)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramListenerHandler(make(channel)))
                }
            }
            .bind(to: SocketAddress(address))
            .flatMap { channel in channel.setOption(SocketOption.reusePort, value: 1).map { channel } }
    }
}
