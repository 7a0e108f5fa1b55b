public import NIOCore

/// How a session behaves and what it may hold. The defaults are those of go-yamux where it has one.
public struct YamuxConfiguration: Sendable {
    /// What each stream may receive before the first window update: the specification's, no choice of ours.
    public static let initialWindowBytes = 256 * 1024

    /// How far a stream's receive window may grow.
    public var maximumWindowBytes = 16 * 1024 * 1024
    /// What the windows of all streams may grow by together, beyond their initial sizes.
    public var windowGrowthBudget = 64 * 1024 * 1024
    /// What may wait in memory for streams that are not read. Beyond it the stream that holds the most is reset.
    public var maximumUnreadBytes = 64 * 1024 * 1024
    /// Shared with other sessions, for what may wait in all of them together; nil for this session's bound alone.
    public var unreadBudget: YamuxByteBudget?
    /// What may wait in memory to be sent, over all streams. At half of it no stream is writable; a write beyond it fails.
    public var maximumUnsentBytes = 64 * 1024 * 1024
    /// As `unreadBudget`, of what waits to be sent.
    public var unsentBudget: YamuxByteBudget?

    /// The largest payload that is sent in one frame.
    public var maximumPayloadBytes = 64 * 1024
    /// Received frames up to this length are delivered as one read each, as they were written.
    public var wholePayloadBytes = 16 * 1024

    public var maximumInboundStreams = 4096
    public var maximumOutboundStreams = 4096
    /// Inbound streams whose initializer has not finished; more are refused with a reset.
    public var acceptBacklog = 256
    /// Outbound streams that the peer has not acknowledged; more wait, as peers refuse what is beyond their own backlog.
    public var unacknowledgedStreams = 256

    /// How often the peer is pinged, to see that it is there and how far away.
    public var keepAliveInterval = TimeAmount.seconds(30)
    /// How long the peer may be silent after a ping.
    public var keepAliveTimeout = TimeAmount.seconds(10)
    /// How long the connection may take no bytes while some wait.
    public var writeTimeout = TimeAmount.seconds(10)
    /// How long a stream that was closed here may take to send what it had and to see the peer's end.
    public var lingerTimeout = TimeAmount.seconds(30)

    /// Resets of its own streams by the peer: a second, and at once. All that may be open may be reset at once in any case.
    public var resetsPerSecond = 200.0
    public var resetBurst = 5000.0
    /// Pings by the peer: a second, and at once.
    public var pingsPerSecond = 10.0
    public var pingBurst = 200.0
    /// Pongs, and resets of refused streams, that may wait for a connection that takes no bytes.
    public var maximumPendingControlFrames = 1024

    /// What a stream holds unsent before it is not writable any more.
    public var writeBufferWaterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 64 * 1024, high: 128 * 1024)

    public init() {}
}

/// What a session tells its host. Called on its event loop.
public struct YamuxEvents {
    public var streamOpened: (_ inbound: Bool) -> Void = { _ in }
    public var streamClosed: (_ inbound: Bool) -> Void = { _ in }
    public var goAwayReceived: (GoAwayCode) -> Void = { _ in }
    public var roundTripMeasured: (TimeAmount) -> Void = { _ in }
    /// Bytes have come, whatever they were: the peer is alive.
    public var received: () -> Void = {}
    /// Bytes have left, whatever they were.
    public var sent: () -> Void = {}
    /// Asked when bytes wait unread or unsent in too many streams: whether the peer is one that others are to make room for.
    public var isTrusted: () -> Bool = { false }
    /// Once, when no stream works any more; nil if this side closed the session in peace.
    public var sessionClosed: (YamuxError?) -> Void = { _ in }

    public init() {}
}
