public import MeshCore
public import NIOCore

/// What the tunnel offers to other features: flows to targets behind other nodes, and what it knows of those nodes.
public protocol NodeTunneling: Sendable {
    /// Opens a byte stream to a TCP target that the agent of `target.node` dials.
    ///
    /// The future completes, by `deadline`, on the channel's loop: that of the connection to the node. Only if there is none yet
    /// does `loop` say where it is to live. The channel has `autoRead` off and `allowRemoteHalfClosure` on; its half-close and
    /// back-pressure reach the target. Fails with `TunnelError`.
    /// - Parameter early: called where bytes may leave before the answer; nil if the caller has none.
    func openStream(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel>

    /// Opens a flow of datagrams to a UDP target: each `ByteBuffer` read or written is one datagram. As `openStream` otherwise, but
    /// it may be open before the target has answered: if that fails, the channel has an error.
    func openDatagrams(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel>

    /// The loop on which a flow to a node would live now: that of the best connection to it; nil if there is none. Any thread.
    func eventLoop(for node: String) -> (any EventLoop)?

    /// What is known of each node, by its name. Any thread.
    var paths: [String: NodePath] { get }

    /// Calls `receive` with the nodes that are known to be unreachable, now and whenever they change, in order and never
    /// concurrently, until the observation is cancelled. `receive` must not block.
    func observeUnreachableNodes(_ receive: @escaping @Sendable (Set<String>) -> Void) -> TunnelObservation
}

extension NodeTunneling {
    public func eventLoop(for node: String) -> (any EventLoop)? { nil }

    public func openStream(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        self.openStream(to: target, on: loop, deadline: deadline, early: nil)
    }
}

/// Takes the channel of a flow that is not open yet, on the channel's loop: what is written there travels behind the request, which
/// saves a round trip. Called at most once for each opening, before it ends; not at all where the far agent is one of v1.17, or its
/// path is in doubt.
///
/// If the opening fails, the target has got none of it only if `TunnelError.isAnswer` says so.
public typealias EarlyStart = @Sendable (_ channel: any Channel) -> Void

/// Ends an observation when it is cancelled.
public struct TunnelObservation: Sendable {
    private let cancellation: @Sendable () -> Void

    public init(_ cancellation: @escaping @Sendable () -> Void) {
        self.cancellation = cancellation
    }

    public func cancel() { self.cancellation() }
}

/// Where a flow through the tunnel ends, and for whom it is opened.
public struct TunnelTarget: Sendable, Hashable {
    /// What the flow is for: the far agent allows different targets for each.
    public enum Purpose: UInt8, Sendable, Hashable, CaseIterable {
        /// An endpoint of a service, or an address in a block that the far node routes.
        case service
        /// A SOCKS5 client's connection to the node itself.
        case socks
    }

    /// The node whose agent dials.
    public var node: String
    public var address: TransportAddress
    public var purpose: Purpose
    /// Who began the flow, for the far side's log; nil if unknown.
    public var client: TransportAddress?
    /// The service that it belongs to, if any.
    public var service: ObjectName?

    public init(
        node: String,
        address: TransportAddress,
        purpose: Purpose = .service,
        client: TransportAddress? = nil,
        service: ObjectName? = nil
    ) {
        self.node = node
        self.address = address
        self.purpose = purpose
        self.client = client
        self.service = service
    }
}

/// Why a flow through the tunnel could not be opened.
public struct TunnelError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, Hashable, CaseIterable {
        /// The target answered with a reset: nothing listens there.
        case refused
        /// The far node has no way to the target.
        case unreachable
        /// The far agent does not dial this target for others.
        case notAllowed
        /// A limit of this agent or the far one is reached.
        case overloaded
        case timedOut
        /// There is no path to the node: it is down, or neither a direct way nor a relay is left.
        case noPath
        /// Nothing tells which peer the node is.
        case unknownNode
        /// The far agent answered what this one does not understand.
        case badAnswer
        /// The tunnel of this agent is off or not up yet.
        case notRunning
    }

    public let code: Code
    /// What failed, towards which node, and what to look at.
    public let message: String
    /// The far agent has said so: the target has got nothing of the flow, and another one may be asked for the same.
    public let isAnswer: Bool

    public init(code: Code, message: String, isAnswer: Bool = false) {
        self.code = code
        self.message = message
        self.isAnswer = isAnswer
    }

    public var description: String { self.message }
}

/// How a node is reached at this moment.
public struct NodePath: Sendable, Hashable {
    public enum State: String, Sendable, Hashable {
        /// Nobody has asked for it yet.
        case idle
        case connecting
        case up
        /// The last attempts failed; it is tried again in the background.
        case down
    }

    public enum Kind: String, Sendable, Hashable {
        /// Dialled without help.
        case direct
        /// Direct, through NATs that were opened from both sides.
        case punched
        case relayed
    }

    public enum Agent: String, Sendable, Hashable {
        case edgemesh
        /// kubeedge/edgemesh v1.17.
        case original
        case unknown
    }

    public var state: State
    public var kind: Kind?
    /// The node of the relay, or its peer ID if no node is known by it.
    public var relay: String?
    /// The peer ID of the node.
    public var peer: String
    public var agent: Agent
    /// Where the best connection leads.
    public var remoteAddress: String?
    public var roundTripTime: Duration?
    /// Of the last probes, those that were not answered: 0 to 1.
    public var loss: Double
    /// Since when it is in this state, by this kind.
    public var since: MonotonicTime
    /// Why it is down; nil otherwise.
    public var problem: String?
    /// Open flows, both ways.
    public var flows: Int

    public init(state: State, peer: String, since: MonotonicTime) {
        self.state = state
        self.peer = peer
        self.since = since
        self.agent = .unknown
        self.loss = 0
        self.flows = 0
    }
}
