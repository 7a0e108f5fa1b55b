/// The generator of Go's `math/rand` (an additive lagged Fibonacci generator), bit for bit, as far as its `Read` needs it.
/// Agents of the original derive their keys from it.
struct GoRandom {
    private static let length = 607
    private static let lag = 273

    private var state: [UInt64]
    private var tap = 0
    private var feed = Self.length - Self.lag

    init(seed: Int64) {
        let modulus: Int64 = (1 << 31) - 1
        var x = seed % modulus
        if x < 0 { x += modulus }
        if x == 0 { x = 89_482_311 }
        func step() -> UInt64 {
            // The original takes care not to leave 32 bits; the product fits 64.
            x = 48_271 * x % modulus
            return UInt64(x)
        }
        for _ in 0..<20 { _ = step() }
        self.state = Self.mixedConstants.map { constant in
            step() << 40 ^ step() << 20 ^ step() ^ constant
        }
    }

    private mutating func next63() -> UInt64 {
        self.tap = self.tap == 0 ? Self.length - 1 : self.tap - 1
        self.feed = self.feed == 0 ? Self.length - 1 : self.feed - 1
        self.state[self.feed] &+= self.state[self.tap]
        return self.state[self.feed] & (1 << 63 - 1)
    }

    /// The first `count` bytes: of each number the seven low bytes, least significant first.
    mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count + 6)
        while bytes.count < count {
            let value = self.next63()
            for shift in 0..<7 { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * shift))) }
        }
        return Array(bytes.prefix(count))
    }
}
