import MeshCore
import NIOCore

/// How often each of many may have something done, in a bounded table. Pure.
struct RateLimiter<Key: Hashable & Sendable>: Sendable {
    private let perMinute: Double
    private let maximum: Int
    private var buckets: [Key: TokenBucket] = [:]
    private var nextPurge: MonotonicTime?

    private static var purgeInterval: Duration { .seconds(1) }

    /// - Parameters:
    ///   - perMinute: each may have as many at once, too.
    ///   - maximum: keys that are kept; while so many have had something lately, no other one is admitted.
    init(perMinute: Int, maximum: Int) {
        self.perMinute = Double(perMinute)
        self.maximum = maximum
    }

    var count: Int { self.buckets.count }

    mutating func admit(_ key: Key, now: NIODeadline) -> Bool {
        let now = MonotonicTime(nanoseconds: now.uptimeNanoseconds)
        if self.buckets[key] == nil, self.buckets.count >= self.maximum { self.purge(now: now) }
        guard self.buckets[key] != nil || self.buckets.count < self.maximum else { return false }
        let full = TokenBucket(rate: self.perMinute / 60, burst: self.perMinute, now: now)
        return self.buckets[key, default: full].take(now: now)
    }

    /// The full ones know nothing that a new one would not.
    private mutating func purge(now: MonotonicTime) {
        guard self.nextPurge.map({ $0 <= now }) ?? true else { return }
        self.nextPurge = now + Self.purgeInterval
        self.buckets = self.buckets.filter { entry in
            var bucket = entry.value
            return !bucket.isFull(now: now)
        }
    }
}
