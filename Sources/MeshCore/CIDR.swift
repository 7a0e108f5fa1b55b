/// A block of addresses, such as `10.244.0.0/16`. Bits after the prefix are always zero.
public struct CIDR: Hashable, Sendable, CustomStringConvertible {
    public let address: IPAddress
    public let prefixLength: UInt8

    /// The block of `prefixLength` bits that `address` lies in; nil if the prefix is longer than the address.
    public init?(_ address: IPAddress, prefixLength: Int) {
        switch address {
        case .v4(let v4):
            guard (0...32).contains(prefixLength) else { return nil }
            let mask = prefixLength == 0 ? 0 : UInt32.max << UInt32(32 - prefixLength)
            self.address = .v4(IPv4Address(rawValue: v4.rawValue & mask))
        case .v6(let v6):
            guard (0...128).contains(prefixLength) else { return nil }
            let highBits = min(prefixLength, 64)
            let lowBits = max(prefixLength - 64, 0)
            let highMask = highBits == 0 ? 0 : UInt64.max << UInt64(64 - highBits)
            let lowMask = lowBits == 0 ? 0 : UInt64.max << UInt64(64 - lowBits)
            self.address = .v6(IPv6Address(high: v6.high & highMask, low: v6.low & lowMask))
        }
        self.prefixLength = UInt8(prefixLength)
    }

    /// Reads `address/bits`, or an address alone as the block of that one address.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let address = IPAddress(first) else { return nil }
        guard parts.count == 2 else {
            self.init(address, prefixLength: address.family == .v4 ? 32 : 128)
            return
        }
        guard parts[1].utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let bits = Int(parts[1]) else { return nil }
        self.init(address, prefixLength: bits)
    }

    public func contains(_ other: IPAddress) -> Bool {
        CIDR(other, prefixLength: Int(self.prefixLength))?.address == self.address
    }

    public var description: String { "\(self.address)/\(self.prefixLength)" }
}
