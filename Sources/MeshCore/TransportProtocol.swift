/// The transport of a service port. Raw values are IANA protocol numbers.
public enum TransportProtocol: UInt8, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case tcp = 6
    case udp = 17
    case sctp = 132

    /// Reads the names of the Kubernetes API, in any case.
    public init?(_ name: some StringProtocol) {
        switch name.lowercased() {
        case "tcp": self = .tcp
        case "udp": self = .udp
        case "sctp": self = .sctp
        default: return nil
        }
    }

    /// Lower case, as in iptables and DNS labels.
    public var description: String {
        switch self {
        case .tcp: "tcp"
        case .udp: "udp"
        case .sctp: "sctp"
        }
    }
}
