import ByteStreams
import MeshCore
public import MeshInterfaces
public import NIOCore
import NIOPosix
public import ServiceCatalog
import Synchronization

/// Dials endpoints by a socket from this node, or through the tunnel where only another node reaches them.
public final class EndpointDialer: EndpointDialing {
    private let tunnel: (any NodeTunneling)?
    private let reach: Mutex<EndpointReach>

    /// - Parameter tunnel: nil if the agent has none: then everything is dialled from here.
    public init(reach: EndpointReach, tunnel: (any NodeTunneling)?) {
        self.reach = Mutex(reach)
        self.tunnel = tunnel
    }

    /// Flows from now on go by it. Any thread.
    func update(_ reach: EndpointReach) {
        self.reach.withLock { $0 = reach }
    }

    public func dial(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel> {
        if let (tunnel, target) = self.tunnelled(endpoint, origin) {
            return tunnel.openStream(to: target, on: loop, deadline: deadline, early: early).hop(to: loop)
        }
        return StreamConnector.connect(to: endpoint.transportAddress, on: loop, deadline: deadline) {
            $0.eventLoop.makeSucceededVoidFuture()
        }
    }

    public func dialDatagrams(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        if let (tunnel, target) = self.tunnelled(endpoint, origin) {
            return tunnel.openDatagrams(to: target, on: loop, deadline: deadline).hop(to: loop)
        }
        return DatagramBootstrap(group: loop)
            .channelOption(.autoRead, value: false)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelOption(
                .writeBufferWaterMark,
                value: ChannelOptions.Types.WriteBufferWaterMark(low: 64 << 10, high: 256 << 10)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramPayloadHandler())
                }
            }
            .connect(to: SocketAddress(endpoint.transportAddress))
    }

    public func eventLoop(for endpoint: ResolvedEndpoint) -> (any EventLoop)? {
        guard let tunnel = self.tunnel, let node = self.reach.withLock({ $0.tunnelNode(of: endpoint.endpoint) }) else {
            return nil
        }
        return tunnel.eventLoop(for: node)
    }

    private func tunnelled(
        _ endpoint: ResolvedEndpoint,
        _ origin: FlowOrigin
    ) -> (any NodeTunneling, TunnelTarget)? {
        guard let tunnel = self.tunnel,
            let node = self.reach.withLock({ $0.tunnelNode(of: endpoint.endpoint) })
        else { return nil }
        let target = TunnelTarget(
            node: node,
            address: endpoint.transportAddress,
            client: origin.client,
            service: origin.service
        )
        return (tunnel, target)
    }
}

/// Takes the datagrams of a connected socket out of their envelopes.
final class DatagramPayloadHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias InboundOut = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.fireChannelRead(self.wrapInboundOut(self.unwrapInboundIn(data).data))
    }
}
