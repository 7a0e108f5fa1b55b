import MeshCore

/// Blocks of addresses and what belongs to each; of several that hold an address the longest prefix counts.
///
/// A look-up costs one hashed key for each length of prefix that occurs, of which a cluster has few.
struct PrefixTable<Value: Sendable>: Sendable {
    private struct Level<Key: Hashable & Sendable>: Sendable {
        let length: UInt8
        let mask: Key
        var values: [Key: Value]
    }

    /// The longest prefix first.
    private var levels4: [Level<UInt32>] = []
    private var levels6: [Level<IPv6Address>] = []

    /// Adds a block. One that is there already keeps what it has.
    /// - Returns: whether it was added.
    @discardableResult
    mutating func add(_ block: CIDR, _ value: Value) -> Bool {
        switch block.address {
        case .v4(let address):
            let mask = UInt32.max.leading(block.prefixLength)
            return Self.add(address.rawValue, mask, block.prefixLength, value, to: &self.levels4)
        case .v6(let address):
            let mask = IPv6Address(
                high: UInt64.max.leading(min(block.prefixLength, 64)),
                low: UInt64.max.leading(block.prefixLength > 64 ? block.prefixLength - 64 : 0)
            )
            return Self.add(address, mask, block.prefixLength, value, to: &self.levels6)
        }
    }

    private static func add<Key>(
        _ key: Key,
        _ mask: Key,
        _ length: UInt8,
        _ value: Value,
        to levels: inout [Level<Key>]
    ) -> Bool {
        let index = levels.firstIndex { $0.length <= length } ?? levels.endIndex
        if index == levels.endIndex || levels[index].length != length {
            levels.insert(Level(length: length, mask: mask, values: [:]), at: index)
        }
        guard levels[index].values[key] == nil else { return false }
        levels[index].values[key] = value
        return true
    }

    /// What belongs to the longest prefix that holds the address.
    subscript(address: IPAddress) -> Value? {
        switch address {
        case .v4(let address):
            for level in self.levels4 {
                if let value = level.values[address.rawValue & level.mask] { return value }
            }
        case .v6(let address):
            for level in self.levels6 {
                let key = IPv6Address(high: address.high & level.mask.high, low: address.low & level.mask.low)
                if let value = level.values[key] { return value }
            }
        }
        return nil
    }
}

extension FixedWidthInteger {
    /// The first `count` bits, the others zero. A shift by all bits gives zero in Swift.
    fileprivate func leading(_ count: UInt8) -> Self {
        self << (Self.bitWidth - Int(count))
    }
}
