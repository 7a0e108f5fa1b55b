public import LibP2PSecurity
public import MeshCore
public import Multiformats
public import NIOCore

/// A way to make connections of bytes: TCP, WebSocket, a relay's circuit, a simulated link.
///
/// Sockets appear only inside a transport; all above it works on any NIO `Channel` of any event loop.
public protocol Transport: Sendable {
    /// Whether an address is of this transport's kind. Names are resolved before: an address has an IP address or,
    /// for a circuit, a relay.
    func canDial(_ address: Multiaddr) -> Bool

    /// Connects. The future completes on `loop`, the channel's own, before the channel has read anything, so that its
    /// callbacks can add handlers synchronously.
    func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection>

    func canListen(on address: Multiaddr) -> Bool

    /// Listens. `accept` is called on the event loop of the accepted channel, before it reads; whoever takes the
    /// connection adds its handlers before returning.
    func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener>
}

/// Told, on the listener's loop, that descriptors or memory are short and nothing is accepted for a while; once until a connection was
/// accepted again. `AcceptPause` has the rest.
public typealias AcceptShortage = @Sendable (_ listener: TransportAddress, _ error: IOError) -> Void

public struct TransportDialOptions: Sendable {
    /// When to give up.
    public var deadline: NIODeadline
    /// Leave from a listening port of the transport if there is one that fits, so that a NAT keeps one mapping for it
    /// and the observed address is one that can be dialled. The transport uses another port where that is not possible.
    public var reusePort: Bool
    /// Leave from this port and no other.
    public var localPort: UInt16?
    /// The remote side dials at the same time (DCUtR): a refused or crossed connection is to be expected.
    public var simultaneousOpen: Bool
    /// Told of the channel, on its loop, as soon as there is one; a transport that tries again tells of each. Whoever closes
    /// it before it is connected gives the dial up.
    public var channelMade: (@Sendable (any Channel) -> Void)?

    public init(
        deadline: NIODeadline,
        reusePort: Bool = false,
        localPort: UInt16? = nil,
        simultaneousOpen: Bool = false,
        channelMade: (@Sendable (any Channel) -> Void)? = nil
    ) {
        self.deadline = deadline
        self.reusePort = reusePort
        self.localPort = localPort
        self.simultaneousOpen = simultaneousOpen
        self.channelMade = channelMade
    }
}

/// A listening endpoint of a transport.
public protocol TransportListener: Sendable {
    /// The address that it is bound to, with the port that the system chose; a wildcard stays one.
    var address: Multiaddr { get }
    /// Stops accepting; accepted connections stay.
    func close() -> EventLoopFuture<Void>
}

/// What a relay lets one circuit carry (circuit v2).
public struct ConnectionLimit: Hashable, Sendable {
    /// How long the circuit may last; nil for ever.
    public var seconds: UInt32?
    /// How many bytes each direction may carry; nil for any number.
    public var bytes: UInt64?

    public init(seconds: UInt32?, bytes: UInt64?) {
        self.seconds = seconds
        self.bytes = bytes
    }
}

/// A connection as a transport makes it, before it is secured.
public struct RawConnection: Sendable {
    public enum Capability: Sendable {
        /// Bytes only: the host adds the private network, security and a multiplexer.
        case bytes
        /// Secured and with streams already, as QUIC would be.
        case multiplexed(any MultiplexedConnection)
    }

    public let channel: any Channel
    public let localAddress: Multiaddr
    /// Without the remote peer's ID. For a circuit, up to and with `/p2p-circuit`.
    public let remoteAddress: Multiaddr
    public var capability: Capability
    /// Set if the connection goes through a relay that limits it.
    public var limit: ConnectionLimit?
    /// Bytes that were read already and belong to the upgrade.
    public var received: ByteBuffer?

    public init(
        channel: any Channel,
        localAddress: Multiaddr,
        remoteAddress: Multiaddr,
        capability: Capability = .bytes,
        limit: ConnectionLimit? = nil,
        received: ByteBuffer? = nil
    ) {
        self.channel = channel
        self.localAddress = localAddress
        self.remoteAddress = remoteAddress
        self.capability = capability
        self.limit = limit
        self.received = received
    }
}

/// A connection whose transport has security and streams of its own.
public protocol MultiplexedConnection: Sendable {
    var securedPeer: SecuredPeer { get }
    /// The multiplexer's name, for logs.
    var multiplexerName: String { get }
    /// Starts it, on the channel's loop; `inboundStream` initialises each stream that the remote side opens.
    func start(
        inboundStream: @escaping (any Channel) -> EventLoopFuture<Void>
    ) throws -> any StreamMultiplexer
}

/// What a connection asks of its stream multiplexer. Confined to the connection's event loop.
public protocol StreamMultiplexer {
    func openStream(_ initializer: @escaping (any Channel) -> EventLoopFuture<Void>) -> EventLoopFuture<any Channel>
    /// Says goodbye and closes: at once, or when no stream is left and at `deadline` at the latest.
    func close(drainUntil deadline: NIODeadline?)
    var openStreams: Int { get }
    /// As measured by the multiplexer's own pings.
    var roundTripTime: TimeAmount? { get }
}
