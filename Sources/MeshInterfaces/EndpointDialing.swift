public import NIOCore
public import ServiceCatalog

/// Opens a byte stream to an endpoint: a socket on this node, later a tunnel stream to another.
public protocol EndpointDialing: Sendable {
    /// A socket that it yields has no handlers of the dialler's: its bytes are the stream's, and may flow past its pipeline.
    ///
    /// Connects on `loop`; `configure` runs on the channel before it reads. The future fails when `deadline` passes.
    func dial(
        _ endpoint: ResolvedEndpoint,
        on loop: any EventLoop,
        deadline: NIODeadline,
        configure: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel>
}
