import LibP2P
import LibP2PRelay
import Multiformats
import NIOCore
import Synchronization

/// The relays that are known: those of the configuration, and nodes that volunteer. Any thread.
final class RelayBook: Sendable {
    struct Relay: Hashable, Sendable {
        var node: String
        var peer: PeerID
        /// Without the peer.
        var addresses: [Multiaddr]
        var isConfigured: Bool
    }

    /// By which a relay is known (circuit v2).
    static let hopProtocol: ProtocolID = "/libp2p/circuit/relay/0.2.0/hop"
    /// Volunteers that are remembered; the newest stay.
    static let maximumVolunteers = 8
    /// Circuits that one dial is given, so that the direct addresses of a peer have room, too.
    static let maximumCircuits = 24

    private struct State {
        var configured: [Relay] = []
        var volunteers: [Relay] = []
        var roundTrips: [PeerID: TimeAmount] = [:]
    }

    private let ownPeer: PeerID
    private let naming: any PeerNaming
    private let state = Mutex(State())

    init(ownPeer: PeerID, naming: any PeerNaming) {
        self.ownPeer = ownPeer
        self.naming = naming
    }

    // MARK: Changes

    /// Takes over the relays of the configuration. To be repeated when nodes have become other peers.
    func configure(_ settings: TunnelSettings) {
        let relays = settings.relays.compactMap { relay -> Relay? in
            guard let peer = self.naming.peer(of: relay.nodeName), peer != self.ownPeer else { return nil }
            return Relay(
                node: relay.nodeName,
                peer: peer,
                addresses: settings.addresses(of: relay),
                isConfigured: true
            )
        }
        self.state.withLock { state in
            state.configured = relays
            state.volunteers.removeAll { volunteer in relays.contains { $0.peer == volunteer.peer } }
        }
    }

    /// A node serves as relay, and says where.
    /// - Returns: whether that is news.
    func volunteered(_ peer: PeerID, _ node: String, _ addresses: [Multiaddr]) -> Bool {
        let addresses = addresses.filter { !$0.isCircuit && $0.isPublic }.map(\.withoutPeerID)
        guard !addresses.isEmpty, peer != self.ownPeer else { return false }
        let relay = Relay(node: node, peer: peer, addresses: addresses, isConfigured: false)
        return self.state.withLock { state in
            guard !state.configured.contains(where: { $0.peer == peer }), !state.volunteers.contains(relay) else {
                return false
            }
            state.volunteers.removeAll { $0.peer == peer }
            state.volunteers.append(relay)
            if state.volunteers.count > Self.maximumVolunteers { state.volunteers.removeFirst() }
            return true
        }
    }

    /// A peer serves no more as relay.
    func withdrew(_ peer: PeerID) -> Bool {
        self.state.withLock { state in
            let before = state.volunteers.count
            state.volunteers.removeAll { $0.peer == peer }
            return state.volunteers.count != before
        }
    }

    func measured(_ peer: PeerID, _ time: TimeAmount) {
        self.state.withLock { state in
            guard (state.configured + state.volunteers).contains(where: { $0.peer == peer }) else { return }
            state.roundTrips[peer] = time
        }
    }

    // MARK: Use

    /// All that are known, the configured first.
    var relays: [Relay] { self.state.withLock { $0.configured + $0.volunteers } }

    var candidates: [RelayCandidate] { self.relays.map { RelayCandidate(peer: $0.peer, addresses: $0.addresses) } }

    func roundTripTime(of peer: PeerID) -> TimeAmount? { self.state.withLock { $0.roundTrips[peer] } }

    /// The ways to a peer through every relay, the nearest relay first; one address of each before the second of any.
    /// - Parameter avoided: relays that come last.
    func circuits(to peer: PeerID, avoiding avoided: Set<PeerID> = []) -> [Multiaddr] {
        let (relays, times) = self.state.withLock { ($0.configured + $0.volunteers, $0.roundTrips) }
        let nearest = relays.enumerated().filter { $0.element.peer != peer }.sorted { one, other in
            if avoided.contains(one.element.peer) != avoided.contains(other.element.peer) {
                return avoided.contains(other.element.peer)
            }
            let (near, far) = (times[one.element.peer], times[other.element.peer])
            if near != far { return near ?? .nanoseconds(.max) < far ?? .nanoseconds(.max) }
            return one.offset < other.offset
        }.map(\.element)
        var circuits: [Multiaddr] = []
        var round = 0
        while circuits.count < Self.maximumCircuits, nearest.contains(where: { $0.addresses.count > round }) {
            for relay in nearest where relay.addresses.count > round && circuits.count < Self.maximumCircuits {
                circuits.append(relay.addresses[round].appending(.p2p(relay.peer)).appending(.circuit))
            }
            round += 1
        }
        return circuits
    }
}
