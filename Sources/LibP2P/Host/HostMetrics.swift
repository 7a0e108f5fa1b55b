/// What a host has counted since it was made. Values of `open…` are of the moment.
public struct HostMetrics: Sendable, Hashable {
    public var openConnectionsInbound = 0
    public var openConnectionsOutbound = 0
    public var openStreamsInbound = 0
    public var openStreamsOutbound = 0
    public var openDials = 0
    public var inboundHandshakes = 0
    public var knownPeers = 0
    /// Received bytes that wait in streams; see `ResourceLimits.unreadBytes`.
    public var unreadBytes = 0
    /// Written bytes that wait in streams, less what is about to leave; see `ResourceLimits.unsentBytes`.
    public var unsentBytes = 0

    public var connectionsAccepted: UInt64 = 0
    public var connectionsDialled: UInt64 = 0
    public var connectionsRefused: UInt64 = 0
    public var connectionsTrimmed: UInt64 = 0
    /// Closed because the peer broke a protocol or a limit of its connection.
    public var connectionsAbused: UInt64 = 0
    public var handshakesFailed: UInt64 = 0
    public var wrongPreSharedKeys: UInt64 = 0
    public var dialsStarted: UInt64 = 0
    public var dialsJoined: UInt64 = 0
    public var dialsFailed: UInt64 = 0
    public var addressesDialled: UInt64 = 0
    public var addressesFailed: UInt64 = 0
    public var streamsOpened: UInt64 = 0
    public var streamsAccepted: UInt64 = 0
    public var streamsRefused: UInt64 = 0
    /// As bytes wait unread: windows that did not grow, streams of those who hold the most that were refused and reset.
    public var windowGrowthsDenied: UInt64 = 0
    public var streamsRefusedUnread: UInt64 = 0
    public var streamsResetUnread: UInt64 = 0
    /// As bytes wait unsent: writes that failed, and streams that were reset, of those who hold the most.
    public var writesFailedUnsent: UInt64 = 0
    public var streamsResetUnsent: UInt64 = 0
    public var negotiationsFailed: UInt64 = 0
    public var identifiesFailed: UInt64 = 0
    public var identifiesRefused: UInt64 = 0
    public var pushesSent: UInt64 = 0
    public var eventsDropped: UInt64 = 0

    public init() {}
}
