public import LibP2PSecurity
public import Multiformats
public import NIOCore

/// How a peer is dialled.
public struct DialOptions: Sendable {
    public enum Reuse: Sendable, Hashable {
        /// Any open connection to the peer is good enough.
        case any
        /// A connection through a relay is not.
        case direct
        /// A new connection is made in any case.
        case never
    }

    /// An address whose dial has failed is dialled again, while others still run.
    public struct Redial: Sendable, Hashable {
        /// Before the next dial: between half and one and a half of it, by chance, so that two hosts do not go on in step.
        public var delay: TimeAmount
        /// For each address.
        public var maximum: Int

        public init(delay: TimeAmount, maximum: Int) {
            self.delay = delay
            self.maximum = maximum
        }
    }

    public var reuse: Reuse
    /// Dial only the addresses that the call gives, not those that are known of the peer.
    public var onlyGivenAddresses: Bool
    /// No address through a relay is dialled.
    public var directOnly: Bool
    /// Leave from a listening port (see `TransportDialOptions.reusePort`); nil as configured.
    public var reusePort: Bool?
    /// Both peers dial each other at once (DCUtR): this side's role in the handshakes, and no address waits for another.
    public var simultaneousOpen: ConnectionRole?
    /// For the first proposal of the peer if this side is the responder of such a dial; nil as configured.
    public var patience: TimeAmount?
    /// Addresses that failed a short time ago are dialled all the same.
    public var ignoreBackoff: Bool
    /// Nil dials each address once. What the peer has connected meanwhile is as good as the dial that it saves.
    public var redial: Redial?
    /// For the whole dial; nil as configured.
    public var timeout: TimeAmount?
    /// The loop of a new connection; nil for any of the host's.
    public var eventLoop: (any EventLoop)?

    public init(
        reuse: Reuse = .any,
        onlyGivenAddresses: Bool = false,
        directOnly: Bool = false,
        reusePort: Bool? = nil,
        simultaneousOpen: ConnectionRole? = nil,
        patience: TimeAmount? = nil,
        ignoreBackoff: Bool = false,
        redial: Redial? = nil,
        timeout: TimeAmount? = nil,
        eventLoop: (any EventLoop)? = nil
    ) {
        self.reuse = reuse
        self.onlyGivenAddresses = onlyGivenAddresses
        self.directOnly = directOnly
        self.reusePort = reusePort
        self.simultaneousOpen = simultaneousOpen
        self.patience = patience
        self.ignoreBackoff = ignoreBackoff
        self.redial = redial
        self.timeout = timeout
        self.eventLoop = eventLoop
    }
}

/// The bounds and the pace of dials.
public struct DialConfiguration: Sendable {
    public enum Ranking: Sendable, Hashable {
        /// Addresses that are likely better first, the others staggered behind them (after RFC 8305).
        case happyEyeballs
        /// All at once, as EdgeMesh v1.17 does.
        case noDelay
    }

    public var ranking: Ranking = .happyEyeballs
    /// Between two addresses of the same rank class.
    public var stagger: TimeAmount = .milliseconds(250)
    /// What addresses through a relay wait behind direct ones.
    public var relayDelay: TimeAmount = .milliseconds(500)
    public var maximumPerPeer = 8
    public var maximum = 160
    /// Addresses of one peer that one dial tries.
    public var maximumAddresses = 64
    /// For one loopback, private or link-local address, handshake included.
    public var privateTimeout: TimeAmount = .seconds(5)
    /// For one other address, handshake included.
    public var publicTimeout: TimeAmount = .seconds(15)
    /// For one circuit, the way to the relay included.
    public var relayTimeout: TimeAmount = .seconds(30)
    /// For all addresses of a peer.
    public var peerTimeout: TimeAmount = .seconds(60)
    /// After its nth failure an address is not dialled for `backoffBase` + n² `backoffStep`.
    public var backoffBase: TimeAmount = .seconds(5)
    public var backoffStep: TimeAmount = .seconds(1)
    public var backoffMaximum: TimeAmount = .minutes(5)
    /// Failed addresses that are remembered.
    public var maximumBackoffEntries = 4096
    /// Leave from a listening port where that is possible.
    public var reusePort = true
    /// How deep `/dnsaddr` records may point at others.
    public var maximumDNSDepth = 4

    public init() {}
}

/// Finds addresses of a peer that is not known, or no longer where it was: a DHT.
public protocol PeerRouting: Sendable {
    /// Completes on `loop`; an empty answer is no error.
    func findAddresses(of peer: PeerID, on loop: any EventLoop) -> EventLoopFuture<[Multiaddr]>
}
