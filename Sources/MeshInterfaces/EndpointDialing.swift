public import MeshCore
public import NIOCore
public import ServiceCatalog

/// Opens flows to endpoints: by a socket where this node reaches them, through the tunnel elsewhere.
///
/// The futures complete on `loop`. The channel itself may live on another one: a stream of the tunnel lives where the
/// connection to its node does. It has `autoRead` off and `allowRemoteHalfClosure` on.
public protocol EndpointDialing: Sendable {
    /// Opens a byte stream. The future fails when `deadline` passes.
    ///
    /// A socket that it yields has no handlers of the dialler's: its bytes are the stream's, and may flow past its pipeline.
    /// - Parameter early: as `NodeTunneling.openStream` has it; never called for a socket.
    func dial(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel>

    /// The loop on which a stream to the endpoint would live; nil if that is not settled, or any will do.
    func eventLoop(for endpoint: ResolvedEndpoint) -> (any EventLoop)?

    /// Opens a flow of datagrams: each `ByteBuffer` that is read or written is one.
    func dialDatagrams(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel>
}

extension EndpointDialing {
    public func eventLoop(for endpoint: ResolvedEndpoint) -> (any EventLoop)? { nil }

    public func dial(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        self.dial(endpoint, for: origin, on: loop, deadline: deadline, early: nil)
    }
}

/// Who began a flow, and to what.
public struct FlowOrigin: Sendable, Hashable {
    public var client: TransportAddress?
    public var service: ObjectName?

    public init(client: TransportAddress? = nil, service: ObjectName? = nil) {
        self.client = client
        self.service = service
    }
}
