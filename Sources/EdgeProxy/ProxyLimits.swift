import ByteStreams
public import NIOCore

/// Bounds and times of the user-space proxy.
public struct ProxyLimits: Sendable, Hashable {
    /// Proxied TCP connections of the whole process; more are reset at once.
    public var maximumConnections = 20_000
    /// Descriptors of all proxied TCP connections, but for the pipes of splices: two each, or one if the tunnel carries it.
    var maximumDescriptors = Int.max
    /// Of these, connections whose bytes the kernel carries by itself, once they have moved much; the others are copied. Each
    /// takes four descriptors more.
    public var maximumSplices = 256
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
    /// The source port of a UDP client that was silent for this long may be another client's by now: conntrack is asked again.
    /// Below conntrack's shortest UDP timeout (30 s).
    var revalidationTime: TimeAmount = .seconds(10)
    /// Once one side of a TCP connection has ended: how long the other may take nothing of what is left for it.
    public var lingerTimeout: TimeAmount = .seconds(120)
    /// How long open connections may go on after the process was told to stop.
    public var drainTimeout: TimeAmount = .seconds(10)

    public init() {}

    var datagrams: DatagramRelay.Limits {
        DatagramRelay.Limits(
            maximumSessions: self.maximumSessions,
            unrepliedTimeout: self.unrepliedTimeout,
            assuredTimeout: self.assuredTimeout
        )
    }
}

/// What happened on one event loop since the start.
struct ProxyCounters: Sendable {
    var connectionsAccepted: UInt64 = 0
    var connectionsOpen = 0
    /// Not redirected, or to a frontend that is not proxied (any more).
    var connectionsWithoutRoute: UInt64 = 0
    var connectionsOverLimit: UInt64 = 0
    /// To the loop of the tunnel's stream that serves them.
    var connectionsMoved: UInt64 = 0
    var dialsFailed: UInt64 = 0
    /// Every endpoint that was tried failed.
    var connectionsUnserved: UInt64 = 0
    /// One side had ended and the other did not take what was left for it.
    var connectionsLingered: UInt64 = 0
    var connectionsSpliced: UInt64 = 0
    var splicesOpen = 0
    /// `maximumSplices` were open, or descriptors were short.
    var splicesRefused: UInt64 = 0
    /// The policy hashes a part of an HTTP request, but these bytes were none, or had none, or came too late.
    var hashKeyNotHTTP: UInt64 = 0
    var hashKeyAbsent: UInt64 = 0
    var hashKeyTimeouts: UInt64 = 0
    var clientToServerBytes: UInt64 = 0
    var serverToClientBytes: UInt64 = 0
    var datagrams = DatagramFigures()
    var datagramsWithoutRoute: UInt64 = 0
    var listenersRestarted: UInt64 = 0
    var acceptsPaused: UInt64 = 0

    typealias Figure = (key: String, help: String, value: @Sendable (ProxyCounters) -> UInt64)

    /// What status and metrics show: the key in the status, what it means, and the figure. Those in `gauges` go up and down.
    static let counters: [Figure] = [
        ("connectionsAccepted", "TCP connections accepted.", \.connectionsAccepted),
        (
            "connectionsWithoutRoute", "TCP connections reset: to nothing that is served here.",
            \.connectionsWithoutRoute
        ),
        ("connectionsOverLimit", "TCP connections reset: maxConnections were open.", \.connectionsOverLimit),
        ("connectionsMoved", "TCP connections moved to the event loop of their tunnel.", \.connectionsMoved),
        ("connectionsUnserved", "TCP connections reset: no endpoint answered.", \.connectionsUnserved),
        (
            "connectionsLingered",
            "TCP connections reset: a peer took nothing of what was left for it for lingerTimeout.",
            \.connectionsLingered
        ),
        (
            "connectionsSpliced", "TCP connections that moved much and were handed over to the kernel (splice).",
            \.connectionsSpliced
        ),
        (
            "splicesRefused",
            "TCP connections that moved much and were copied: maxSplicedConnections were open, or descriptors were short.",
            \.splicesRefused
        ),
        ("dialsFailed", "Dials to endpoints that failed.", \.dialsFailed),
        ("hashKeyNotHTTP", "Hash keys looked for in bytes that are no HTTP.", \.hashKeyNotHTTP),
        ("hashKeyAbsent", "Hash keys that an HTTP request did not have.", \.hashKeyAbsent),
        ("hashKeyTimeouts", "Hash keys that did not come in time.", \.hashKeyTimeouts),
        ("clientToServerBytes", "Bytes carried from clients to endpoints over TCP.", \.clientToServerBytes),
        ("serverToClientBytes", "Bytes carried from endpoints to clients over TCP.", \.serverToClientBytes),
        ("sessionsOpened", "UDP sessions begun.", \.datagrams.sessionsOpened),
        (
            "sessionsEvicted", "UDP sessions ended for newer ones: maxUDPSessions were open.",
            \.datagrams.sessionsEvicted
        ),
        ("sessionsRefused", "UDP sessions not begun: no endpoint or no room.", \.datagrams.sessionsRefused),
        ("datagramsWithoutRoute", "Datagrams dropped: to nothing that is served here.", \.datagramsWithoutRoute),
        ("datagramsDropped", "Datagrams dropped: a buffer was full.", \.datagrams.dropped),
        ("datagramsToServer", "Datagrams carried from clients to endpoints.", \.datagrams.toServer),
        ("datagramsToClient", "Datagrams carried from endpoints to clients.", \.datagrams.toClient),
        ("listenersRestarted", "Listening sockets opened again after an error.", \.listenersRestarted),
        (
            "acceptsPaused", "Times that nothing was accepted for a while: descriptors or memory were short.",
            \.acceptsPaused
        ),
    ]

    static let gauges: [Figure] = [
        ("connectionsOpen", "TCP connections that are open.", { UInt64(max(0, $0.connectionsOpen)) }),
        ("splicesOpen", "TCP connections that the kernel carries.", { UInt64(max(0, $0.splicesOpen)) }),
        ("sessionsOpen", "UDP sessions that are open.", { UInt64(max(0, $0.datagrams.sessionsOpen)) }),
    ]
}
