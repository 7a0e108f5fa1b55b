import MeshCore
import Multiformats
import NIOCore

/// Where peers see this host's connections come from, by the listening address that they left from.
///
/// Each group of observers (an IPv4 address, or a /64 of IPv6) has one opinion of each listening address, its newest. An
/// opinion lives as long as a connection that it came by, and `lifetime` longer.
struct ObservedAddressTable {
    private struct Observer: Hashable {
        let local: Multiaddr
        let group: UInt64
        let family: IPFamily
    }

    private struct Opinion {
        var address: Multiaddr
        /// Who saw it.
        var observer: IPAddress
        var connection: UInt64?
        var seen: NIODeadline
    }

    private struct Votes {
        var count = 0
        var seen = NIODeadline.uptimeNanoseconds(0)
    }

    private let configuration: ObservedAddressConfiguration
    private var opinions: [Observer: Opinion] = [:]
    private var observers: [UInt64: Observer] = [:]
    private(set) var dropped: UInt64 = 0

    init(configuration: ObservedAddressConfiguration) {
        self.configuration = configuration
    }

    var count: Int { self.opinions.count }

    /// Notes what the peer at `remote` says of a connection from or to `local`. Nothing is noted beyond the bound.
    mutating func record(
        _ observed: Multiaddr,
        local: Multiaddr,
        remote: Multiaddr,
        connection: UInt64,
        now: NIODeadline
    ) {
        guard let ip = remote.ipAddress else { return }
        let observer = Observer(local: local, group: Self.group(of: ip), family: ip.family)
        if self.opinions[observer] == nil, self.opinions.count >= self.configuration.maximumObservations {
            guard let oldest = self.oldestOfClosed() else {
                self.dropped += 1
                return
            }
            self.opinions[oldest] = nil
        }
        self.observers[connection] = observer
        self.opinions[observer] = Opinion(address: observed, observer: ip, connection: connection, seen: now)
    }

    mutating func closed(connection: UInt64, now: NIODeadline) {
        guard let observer = self.observers.removeValue(forKey: connection),
            self.opinions[observer]?.connection == connection
        else { return }
        self.opinions[observer]?.connection = nil
        self.opinions[observer]?.seen = now
    }

    mutating func expire(now: NIODeadline) {
        self.opinions = self.opinions.filter { _, opinion in
            opinion.connection != nil || opinion.seen + self.configuration.lifetime > now
        }
    }

    /// Forgets what was seen of addresses at which the host listens no longer.
    mutating func keep(listening: [Multiaddr]) {
        self.opinions = self.opinions.filter { listening.contains($0.key.local) }
        self.observers = self.observers.filter { self.opinions[$0.value] != nil }
    }

    /// Addresses that enough groups of observers agree on.
    func confirmed() -> [Multiaddr] {
        self.ranked(needed: self.configuration.observersNeeded)
    }

    /// All that was seen, the most agreed on first: good enough for a try that costs nothing.
    func candidates() -> [Multiaddr] {
        self.ranked(needed: 1)
    }

    /// Single observations, in a stable order.
    func sightings(limit: Int) -> [AddressSighting] {
        let all = self.opinions.map { observer, opinion in
            AddressSighting(seen: opinion.address, local: observer.local, observer: opinion.observer)
        }
        return Array(
            all.sorted { ($0.observer, $0.local.description) < ($1.observer, $1.local.description) }.prefix(limit)
        )
    }

    private func ranked(needed: Int) -> [Multiaddr] {
        var votes: [Multiaddr: Votes] = [:]
        for opinion in self.opinions.values {
            votes[opinion.address, default: Votes()].count += 1
            votes[opinion.address, default: Votes()].seen = max(
                votes[opinion.address]?.seen ?? opinion.seen,
                opinion.seen
            )
        }
        let ranked = votes.filter { $0.value.count >= needed }.sorted { lhs, rhs in
            if lhs.value.count != rhs.value.count { return lhs.value.count > rhs.value.count }
            if lhs.value.seen != rhs.value.seen { return lhs.value.seen > rhs.value.seen }
            return lhs.key.description < rhs.key.description
        }
        // A NAT that gives each connection a port of its own would fill the list with ports that nobody can use.
        var ports: [Multiaddr: Int] = [:]
        return ranked.map(\.key).filter { address in
            let group = address.withoutPort
            ports[group, default: 0] += 1
            return ports[group, default: 0] <= self.configuration.maximumPortsPerAddress
        }
    }

    private func oldestOfClosed() -> Observer? {
        self.opinions.filter { $0.value.connection == nil }.min { $0.value.seen < $1.value.seen }?.key
    }

    private static func group(of address: IPAddress) -> UInt64 {
        switch address {
        case .v4(let v4): UInt64(v4.rawValue)
        case .v6(let v6): v6.high
        }
    }

    /// Whether an observation can tell how others reach a listening address: the connection used that address's port, and
    /// what was seen has the same layers above it.
    static func isOfUse(_ observed: Multiaddr, local: Multiaddr, listening: [Multiaddr]) -> Bool {
        guard listening.contains(local), !listening.contains(observed), observed.components.count >= 2,
            let ip = observed.ipAddress, ip.family == local.ipAddress?.family, let port = observed.port, port != 0
        else { return false }
        switch ip.reach {
        case .public, .private:
            return observed.withoutPort.components.dropFirst() == local.withoutPort.components.dropFirst()
        case .loopback, .linkLocal, .none: return false
        }
    }
}

extension Multiaddr {
    /// The address with port 0.
    var withoutPort: Multiaddr {
        Multiaddr(
            self.components.map { component in
                switch component {
                case .tcp: .tcp(0)
                case .udp: .udp(0)
                default: component
                }
            }
        )
    }
}
