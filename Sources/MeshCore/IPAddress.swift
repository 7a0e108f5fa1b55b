/// The two versions of the Internet Protocol.
public enum IPFamily: UInt8, Hashable, Sendable, CaseIterable {
    case v4 = 4
    case v6 = 6
}

/// An address of either family.
public enum IPAddress: Hashable, Sendable, Comparable, CustomStringConvertible {
    case v4(IPv4Address)
    case v6(IPv6Address)

    /// Reads either text form; nil if it is neither.
    public init?(_ text: some StringProtocol) {
        if let address = IPv4Address(text) {
            self = .v4(address)
        } else if let address = IPv6Address(text) {
            self = .v6(address)
        } else {
            return nil
        }
    }

    /// Reads 4 or 16 bytes in network order; nil for any other count.
    public init?(networkBytes bytes: some Collection<UInt8>) {
        switch bytes.count {
        case 4:
            self = .v4(IPv4Address(rawValue: bytes.reduce(0) { $0 << 8 | UInt32($1) }))
        case 16:
            self = .v6(
                IPv6Address(
                    high: bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) },
                    low: bytes.dropFirst(8).reduce(0) { $0 << 8 | UInt64($1) }
                )
            )
        default:
            return nil
        }
    }

    public var family: IPFamily {
        switch self {
        case .v4: .v4
        case .v6: .v6
        }
    }

    /// The 4 or 16 bytes in network order.
    public var networkBytes: [UInt8] {
        switch self {
        case .v4(let address):
            let (a, b, c, d) = address.octets
            return [a, b, c, d]
        case .v6(let address):
            return [address.high, address.low].flatMap { half in
                (0..<8).map { UInt8(truncatingIfNeeded: half >> UInt64(56 - $0 * 8)) }
            }
        }
    }

    public var isLoopback: Bool {
        switch self {
        case .v4(let address): address.isLoopback
        case .v6(let address): address == .loopback
        }
    }

    /// `0.0.0.0` or `::`.
    public var isUnspecified: Bool {
        switch self {
        case .v4(let address): address == .any
        case .v6(let address): address == .any
        }
    }

    public var description: String {
        switch self {
        case .v4(let address): address.description
        case .v6(let address): address.description
        }
    }
}

/// An address and a port: what RFC 8445 calls a transport address.
public struct TransportAddress: Hashable, Sendable, Comparable, CustomStringConvertible {
    public var address: IPAddress
    public var port: UInt16

    @inlinable
    public init(_ address: IPAddress, _ port: UInt16) {
        self.address = address
        self.port = port
    }

    /// Reads `1.2.3.4:80` or `[2001:db8::1]:80`; nil for anything else.
    public init?(_ text: some StringProtocol) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = text[..<colon]
        if host.first == "[", host.last == "]" {
            host = host.dropFirst().dropLast()
            guard let address = IPv6Address(host) else { return nil }
            self.init(.v6(address), port)
        } else {
            guard let address = IPv4Address(host) else { return nil }
            self.init(.v4(address), port)
        }
    }

    public var description: String {
        switch self.address {
        case .v4(let address): "\(address):\(self.port)"
        case .v6(let address): "[\(address)]:\(self.port)"
        }
    }

    @inlinable
    public static func < (lhs: TransportAddress, rhs: TransportAddress) -> Bool {
        (lhs.address, lhs.port) < (rhs.address, rhs.port)
    }
}
