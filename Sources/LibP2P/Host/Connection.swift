import LibP2PSecurity
import MeshCore
public import Multiformats
public import NIOCore
public import PeerIdentity
import Synchronization

/// A secured connection to a peer that carries streams. It lives on one event loop, and ends with its channel.
public final class Connection: Sendable, Hashable, CustomStringConvertible {
    public enum Path: Sendable, Hashable {
        case direct
        /// Through a relay, with the limit that the relay sets, if any.
        case relayed(ConnectionLimit?)
    }

    struct State {
        var isDraining = false
        var isSuspect = false
        var isClosed = false
        var streams = 0
        var roundTripTime: TimeAmount?
        var identification: Identification?
        /// Which revision of what this host tells of itself the peer was told last.
        var toldRevision: UInt64?
        /// What the peer may still ask or tell by identify.
        var identifies: TokenBucket
        /// Streams that may still end without a protocol.
        var failedStreams: TokenBucket
        var closeError: LibP2PError?
    }

    /// Unique among the connections of a host; later ones have higher numbers.
    public let id: UInt64
    public let remotePeer: PeerID
    public let remoteKey: PublicKey
    public let direction: Direction
    public let localAddress: Multiaddr
    public let remoteAddress: Multiaddr
    public let path: Path
    /// `/tls/1.0.0` or `/noise`.
    public let securityProtocol: String
    public let multiplexer: String
    public let eventLoop: any EventLoop
    public let opened: NIODeadline

    let channel: any Channel
    let streams: NIOLoopBound<any StreamMultiplexer>
    let host: Host
    let state: Mutex<State>
    private let heardAt: Atomic<UInt64>
    private let sentAt: Atomic<UInt64>

    init(
        id: UInt64,
        peer: SecuredPeer,
        raw: RawConnection,
        direction: Direction,
        multiplexerName: String,
        multiplexer: any StreamMultiplexer,
        host: Host
    ) {
        self.id = id
        self.remotePeer = peer.remotePeer
        self.remoteKey = peer.remoteKey
        self.securityProtocol = peer.protocolID
        self.direction = direction
        self.localAddress = raw.localAddress
        self.remoteAddress = raw.remoteAddress
        self.path = raw.remoteAddress.isCircuit ? .relayed(raw.limit) : .direct
        self.multiplexer = multiplexerName
        self.channel = raw.channel
        self.eventLoop = raw.channel.eventLoop
        self.opened = raw.channel.eventLoop.now
        self.heardAt = Atomic(self.opened.uptimeNanoseconds)
        self.sentAt = Atomic(self.opened.uptimeNanoseconds)
        self.streams = NIOLoopBound(multiplexer, eventLoop: raw.channel.eventLoop)
        self.host = host
        self.state = Mutex(
            State(
                identifies: TokenBucket(
                    rate: host.configuration.identifiesPerSecond,
                    burst: host.configuration.identifyBurst,
                    now: MonotonicTime(self.opened)
                ),
                failedStreams: TokenBucket(
                    rate: host.configuration.failedStreamsPerSecond,
                    burst: host.configuration.failedStreamBurst,
                    now: MonotonicTime(self.opened)
                )
            )
        )
    }

    public var isOpen: Bool { self.state.withLock { !$0.isClosed } }

    /// The remote side or this one has said goodbye: no new streams.
    public var isDraining: Bool { self.state.withLock { $0.isDraining } }

    public var isRelayed: Bool { self.path != .direct }

    /// A relay limits the time or the bytes of this connection.
    public var isLimited: Bool {
        if case .relayed(.some) = self.path { true } else { false }
    }

    public var streamCount: Int { self.state.withLock { $0.streams } }

    /// The last measured round trip, by ping or by the multiplexer.
    public var roundTripTime: TimeAmount? { self.state.withLock { $0.roundTripTime } }

    /// When bytes last came from the peer, whatever they were: a sign of life that costs nothing.
    public var lastHeard: NIODeadline { .uptimeNanoseconds(self.heardAt.load(ordering: .relaxed)) }

    /// When bytes last left for the peer. If nothing came since, it may owe an answer.
    public var lastSent: NIODeadline { .uptimeNanoseconds(self.sentAt.load(ordering: .relaxed)) }

    func heard() { self.heardAt.store(self.eventLoop.now.uptimeNanoseconds, ordering: .relaxed) }
    func sent() { self.sentAt.store(self.eventLoop.now.uptimeNanoseconds, ordering: .relaxed) }

    /// Somebody doubts that the peer is still there: new streams take another connection, which is dialled if there is none, and
    /// those that are open wait for what comes.
    public var isSuspect: Bool { self.state.withLock { $0.isSuspect } }

    public func suspect(_ isSuspect: Bool) { self.state.withLock { $0.isSuspect = isSuspect } }

    /// Whether new streams are to use it.
    public var takesStreams: Bool { self.state.withLock { !$0.isClosed && !$0.isDraining && !$0.isSuspect } }

    /// What the peer has told on this connection.
    public var identification: Identification? { self.state.withLock { $0.identification } }

    /// What ended the connection, if it did not end in peace.
    public var closeError: LibP2PError? { self.state.withLock { $0.closeError } }

    /// Completes when the connection is closed.
    public var closeFuture: EventLoopFuture<Void> { self.channel.closeFuture }

    public static func == (lhs: Connection, rhs: Connection) -> Bool { lhs === rhs }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.id) }

    public var description: String {
        "connection \(self.id) \(self.direction == .inbound ? "from" : "to") \(self.remotePeer) at \(self.remoteAddress)"
    }
}
