public import LibP2P
import Multiformats
public import NIOCore

/// How direct connections are sought for relayed ones.
public struct HolePunchConfiguration: Sendable {
    /// Exchanges with simultaneous dials until it is given up.
    public var tries = 3
    /// For the dial of addresses at which the peer says that it listens, before any hole is punched.
    public var directDialTimeout: TimeAmount = .seconds(3)
    /// For the simultaneous dials of one try.
    public var punchTimeout: TimeAmount = .seconds(5)
    /// For the messages of one try, over the relay.
    public var exchangeTimeout: TimeAmount = .seconds(20)
    /// A dial that is refused, as the other side's hole is not open yet, is tried again about this much later.
    public var redialDelay: TimeAmount = .milliseconds(100)
    /// So often at most; about as often as fit into `punchTimeout`, as a busy peer may begin late.
    public var maximumRedials = 50
    /// Addresses that are offered to a peer, and of its own that are dialled for it.
    public var maximumAddresses = 16
    /// Addresses of private networks are offered and dialled as well: both hosts may be in one.
    public var allowsPrivateAddresses = true
    /// Peers that are dealt with at once; further ones stay with their relay.
    public var maximumConcurrent = 64
    /// The relayed connection takes no new streams once there is a direct one; what still runs on it may take this long.
    /// Nil leaves it alone.
    public var drainTimeout: TimeAmount? = .hours(1)
    /// Before it takes none: streams that the peer opened before it knew the direct connection are still on their way.
    public var drainDelay: TimeAmount = .seconds(2)
    /// Whether the peer may take the roles of client and server the other way round than the specification has them.
    public var hasReversedRoles: @Sendable (Identification) -> Bool = Self.isGo

    /// For the first proposal of a peer whose roles may be reversed, beyond two round trips: if it is the server, too, it proposes
    /// nothing, however long this host waits.
    public var reversedPatience: TimeAmount = .milliseconds(300)

    /// Told of connections for which a hole was punched, by whichever side; on their loops.
    public var punched: (@Sendable (Connection) -> Void)?

    /// For tests on one machine.
    var allowsLoopback = false
    var candidates: (@Sendable () -> [Multiaddr])?

    public init() {}

    var reaches: [AddressReach] {
        [.public] + (self.allowsPrivateAddresses ? [.private] : []) + (self.allowsLoopback ? [.loopback] : [])
    }

    /// go-libp2p before 0.41, and so every agent of EdgeMesh v1.17, takes its roles in reverse. Its programs call themselves by the
    /// import path of their module, unless they are told otherwise, and nothing tells the version of the library.
    public static func isGo(_ peer: Identification) -> Bool {
        let agent = peer.agentVersion
        if ["go-libp2p", "go-ipfs/", "kubo/"].contains(where: { agent.hasPrefix($0) }) { return true }
        guard let slash = agent.firstIndex(of: "/") else { return false }
        let domain = agent[..<slash]
        return domain.contains(".") && domain.first?.isLetter == true && !domain.contains(" ")
    }
}

/// What hole punching has come to.
public struct HolePunchMetrics: Sendable, Hashable {
    /// Relayed connections for which a direct one was sought.
    public var started: UInt64 = 0
    /// A listening address of the peer could be reached.
    public var dialled: UInt64 = 0
    /// A simultaneous open succeeded.
    public var punched: UInt64 = 0
    public var failed: UInt64 = 0
    /// Tries that peers have initiated.
    public var answered: UInt64 = 0
    /// Not begun because too many were under way.
    public var refused: UInt64 = 0
    public var running = 0

    public init() {}
}
