public import Multiformats

/// What happens to a host.
public enum HostEvent: Sendable {
    case connected(Connection)
    /// `remaining` is the number of connections to the peer that are left.
    case disconnected(Connection, remaining: Int)
    /// The peer has told about itself, for the first time on this connection or anew.
    case identified(Connection, Identification)
    case identifyFailed(Connection, LibP2PError)
    /// The addresses that this host tells others have changed.
    case addressesChanged([Multiaddr])
    /// What AutoNAT has found out.
    case reachabilityChanged(Reachability)
    case reservation(ReservationEvent)
}

/// Whether peers of the internet can dial this host.
public enum Reachability: Sendable, Hashable {
    case unknown
    case publiclyReachable
    case behindNAT
}

/// What became of a reservation with a relay.
public struct ReservationEvent: Sendable, Hashable {
    public enum State: Sendable, Hashable {
        /// Wall-clock seconds of its end.
        case active(expires: UInt64)
        case refused
        case lost
    }

    public let relay: PeerID
    public let state: State

    public init(relay: PeerID, state: State) {
        self.relay = relay
        self.state = state
    }
}

/// What a peer says of itself by identify.
public struct Identification: Sendable, Hashable {
    public var agentVersion: String
    public var protocolVersion: String
    public var protocols: Set<ProtocolID>
    /// Where the peer says it listens.
    public var listenAddresses: [Multiaddr]
    /// As whom the peer sees this host on the connection.
    public var observedAddress: Multiaddr?
    /// The peer's signed record (a sealed envelope) if it sent one that holds.
    public var signedPeerRecord: [UInt8]?

    public init(
        agentVersion: String = "",
        protocolVersion: String = "",
        protocols: Set<ProtocolID> = [],
        listenAddresses: [Multiaddr] = [],
        observedAddress: Multiaddr? = nil,
        signedPeerRecord: [UInt8]? = nil
    ) {
        self.agentVersion = agentVersion
        self.protocolVersion = protocolVersion
        self.protocols = protocols
        self.listenAddresses = listenAddresses
        self.observedAddress = observedAddress
        self.signedPeerRecord = signedPeerRecord
    }
}
