public import NIOCore

/// A stream to a peer whose protocol is agreed upon.
///
/// Its channel has `autoRead` off and `allowRemoteHalfClosure` on, and holds what it has received until it is first read:
/// add handlers, then read or set `autoRead`. `close(mode: .output)` ends this side's data, `close()` the stream, once flushed
/// bytes are sent; `reset()` drops them and tells the peer.
public struct NegotiatedStream: Sendable {
    public let channel: any Channel
    public let protocolID: ProtocolID
    public let connection: Connection

    public init(channel: any Channel, protocolID: ProtocolID, connection: Connection) {
        self.channel = channel
        self.protocolID = protocolID
        self.connection = connection
    }
}

/// A stream that the remote peer has opened.
public typealias InboundStream = NegotiatedStream

/// Takes an inbound stream, on the stream's event loop. A future that fails resets the stream; one that succeeds leaves it to
/// whoever has it.
public typealias StreamHandler = @Sendable (InboundStream) -> EventLoopFuture<Void>

/// How a stream is opened.
public struct OpenStreamOptions: Sendable {
    /// The stream may use a connection that a relay limits in time or bytes.
    public var allowLimitedConnection: Bool
    /// Only connections without a relay are used; the peer is dialled if there is none.
    public var directOnly: Bool
    /// Dial the peer if there is no connection.
    public var dial: Bool
    /// With a single protocol the stream is given at once and the proposal travels with the first bytes; a refusal
    /// then comes as an error in the stream's pipeline. Set this to wait for the answer instead.
    public var waitForAnswer: Bool
    /// Limit for the negotiation, and for the dial before it.
    public var timeout: TimeAmount
    /// How the peer is dialled if it must be.
    public var dialOptions: DialOptions

    public init(
        allowLimitedConnection: Bool = false,
        directOnly: Bool = false,
        dial: Bool = true,
        waitForAnswer: Bool = false,
        timeout: TimeAmount = .seconds(60),
        dialOptions: DialOptions = DialOptions()
    ) {
        self.allowLimitedConnection = allowLimitedConnection
        self.directOnly = directOnly
        self.dial = dial
        self.waitForAnswer = waitForAnswer
        self.timeout = timeout
        self.dialOptions = dialOptions
    }
}

/// How the streams of a protocol are taken.
public struct HandlerOptions: Sendable {
    /// Streams over connections that a relay limits are taken, too.
    public var allowLimitedConnection: Bool
    /// The protocol is told to others by identify.
    public var isAdvertised: Bool
    /// Nil for the limits of any protocol.
    public var bounds: Bounds?

    /// How many inbound streams there may be of a protocol that needs few, unless `ResourceLimits` names it.
    public struct Bounds: Sendable, Hashable {
        public var streams: Int
        public var perPeer: Int

        public init(streams: Int, perPeer: Int) {
            self.streams = streams
            self.perPeer = perPeer
        }
    }

    public init(allowLimitedConnection: Bool = false, isAdvertised: Bool = true, bounds: Bounds? = nil) {
        self.allowLimitedConnection = allowLimitedConnection
        self.isAdvertised = isAdvertised
        self.bounds = bounds
    }
}
