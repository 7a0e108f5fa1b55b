import ByteStreams
import MeshCore
import NIOCore
import NIOPosix

/// Opens the sockets to the targets of flows. On the loop that is given, without blocking it.
struct TargetDialer: Sendable {
    typealias Dial = @Sendable (TransportAddress, any EventLoop, NIODeadline) -> EventLoopFuture<any Channel>

    /// A stream that is set up as `StreamOptions` says.
    var stream: Dial
    /// A connected socket with `autoRead` off, whose reads are `AddressedEnvelope`s and whose writes are payloads.
    var datagrams: Dial

    static let sockets = TargetDialer(
        stream: { target, loop, deadline in
            StreamConnector.connect(to: target, on: loop, deadline: deadline) { channel in
                channel.eventLoop.makeSucceededVoidFuture()
            }
        },
        datagrams: { target, loop, _ in
            DatagramBootstrap(group: loop)
                .channelOption(.autoRead, value: false)
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
                .channelOption(.maxMessagesPerRead, value: 16)
                .channelOption(
                    .writeBufferWaterMark,
                    value: ChannelOptions.Types.WriteBufferWaterMark(low: 64 << 10, high: 256 << 10)
                )
                .connect(to: SocketAddress(target))
        }
    )
}
