public import MeshCore

/// What stands between a host and the internet. All of it is made by the kernel's own packet filter and connection tracking.
public enum NATKind: String, Sendable, CaseIterable {
    /// Nothing: IPv4 and IPv6.
    case open = "public"
    /// A stateful firewall before hosts with public addresses.
    case firewall
    /// Whatever comes to the router's address goes to the first host.
    case fullCone = "full-cone"
    /// Masquerade, as home routers do: the port is kept, and only who was spoken to can answer.
    case masquerade
    /// A port by chance for each connection.
    case random = "random"
    case fullyRandom = "fully-random"
    /// A home router behind a carrier's, both masquerading.
    case carrier = "cgn"
    /// The firewall for hosts that have IPv6 alone.
    case firewall6 = "firewall-v6"

    public enum Outcome: String, Sendable { case direct, punched, relayed }

    public var families: Set<IPFamily> {
        switch self {
        case .open: [.v4, .v6]
        case .firewall6: [.v6]
        default: [.v4]
        }
    }

    /// Anyone can dial it.
    public var isReachable: Bool { self == .open || self == .fullCone }

    /// The mapping depends on the destination and its port (RFC 4787, 4.1), so that nobody can say the port in advance.
    public var isSymmetric: Bool { self == .random || self == .fullyRandom }

    /// What theory says of TCP (RFC 5128): a reachable host is dialled by the other. Otherwise both dial at once, which opens
    /// filters that depend on address and port if each knows the other's port.
    public static func outcome(_ first: NATKind, _ second: NATKind) -> Outcome {
        if first.families.isDisjoint(with: second.families) { return .relayed }
        if first.isReachable || second.isReachable { return .direct }
        return first.isSymmetric || second.isSymmetric ? .relayed : .punched
    }
}
