import ByteStreams
import CLinux
import Glibc
public import MeshCore
public import NIOCore
import NIOPosix

/// The group and the port of multicast DNS (RFC 6762 section 3).
enum MulticastDNS {
    static let port: UInt16 = 5353
    static let groupV4 = IPAddress.v4(IPv4Address(224, 0, 0, 251))
    static let groupV6 = IPAddress.v6(IPv6Address(high: 0xFF02 << 48, low: 0xFB))
    /// What a datagram carries over Ethernet without fragments, with either family (section 17).
    static let maximumSent = 1440
    /// Section 17 allows that much with fragments.
    static let maximumReceived = 9000

    static func group(_ family: IPFamily) -> IPAddress { family == .v4 ? self.groupV4 : self.groupV6 }
}

/// Opens the sockets of multicast DNS.
public protocol MulticastSockets: Sendable {
    /// A channel of `AddressedEnvelope<ByteBuffer>` that receives what is sent to the group on one interface, and sends there.
    /// `receive` is called on `loop`.
    func open(
        _ interface: MulticastInterface,
        _ family: IPFamily,
        on loop: any EventLoop,
        receive: @escaping @Sendable (ByteBuffer, TransportAddress) -> Void
    ) -> EventLoopFuture<any Channel>
}

/// One UDP socket for each interface and family. It is bound to the group, not to a wildcard, so that it neither takes the
/// unicast of other responders of this machine nor hears anyone who is not on the link (section 11).
public struct SystemMulticastSockets: MulticastSockets {
    public init() {}

    public func open(
        _ interface: MulticastInterface,
        _ family: IPFamily,
        on loop: any EventLoop,
        receive: @escaping @Sendable (ByteBuffer, TransportAddress) -> Void
    ) -> EventLoopFuture<any Channel> {
        let group = MulticastDNS.group(family).networkBytes
        let descriptor = clinux_multicast_socket(group, CInt(group.count), MulticastDNS.port, interface.index)
        guard descriptor >= 0 else {
            return loop.makeFailedFuture(IOError(errnoCode: errno, reason: "multicast socket on \(interface.name)"))
        }
        return DatagramBootstrap(group: loop)
            .channelOption(
                .recvAllocator,
                value: FixedSizeRecvByteBufferAllocator(capacity: MulticastDNS.maximumReceived)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(MulticastReceiver(receive: receive))
                }
            }
            .withBoundSocket(descriptor)
    }
}

/// Hands on what the socket receives. A datagram that could not be sent is no reason to close the socket.
private final class MulticastReceiver: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let receive: @Sendable (ByteBuffer, TransportAddress) -> Void

    init(receive: @escaping @Sendable (ByteBuffer, TransportAddress) -> Void) {
        self.receive = receive
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        guard let source = TransportAddress(envelope.remoteAddress) else { return }
        self.receive(envelope.data, source)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}
