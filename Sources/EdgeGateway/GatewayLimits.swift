import ByteStreams
public import NIOCore

/// Bounds and times of the gateway. `docs/gateway.md` lists them.
public struct GatewayLimits: Sendable, Hashable {
    /// Connections of clients, of the whole process; more are reset at once.
    public var maximumConnections = 20_000
    /// Of these, from one address.
    public var maximumConnectionsPerClient = 2_000
    /// Streams whose bytes the kernel carries by itself, once they have moved much; the others are copied. Each takes four
    /// descriptors more.
    public var maximumSplices = 256
    /// A request's or response's start line and fields, and its trailers: 431 to a client beyond that.
    public var headBytes = 32 * 1024
    public var headFields = 100
    /// 414 beyond that.
    public var targetBytes = 8 * 1024
    /// Content of a request: 413 beyond that; nil for any.
    public var bodyBytes: UInt64?
    /// Then an HTTP/1.1 connection is closed.
    public var requestsPerConnection = 10_000
    /// Open streams of one HTTP/2 connection.
    public var streamsPerConnection = 128
    /// Streams that an HTTP/2 client may reset in 30 seconds before its connection is closed.
    public var resetsPerConnection = 200
    /// From a request's first byte to the end of its head, and for a TLS handshake.
    public var headTimeout: TimeAmount = .seconds(10)
    /// An open connection without a request.
    public var keepAliveTimeout: TimeAmount = .seconds(75)
    /// A request during which no byte goes either way: 408 if the client is waited for, 504 if the backend is.
    public var idleTimeout: TimeAmount = .seconds(300)
    /// TCP streams and WebSockets; nil for never, as TCP has it.
    public var streamIdleTimeout: TimeAmount?
    /// Once one side of a stream has ended: how long the other may take nothing of what is left for it.
    public var lingerTimeout: TimeAmount = .seconds(30)
    /// How long a client may go on sending what nobody reads before its connection is closed under it.
    public var closeTimeout: TimeAmount = .seconds(2)
    /// One dial; the next endpoint is tried then.
    public var dialTimeout: TimeAmount = .seconds(5)
    /// Endpoints tried for one request or connection.
    public var maximumDials = 4
    /// Content of a request kept for retries and mirrors; one that is longer is neither sent again nor mirrored.
    public var retainedBytes = 64 * 1024
    /// Copies of requests under way on one loop; more are not made.
    public var maximumMirrors = 256
    /// Idle connections to one endpoint that a loop keeps, and for how long.
    public var idlePerEndpoint = 256
    public var idleBackends = 1_024
    public var idleBackendTimeout: TimeAmount = .seconds(30)
    /// Sessions of UDP clients, of the whole process; the one that can be spared best goes when one more comes.
    public var maximumSessions = 16_384
    /// Of these, from one address.
    public var maximumSessionsPerClient = 1_024
    /// A session that was never answered, and one that was, unless its route says otherwise.
    public var unrepliedTimeout: TimeAmount = .seconds(30)
    public var sessionIdleTimeout: TimeAmount = .seconds(180)
    /// How long a backend may think about `Expect: 100-continue` before the content is sent anyway.
    public var continueTimeout: TimeAmount = .seconds(1)
    /// How long open connections may go on after the process was told to stop.
    public var drainTimeout: TimeAmount = .seconds(10)

    public init() {}

    var heads: HTTP1HeadParser.Limits {
        HTTP1HeadParser.Limits(headBytes: self.headBytes, fields: self.headFields, targetBytes: self.targetBytes)
    }
}

/// What happened on one event loop since the start.
struct GatewayCounters: Sendable {
    var connectionsAccepted: UInt64 = 0
    var connectionsOpen = 0
    var connectionsOverLimit: UInt64 = 0
    var handshakesFailed: UInt64 = 0
    var requests: UInt64 = 0
    var requestsOpen = 0
    /// Bytes that are no request, or one that is refused before it is routed.
    var requestsRefused: UInt64 = 0
    var requestsWithoutRoute: UInt64 = 0
    var requestsWithoutBackend: UInt64 = 0
    var answersBroken: UInt64 = 0
    var timeouts: UInt64 = 0
    var retries: UInt64 = 0
    var dialsFailed: UInt64 = 0
    var backendsReused: UInt64 = 0
    var mirrors: UInt64 = 0
    var mirrorsLeftOut: UInt64 = 0
    var upgrades: UInt64 = 0
    var streams: UInt64 = 0
    /// The regular expressions of a host would have taken too long for them.
    var requestsTooComplex: UInt64 = 0
    var acceptsPaused: UInt64 = 0
    var datagrams = DatagramFigures()

    typealias Figure = (key: String, help: String, value: @Sendable (GatewayCounters) -> UInt64)

    static let counters: [Figure] = [
        ("connectionsAccepted", "Connections accepted.", \.connectionsAccepted),
        ("connectionsOverLimit", "Connections reset: a limit of connections was reached.", \.connectionsOverLimit),
        ("handshakesFailed", "TLS handshakes that failed.", \.handshakesFailed),
        ("requests", "HTTP requests routed.", \.requests),
        ("requestsRefused", "Connections that sent what is no request, or none that is allowed.", \.requestsRefused),
        ("requestsWithoutRoute", "Requests answered with 404: no rule holds.", \.requestsWithoutRoute),
        ("requestsWithoutBackend", "Requests answered with 503: no endpoint is ready.", \.requestsWithoutBackend),
        ("answersBroken", "Requests whose backend broke off or answered what is no HTTP.", \.answersBroken),
        ("timeouts", "Requests that took too long.", \.timeouts),
        ("retries", "Requests sent again.", \.retries),
        ("dialsFailed", "Dials to endpoints that failed.", \.dialsFailed),
        ("backendsReused", "Requests sent over a connection that was open.", \.backendsReused),
        ("mirrors", "Copies of requests sent.", \.mirrors),
        ("mirrorsLeftOut", "Copies not sent: the content was too long or too many were under way.", \.mirrorsLeftOut),
        ("upgrades", "Connections that switched to another protocol, such as WebSocket.", \.upgrades),
        ("streams", "TCP streams and TLS connections passed on.", \.streams),
        (
            "requestsTooComplex", "Requests refused: matching them with regular expressions took too many steps.",
            \.requestsTooComplex
        ),
        (
            "acceptsPaused", "Times that nothing was accepted for a while: descriptors or memory were short.",
            \.acceptsPaused
        ),
        ("sessionsOpened", "UDP sessions begun.", \.datagrams.sessionsOpened),
        ("sessionsEvicted", "UDP sessions ended for newer ones: a limit was reached.", \.datagrams.sessionsEvicted),
        (
            "sessionsRefused", "UDP sessions not begun: no endpoint, or a limit was reached.",
            \.datagrams.sessionsRefused
        ),
        ("datagramsDropped", "Datagrams dropped: a buffer was full.", \.datagrams.dropped),
        ("datagramsToBackend", "Datagrams carried from clients to backends.", \.datagrams.toServer),
        ("datagramsToClient", "Datagrams carried from backends to clients.", \.datagrams.toClient),
    ]

    static let gauges: [Figure] = [
        ("connectionsOpen", "Connections that are open.", { UInt64(max(0, $0.connectionsOpen)) }),
        ("requestsOpen", "Requests under way.", { UInt64(max(0, $0.requestsOpen)) }),
        ("sessionsOpen", "UDP sessions that are open.", { UInt64(max(0, $0.datagrams.sessionsOpen)) }),
    ]
}
