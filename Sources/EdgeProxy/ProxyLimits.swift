public import NIOCore

/// Bounds and times of the user-space proxy.
public struct ProxyLimits: Sendable, Hashable {
    /// Proxied TCP connections of the whole process; more are reset at once.
    public var maximumConnections = 20_000
    /// One dial; the next endpoint is tried then.
    public var dialTimeout: TimeAmount = .seconds(5)
    /// Endpoints tried for one connection.
    public var maximumDials = 4
    /// How long the head of an HTTP request is waited for where the policy hashes a part of it.
    public var sniffTimeout: TimeAmount = .seconds(5)
    /// Both sides are closed after this long without a byte; nil for never, as TCP has it.
    public var idleTimeout: TimeAmount?
    /// UDP sessions of the whole process; the session idle for longest goes when one more comes.
    public var maximumSessions = 16_384
    /// A UDP session that was never answered, and one that was: the kernel's times for its own flows.
    public var unrepliedTimeout: TimeAmount = .seconds(30)
    public var assuredTimeout: TimeAmount = .seconds(180)
    /// How long open connections may go on after the process was told to stop.
    public var drainTimeout: TimeAmount = .seconds(10)

    public init() {}
}

/// What happened on one event loop since the start.
struct ProxyCounters: Sendable {
    var connectionsAccepted: UInt64 = 0
    var connectionsOpen = 0
    /// Not redirected, or to a frontend that is not proxied (any more).
    var connectionsWithoutRoute: UInt64 = 0
    var connectionsOverLimit: UInt64 = 0
    var dialsFailed: UInt64 = 0
    /// Every endpoint that was tried failed.
    var connectionsUnserved: UInt64 = 0
    /// The policy hashes a part of an HTTP request, but these bytes were none, or had none, or came too late.
    var hashKeyNotHTTP: UInt64 = 0
    var hashKeyAbsent: UInt64 = 0
    var hashKeyTimeouts: UInt64 = 0
    var clientToServerBytes: UInt64 = 0
    var serverToClientBytes: UInt64 = 0
    var sessionsOpened: UInt64 = 0
    var sessionsOpen = 0
    var sessionsEvicted: UInt64 = 0
    var sessionsRefused: UInt64 = 0
    var datagramsWithoutRoute: UInt64 = 0
    var datagramsDropped: UInt64 = 0
    var datagramsToServer: UInt64 = 0
    var datagramsToClient: UInt64 = 0
    var listenersRestarted: UInt64 = 0

    var members: [(String, UInt64)] {
        [
            ("connectionsAccepted", self.connectionsAccepted),
            ("connectionsOpen", UInt64(max(0, self.connectionsOpen))),
            ("connectionsWithoutRoute", self.connectionsWithoutRoute),
            ("connectionsOverLimit", self.connectionsOverLimit), ("dialsFailed", self.dialsFailed),
            ("connectionsUnserved", self.connectionsUnserved), ("hashKeyNotHTTP", self.hashKeyNotHTTP),
            ("hashKeyAbsent", self.hashKeyAbsent), ("hashKeyTimeouts", self.hashKeyTimeouts),
            ("clientToServerBytes", self.clientToServerBytes), ("serverToClientBytes", self.serverToClientBytes),
            ("sessionsOpened", self.sessionsOpened), ("sessionsOpen", UInt64(max(0, self.sessionsOpen))),
            ("sessionsEvicted", self.sessionsEvicted), ("sessionsRefused", self.sessionsRefused),
            ("datagramsWithoutRoute", self.datagramsWithoutRoute), ("datagramsDropped", self.datagramsDropped),
            ("datagramsToServer", self.datagramsToServer), ("datagramsToClient", self.datagramsToClient),
            ("listenersRestarted", self.listenersRestarted),
        ]
    }
}
