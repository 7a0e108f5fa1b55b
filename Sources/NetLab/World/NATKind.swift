public import MeshCore

/// What stands between a host and the internet. All of it is made by the kernel's own packet filter and connection tracking.
public enum NATKind: String, Sendable, CaseIterable {
    /// Nothing: IPv4 and IPv6.
    case open = "public"
    /// A stateful firewall before hosts with public addresses.
    case firewall
    /// Whatever comes to the router's address goes to the first host, and everyone knows.
    case fullCone = "full-cone"
    /// The same, but the host knows of its address only how others see it.
    case cone
    /// Masquerade, as home routers do: the port is kept, and only who was spoken to can answer.
    case masquerade
    /// The same, but who was not spoken to is refused instead of ignored.
    case refusing
    /// A port by chance for each connection.
    case random = "random"
    case fullyRandom = "fully-random"
    /// A home router behind a carrier's, both masquerading.
    case carrier = "cgn"
    /// The firewall for hosts that have IPv6 alone.
    case firewall6 = "firewall-v6"
    /// A port by chance for each connection of IPv4, and the firewall for IPv6.
    case dualStack = "dual-stack"

    public enum Outcome: String, Sendable { case direct, punched, relayed }

    public var families: Set<IPFamily> {
        switch self {
        case .open, .dualStack: [.v4, .v6]
        case .firewall6: [.v6]
        default: [.v4]
        }
    }

    /// Anyone can dial it, and is told where.
    public var isReachable: Bool { self == .open || self == .fullCone }

    /// Filtering does not depend on who sends (RFC 4787, 5).
    public var letsAnyoneIn: Bool { self.isReachable || self == .cone }

    /// Of IPv4: the mapping depends on the destination and its port (RFC 4787, 4.1), so that nobody can say the port in advance.
    public var isSymmetric: Bool { self == .random || self == .fullyRandom || self == .dualStack }

    /// What theory says of TCP (RFC 5128, 3.4). A reachable host is dialled by the other. Otherwise both dial at once:
    /// - In IPv6 no address is translated, so each knows where the other's SYN comes from, and its own opens the firewall.
    /// - A SYN gets in where anyone's does, wherever it comes from.
    /// - Filters that depend on address and port are opened by the own SYN, if the other's port is known.
    /// - A router that refuses a SYN which comes before the own one has left makes the other try again. Two of them are crossed only
    ///   by SYNs that are on their way at the same time: between namespaces of one machine, where the way takes no time, that
    ///   is chance, and either outcome is right.
    public static func outcomes(_ first: NATKind, _ second: NATKind) -> Set<Outcome> {
        let families = first.families.intersection(second.families)
        if families.isEmpty { return [.relayed] }
        if first.isReachable || second.isReachable { return [.direct] }
        if families.contains(.v6) || first.letsAnyoneIn || second.letsAnyoneIn { return [.punched] }
        if first.isSymmetric || second.isSymmetric { return [.relayed] }
        return first == .refusing && second == .refusing ? [.punched, .relayed] : [.punched]
    }
}
