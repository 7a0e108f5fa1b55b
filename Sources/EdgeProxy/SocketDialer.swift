import ByteStreams
public import MeshInterfaces
public import NIOCore
public import ServiceCatalog

/// Dials endpoints by TCP from this node.
public struct SocketDialer: EndpointDialing {
    public init() {}

    public func dial(
        _ endpoint: ResolvedEndpoint,
        on loop: any EventLoop,
        deadline: NIODeadline,
        configure: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        StreamConnector.connect(
            to: endpoint.transportAddress,
            on: loop,
            deadline: deadline,
            configure: configure
        )
    }
}
