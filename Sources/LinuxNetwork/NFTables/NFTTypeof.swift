import MeshCore

/// How nft is told the type of a key that has no name: by expressions of such types (`typeof`), in the user data of a set.
/// The numbers that `numgen` makes are of a type without a name. Only nft reads these bytes, so that it can load again what it
/// lists; the layout is that of libnftnl: type, length, value, with values nested.
enum NFTTypeof {
    private static func entry(_ type: UInt8, _ value: [UInt8]) -> [UInt8] {
        // A description of five fields takes less than 200 bytes.
        [type, UInt8(truncatingIfNeeded: value.count)] + value
    }

    private static func number(_ type: UInt8, _ value: UInt32) -> [UInt8] { self.entry(type, hostOrder(value)) }

    private static func expression(_ kind: UInt32, _ body: [UInt8]) -> [UInt8] {
        self.number(0, kind) + self.entry(1, body)
    }

    private static func payload(header: UInt32, field: UInt32) -> [UInt8] {
        self.expression(7, self.number(0, header) + self.number(1, field))
    }

    static func destination(_ family: NFTFamily) -> [UInt8] {
        family == .ip ? self.payload(header: 12, field: 12) : self.payload(header: 13, field: 9)
    }

    /// `th dport`, or the destination port of one protocol.
    static func port(_ transport: TransportProtocol? = nil) -> [UInt8] {
        let header: UInt32 =
            switch transport {
            case nil: 11
            case .tcp: 8
            case .udp: 6
            case .sctp: 10
            }
        return self.payload(header: header, field: 2)
    }

    /// `meta l4proto`.
    static let transport = Self.expression(9, Self.number(0, 16))
    /// `numgen inc mod 1`.
    static let index = Self.expression(23, Self.number(0, 0) + Self.number(1, 1) + Self.number(2, 0))

    static func concatenation(_ parts: [[UInt8]]) -> [UInt8] {
        self.expression(
            13,
            parts.enumerated().flatMap { self.entry(UInt8(truncatingIfNeeded: $0.offset), $0.element) }
        )
    }

    /// The value of a verdict map.
    static let verdict = Self.expression(1, [])

    /// The user data of a set with this key, and of a map with this value: nft heeds it only if it is whole.
    static func userData(key: [[UInt8]], value: [UInt8]?) -> [UInt8] {
        var bytes = self.number(0, 0) + self.number(1, 0) + self.entry(3, self.concatenation(key))
        if let value { bytes += self.entry(4, value) }
        return bytes + self.number(6, 0)
    }
}
