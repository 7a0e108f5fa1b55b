public import LibP2P
public import Multiformats
public import NIOCore

/// What a relay gives, and to whom. The defaults fit an edge cluster of a thousand nodes, many of them behind one address.
public struct RelayServiceConfiguration: Sendable {
    public var reservationLifetime: TimeAmount = .hours(1)
    /// Peers that may have a slot at once.
    public var maximumReservations = 2048
    /// Of these, peers behind one IPv4 address, or one /64 of IPv6.
    public var maximumReservationsPerAddress = 1024
    /// Requests for a reservation, new or again, from one peer, and from one IPv4 address or /64 of IPv6: a minute, and at once.
    /// A relay that comes back is asked by all the nodes behind an address within seconds.
    public var reservationRequestsPerPeer = 12
    public var reservationRequestsPerAddress = 2048
    /// Peers, and addresses, whose requests are counted.
    public var maximumRequesters = 4096
    public var maximumCircuits = 4096
    /// Circuits from or to one peer.
    public var maximumCircuitsPerPeer = 1024
    /// What each circuit may carry and how long it may last; nil for any amount for ever.
    public var limit: ConnectionLimit?
    /// Also connects to peers that have no reservation but a connection: agents of EdgeMesh v1.17 never get to reserve.
    public var acceptsUnreserved = true
    /// For a peer to say what it wants.
    public var requestTimeout: TimeAmount = .seconds(30)
    /// For the target of a circuit to answer.
    public var connectTimeout: TimeAmount = .seconds(30)
    /// Who may reserve, and from where.
    public var allowReservation: @Sendable (PeerID, Multiaddr) -> Bool = { _, _ in true }
    /// Who may connect to whom.
    public var allowCircuit: @Sendable (_ source: PeerID, _ target: PeerID) -> Bool = { _, _ in true }
    /// Which of the host's addresses are told to those who reserve.
    public var addressFilter: @Sendable (Multiaddr) -> Bool = {
        !$0.isCircuit && !$0.isLoopback && !$0.isLinkLocal
    }

    public init() {}
}

/// How a host uses relays.
public struct RelayClientConfiguration: Sendable {
    /// Reservations to hold at once; zero only dials and accepts circuits.
    public var wantedReservations = 3
    /// Candidates beyond this number are ignored.
    public var maximumCandidates = 64
    /// Candidates whose round trip is measured at once.
    public var maximumProbes = 8
    /// How long the choice of relays waits for measurements that are still under way.
    public var selectionDelay: TimeAmount = .seconds(2)
    /// For a way to a candidate and the measurement of its round trip.
    public var probeTimeout: TimeAmount = .seconds(15)
    /// How often the relays that are held are compared with other candidates, if there are any.
    public var comparisonInterval: TimeAmount = .minutes(5)
    /// A relay takes the place of one that is held if its round trip is shorter by `nearerBy` at least and takes at most `nearerPart`
    /// of the time, in `nearerConfirmations` comparisons on end, which follow each other after `confirmationInterval`.
    public var nearerBy: TimeAmount = .milliseconds(5)
    public var nearerPart = 0.7
    public var nearerConfirmations = 3
    public var confirmationInterval: TimeAmount = .seconds(20)
    /// For a relay to answer a request.
    public var requestTimeout: TimeAmount = .seconds(15)
    /// Before the first try after a failure or loss; doubled with each further one, and jittered.
    public var retryBase: TimeAmount = .milliseconds(500)
    public var retryMaximum: TimeAmount = .seconds(60)
    /// Before a relay that has refused is asked again; doubled, and jittered.
    public var refusalBase: TimeAmount = .seconds(15)
    public var refusalMaximum: TimeAmount = .minutes(5)
    /// For another relay to say for whom a circuit is.
    public var acceptTimeout: TimeAmount = .seconds(30)
    /// Whether a circuit through a relay from a peer, as the relay says, is taken. Its identity is proven afterwards.
    public var acceptCircuit: @Sendable (_ relay: PeerID, _ source: PeerID) -> Bool = { _, _ in true }

    public init() {}
}
