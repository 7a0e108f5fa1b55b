import MeshCore
import Multiformats
import NIOCore

/// An address to dial and how long after the start of the dial.
struct RankedAddress: Equatable {
    let address: Multiaddr
    let delay: TimeAmount
}

/// In which order and at which pace the addresses of a peer are dialled, after RFC 8305 ("happy eyeballs").
enum DialRanking {
    /// Private addresses go first, as they cost nothing and are near; public ones begin one stagger later, circuits
    /// `relayDelay` later. Within each class IPv6 and IPv4 alternate, and TCP precedes WebSocket; one follows the other after a
    /// stagger.
    static func rank(_ addresses: [Multiaddr], configuration: DialConfiguration) -> [RankedAddress] {
        guard configuration.ranking == .happyEyeballs else {
            return addresses.map { RankedAddress(address: $0, delay: .zero) }
        }
        var near: [Multiaddr] = []
        var far: [Multiaddr] = []
        var circuits: [Multiaddr] = []
        for address in addresses {
            if address.isCircuit {
                circuits.append(address)
            } else if address.isNear {
                near.append(address)
            } else {
                far.append(address)
            }
        }
        let farStart = near.isEmpty ? .zero : configuration.stagger
        let circuitStart = near.isEmpty && far.isEmpty ? .zero : configuration.relayDelay
        let ranked =
            Self.stagger(near, from: .zero, configuration) + Self.stagger(far, from: farStart, configuration)
            + Self.stagger(circuits, from: circuitStart, configuration)
        // A stable sort by delay: equal ones keep the order of the classes.
        return ranked.enumerated().sorted { ($0.element.delay, $0.offset) < ($1.element.delay, $1.offset) }.map(
            \.element
        )
    }

    private static func stagger(
        _ addresses: [Multiaddr],
        from start: TimeAmount,
        _ configuration: DialConfiguration
    ) -> [RankedAddress] {
        Self.alternate(addresses).enumerated().map { index, address in
            RankedAddress(address: address, delay: start + configuration.stagger * index)
        }
    }

    private static func alternate(_ addresses: [Multiaddr]) -> [Multiaddr] {
        let simpleFirst = addresses.enumerated().sorted {
            ($0.element.components.count, $0.offset) < ($1.element.components.count, $1.offset)
        }.map(\.element)
        let v6 = simpleFirst.filter { $0.ipAddress?.family == .v6 }
        let v4 = simpleFirst.filter { $0.ipAddress?.family != .v6 }
        var mixed: [Multiaddr] = []
        for index in 0..<max(v6.count, v4.count) {
            if index < v6.count { mixed.append(v6[index]) }
            if index < v4.count { mixed.append(v4[index]) }
        }
        return mixed
    }
}

extension Multiaddr {
    /// On this host, its links or its site: an answer comes soon or never.
    var isNear: Bool { !self.isCircuit && (self.isPrivate || self.isLoopback || self.isLinkLocal) }
}

extension DialConfiguration {
    /// What one address gets, from the first packet to the end of the handshake.
    func timeout(for address: Multiaddr) -> TimeAmount {
        if address.isCircuit { return self.relayTimeout }
        return address.isNear ? self.privateTimeout : self.publicTimeout
    }
}
