import MeshCore
import Multiformats
import NIOCore

/// Which addresses a server of AutoNAT dials for a peer, and how often. Sans-I/O.
///
/// Only the IP address from which the peer's connection comes is dialled (libp2p/specs, autonat-v1: anything else could be used
/// against third parties), and no peer has more than its share.
struct DialBackPolicy {
    private let configuration: AutoNATServerConfiguration
    private var peers: RateLimiter<PeerID>
    private var all: TokenBucket

    init(configuration: AutoNATServerConfiguration, now: NIODeadline) {
        self.configuration = configuration
        self.peers = RateLimiter(
            perMinute: configuration.dialsPerPeerAndMinute,
            maximum: configuration.maximumPeers
        )
        self.all = TokenBucket(
            rate: Double(configuration.dialsPerMinute) / 60,
            burst: Double(configuration.dialsPerMinute),
            now: MonotonicTime(nanoseconds: now.uptimeNanoseconds)
        )
    }

    /// Takes one dial from the peer's share and from everyone's.
    mutating func admit(_ peer: PeerID, now: NIODeadline) -> Bool {
        self.peers.admit(peer, now: now) && self.all.take(now: MonotonicTime(nanoseconds: now.uptimeNanoseconds))
    }

    /// The addresses to dial for a peer that is seen at `observed`; nil if it is not served from there.
    static func addresses(
        _ told: [Multiaddr],
        observed: Multiaddr,
        own: [Multiaddr],
        configuration: AutoNATServerConfiguration
    ) -> [Multiaddr]? {
        guard let ip = observed.ipAddress, Self.isDialable(ip, configuration),
            !own.contains(where: { $0.ipAddress == ip })
        else { return nil }
        var addresses: [Multiaddr] = []
        for address in [observed] + told {
            guard addresses.count < configuration.maximumAddresses else { break }
            guard address.ipAddress != nil, !address.isCircuit else { continue }
            let first: Multiaddr.Component =
                switch ip {
                case .v4(let v4): .ip4(v4)
                case .v6(let v6): .ip6(v6)
                }
            // Behind the IP address, and its zone if it has one.
            let rest = address.withoutPeerID.components.drop { component in
                switch component {
                case .ip4, .ip6, .ip6zone: true
                default: false
                }
            }
            let candidate = Multiaddr([first] + rest)
            guard let port = candidate.port, port != 0, !addresses.contains(candidate) else { continue }
            addresses.append(candidate)
        }
        return addresses
    }

    /// Whether version 2 dials an address, wherever the peer is seen.
    static func isDialable(_ address: Multiaddr, own: [Multiaddr], _ configuration: AutoNATServerConfiguration) -> Bool
    {
        guard let ip = address.ipAddress, let port = address.port, port != 0, !address.isCircuit else { return false }
        return Self.isDialable(ip, configuration) && !own.contains { $0.ipAddress == ip }
    }

    private static func isDialable(_ ip: IPAddress, _ configuration: AutoNATServerConfiguration) -> Bool {
        switch ip.reach {
        case .public: true
        case .private: configuration.servesPrivateNetworks
        case .loopback: configuration.servesLoopback
        case .linkLocal, .none: false
        }
    }
}
