import MeshCore

/// Bounds the queries a second of each source address by a fixed table of token buckets. Sources whose hashes fall on one
/// bucket share it, so the table never grows and no flood of forged sources can push an entry out. An IPv6 source counts
/// by its /64. Loopback is not limited: the node's own processes come from there.
struct SourceRateLimiter {
    struct Limits: Hashable, Sendable {
        /// Queries a second; zero turns the bound off.
        var rate: UInt32 = 5000
        /// Queries in one burst.
        var burst: UInt32 = 10_000
        /// Buckets; rounded up to a power of two.
        var tableSize = 4096
    }

    enum Verdict {
        case pass
        /// Answer with TC set, so that a real client comes back over TCP and a forged one gains nothing.
        case truncate
        case drop
    }

    private struct Bucket {
        /// In thousandths, so that what a millisecond brings is a whole number.
        var tokens: UInt64
        /// Milliseconds, wrapping.
        var updated: UInt32
    }

    let limits: Limits
    private var buckets: [Bucket] = []
    private let seed: UInt64
    private var refusals: UInt64 = 0

    init(limits: Limits, seed: UInt64 = .random(in: .min ... .max)) {
        self.limits = limits
        self.seed = seed
    }

    mutating func admit(_ source: IPAddress, now: MonotonicTime) -> Verdict {
        guard self.limits.rate > 0, !source.isLoopback else { return .pass }
        let milliseconds = UInt32(truncatingIfNeeded: now.nanoseconds / 1_000_000)
        if self.buckets.isEmpty {
            var size = 1
            while size < min(self.limits.tableSize, 1 << 20) { size *= 2 }
            let full = Bucket(tokens: self.fullBucket, updated: milliseconds)
            self.buckets = [Bucket](repeating: full, count: size)
        }
        let index = Int(truncatingIfNeeded: self.hash(source)) & (self.buckets.count - 1)
        var bucket = self.buckets[index]
        let gained = UInt64(milliseconds &- bucket.updated) * UInt64(self.limits.rate)
        bucket.tokens = min(self.fullBucket, bucket.tokens + min(self.fullBucket, gained))
        bucket.updated = milliseconds
        defer { self.buckets[index] = bucket }
        guard bucket.tokens >= 1000 else {
            self.refusals &+= 1
            return self.refusals % 2 == 0 ? .truncate : .drop
        }
        bucket.tokens -= 1000
        return .pass
    }

    private var fullBucket: UInt64 { UInt64(max(1, self.limits.burst)) * 1000 }

    private func hash(_ source: IPAddress) -> UInt64 {
        var mixer =
            switch source {
            case .v4(let address): SeededGenerator(seed: self.seed ^ UInt64(address.rawValue))
            case .v6(let address): SeededGenerator(seed: self.seed ^ address.high)
            }
        return mixer.next()
    }
}
