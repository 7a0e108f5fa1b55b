public import MeshCore

/// From where an IP address can be reached (IANA's registries of special-purpose addresses).
public enum AddressReach: Hashable, Sendable {
    /// From the same host.
    case loopback
    /// From the same link: 169.254.0.0/16, fe80::/10.
    case linkLocal
    /// From the same site or provider: RFC 1918, 100.64.0.0/10 of RFC 6598 (carrier-grade NAT), fc00::/7 of RFC 4193.
    case `private`
    /// From everywhere.
    case `public`
    /// From nowhere as a host: unspecified, multicast, documentation, reserved.
    case none
}

extension IPAddress {
    /// From where the address can be reached. IPv4 addresses in IPv6 (`::ffff:…`) count as what they are.
    public var reach: AddressReach {
        switch self {
        case .v4(let address): Self.reach(of: address)
        case .v6(let address): Self.reach(of: address)
        }
    }

    private static func reach(of address: IPv4Address) -> AddressReach {
        let (a, b, c, _) = address.octets
        switch (a, b, c) {
        case (127, _, _): return .loopback
        case (169, 254, _): return .linkLocal
        case (10, _, _), (172, 16...31, _), (192, 168, _), (100, 64...127, _): return .private
        // "This" network, protocol assignments, documentation, the former 6to4 relays, benchmarks, multicast and above.
        case (0, _, _), (192, 0, 0), (192, 0, 2), (198, 51, 100), (203, 0, 113), (192, 88, 99), (198, 18...19, _),
            (224..., _, _):
            return .none
        default: return .public
        }
    }

    private static func reach(of address: IPv6Address) -> AddressReach {
        if let mapped = address.mappedIPv4 { return Self.reach(of: mapped) }
        if address == .loopback { return .loopback }
        switch address.high >> 48 {
        case 0xFE80...0xFEBF: return .linkLocal
        case 0xFC00...0xFDFF: return .private
        case 0x2001 where address.high >> 32 == 0x2001_0DB8: return .none
        case 0x2000...0x3FFF: return .public
        // NAT64 (RFC 6052, RFC 8215) leads to IPv4 addresses, public ones for all that can be seen here.
        case 0x0064 where address.high >> 32 == 0x0064_FF9B: return .public
        default: return .none
        }
    }
}
