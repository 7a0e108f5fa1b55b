import NIOCore
import NIOPosix

/// What all TCP servers of the lab share.
enum LabServer {
    static func bootstrap() -> ServerBootstrap {
        ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.backlog, value: 4096)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
    }

    /// Binds with one handler for each connection.
    static func start(
        on address: SocketAddress,
        handler: @escaping @Sendable () -> some ChannelHandler
    ) async throws -> any Channel {
        try await Self.bootstrap()
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers([BackPressureHandler(), handler()])
                }
            }
            .bind(to: address).get()
    }
}

/// Greets, then sends back what comes.
final class EchoServer: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let banner: String

    init(banner: String) {
        self.banner = banner
    }

    static func start(on address: SocketAddress, banner: String) async throws -> any Channel {
        try await LabServer.start(on: address) { EchoServer(banner: banner) }
    }

    func channelActive(context: ChannelHandlerContext) {
        if self.banner.utf8.count > 1 {
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: self.banner)), promise: nil)
        }
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.write(data, promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // The client has said all: answer the rest, then close.
        if event as? ChannelEvent == .inputClosed {
            let channel = context.channel
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer())).whenComplete { _ in channel.close(promise: nil) }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

/// Answers each datagram with one.
final class DatagramServer: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias OutboundOut = AddressedEnvelope<ByteBuffer>

    /// The largest UDP payload is 65,507 bytes over IPv4.
    static let maximumDatagram = 65_536

    private let answer: @Sendable (ByteBuffer) -> ByteBuffer

    init(answer: @escaping @Sendable (ByteBuffer) -> ByteBuffer) {
        self.answer = answer
    }

    static func start(
        on address: SocketAddress,
        answer: @escaping @Sendable (ByteBuffer) -> ByteBuffer
    ) async throws -> any Channel {
        try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.socketOption(.so_reuseaddr), value: 1)
            .channelOption(
                .recvAllocator,
                value: FixedSizeRecvByteBufferAllocator(capacity: DatagramServer.maximumDatagram)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramServer(answer: answer))
                }
            }
            .bind(to: address).get()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let datagram = self.unwrapInboundIn(data)
        let reply = AddressedEnvelope(remoteAddress: datagram.remoteAddress, data: self.answer(datagram.data))
        context.write(self.wrapOutboundOut(reply), promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }

    // An ICMP error about one peer is no reason to stop serving the others.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}

/// The far side of `client throughput`. The first byte of a connection chooses: `u` and it swallows what follows, then
/// answers with the count as 8 bytes; `d` and it sends until the client closes.
final class BulkServer: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    static let upload = UInt8(ascii: "u")
    static let download = UInt8(ascii: "d")
    static let chunk = ByteBuffer(repeating: 0, count: 128 << 10)
    /// Until other connections of the loop have their turn.
    private static let chunksPerTurn = 32

    private var direction: UInt8?
    private var received: UInt64 = 0

    static func start(on address: SocketAddress) async throws -> any Channel {
        try await LabServer.start(on: address) { BulkServer() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if self.direction == nil {
            self.direction = bytes.readInteger()
            if self.direction == Self.download { self.send(context: context) }
        }
        self.received += UInt64(bytes.readableBytes)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if self.direction == Self.download { self.send(context: context) }
        context.fireChannelWritabilityChanged()
    }

    private func send(context: ChannelHandlerContext) {
        // A reader that keeps up leaves the channel writable for ever, and so does one that is gone.
        for _ in 0..<Self.chunksPerTurn where context.channel.isActive && context.channel.isWritable {
            context.writeAndFlush(self.wrapOutboundOut(Self.chunk), promise: nil)
        }
        guard context.channel.isActive, context.channel.isWritable else { return }
        context.eventLoop.assumeIsolated().execute { self.send(context: context) }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event as? ChannelEvent == .inputClosed {
            let channel = context.channel
            let count = ByteBuffer(integer: self.received)
            context.writeAndFlush(self.wrapOutboundOut(self.direction == Self.upload ? count : ByteBuffer()))
                .whenComplete { _ in channel.close(promise: nil) }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}
