import MeshCore
import Multiformats
import NIOCore

/// The reservations and circuits of a relay, and the limits upon them; no I/O.
///
/// A peer has one reservation, renewed by asking again. It ends with its time or with the peer's last direct connection. A
/// circuit counts at both of its ends from its admission to its end.
struct RelayTable {
    private struct Reservation {
        var expires: NIODeadline
        let origin: IPAddress?
    }

    private let configuration: RelayServiceConfiguration
    private var reservations: [PeerID: Reservation] = [:]
    private var perOrigin: [IPAddress: Int] = [:]
    private var circuitsByPeer: [PeerID: Int] = [:]
    private(set) var circuits = 0
    private var requestsByPeer: RateLimiter<PeerID>
    private var requestsByOrigin: RateLimiter<IPAddress>

    init(configuration: RelayServiceConfiguration) {
        self.configuration = configuration
        self.requestsByPeer = RateLimiter(
            perMinute: configuration.reservationRequestsPerPeer,
            maximum: configuration.maximumRequesters
        )
        self.requestsByOrigin = RateLimiter(
            perMinute: configuration.reservationRequestsPerAddress,
            maximum: configuration.maximumRequesters
        )
    }

    var reservationCount: Int { self.reservations.count }
    var reservedPeers: [PeerID] { Array(self.reservations.keys) }

    // MARK: Reservations

    /// Gives or renews the slot of a peer, which comes from the address `origin`. Who asks too often is told
    /// `resourceLimitExceeded`, and keeps the slot that it has.
    mutating func reserve(_ peer: PeerID, origin: IPAddress?, now: NIODeadline) -> CircuitStatus {
        let origin = origin?.reservationOrigin
        guard self.requestsByPeer.admit(peer, now: now),
            origin.map({ self.requestsByOrigin.admit($0, now: now) }) ?? true
        else { return .resourceLimitExceeded }
        let expires = now + self.configuration.reservationLifetime
        if self.reservations[peer] != nil {
            self.reservations[peer]?.expires = expires
            return .ok
        }
        guard self.reservations.count < self.configuration.maximumReservations else { return .reservationRefused }
        if let origin {
            let held = self.perOrigin[origin] ?? 0
            guard held < self.configuration.maximumReservationsPerAddress else { return .reservationRefused }
            self.perOrigin[origin] = held + 1
        }
        self.reservations[peer] = Reservation(expires: expires, origin: origin)
        return .ok
    }

    /// Takes the slot of a peer away. False if it had none.
    @discardableResult
    mutating func release(_ peer: PeerID) -> Bool {
        guard let reservation = self.reservations.removeValue(forKey: peer) else { return false }
        if let origin = reservation.origin, let held = self.perOrigin[origin] {
            self.perOrigin[origin] = held > 1 ? held - 1 : nil
        }
        return true
    }

    /// Takes away the slots whose time is over, and tells whose they were.
    mutating func expire(now: NIODeadline) -> [PeerID] {
        let over = self.reservations.filter { $0.value.expires <= now }.map(\.key)
        for peer in over { self.release(peer) }
        return over
    }

    private func isReserved(_ peer: PeerID, now: NIODeadline) -> Bool {
        self.reservations[peer].map { $0.expires > now } ?? false
    }

    // MARK: Circuits

    /// Admits a circuit, which then counts until `endCircuit`, or tells why not.
    /// - Parameter isConnected: the target has a direct connection to the relay.
    mutating func beginCircuit(
        from source: PeerID,
        to target: PeerID,
        isConnected: Bool,
        now: NIODeadline
    ) -> CircuitStatus {
        guard source != target else { return .permissionDenied }
        guard isConnected, self.configuration.acceptsUnreserved || self.isReserved(target, now: now) else {
            return .noReservation
        }
        guard self.circuits < self.configuration.maximumCircuits,
            self.circuitCount(of: source) < self.configuration.maximumCircuitsPerPeer,
            self.circuitCount(of: target) < self.configuration.maximumCircuitsPerPeer
        else { return .resourceLimitExceeded }
        self.circuits += 1
        self.circuitsByPeer[source, default: 0] += 1
        self.circuitsByPeer[target, default: 0] += 1
        return .ok
    }

    mutating func endCircuit(from source: PeerID, to target: PeerID) {
        self.circuits -= 1
        for peer in [source, target] {
            let left = self.circuitCount(of: peer) - 1
            self.circuitsByPeer[peer] = left > 0 ? left : nil
        }
    }

    func circuitCount(of peer: PeerID) -> Int { self.circuitsByPeer[peer] ?? 0 }
}

extension IPAddress {
    /// Whom the limit of reservations per address counts together: one IPv4 address, or one /64 of IPv6, which one
    /// subscriber has as a whole.
    fileprivate var reservationOrigin: IPAddress {
        switch self {
        case .v4: self
        case .v6(let address):
            address.mappedIPv4.map { .v4($0) } ?? .v6(IPv6Address(high: address.high, low: 0))
        }
    }
}
