import MeshCore

/// Bounds how often one place in the code may log, so that a peer that fails ten thousand times a second does not fill
/// the disk of its node.
struct LogRateLimiter: Sendable {
    /// Places remembered. The least recently used one is forgotten at the limit.
    static let defaultCapacity = 512
    /// Lines that a place may log at once, and then per second.
    static let burst = 20.0
    static let linesPerSecond = 1.0

    struct Place: Hashable, Sendable {
        var file: String
        var line: UInt
    }

    enum Verdict: Hashable, Sendable {
        /// Write the line; so many like it were kept back since the last one.
        case write(suppressed: UInt64)
        case suppress
    }

    private struct Entry: Sendable {
        var bucket: TokenBucket
        var suppressed: UInt64 = 0
        var used: MonotonicTime
    }

    private let capacity: Int
    private var entries: [Place: Entry] = [:]
    /// Lines kept back since the start.
    private(set) var suppressedTotal: UInt64 = 0

    var count: Int { self.entries.count }

    init(capacity: Int = Self.defaultCapacity) {
        self.capacity = max(1, capacity)
    }

    mutating func check(_ place: Place, now: MonotonicTime) -> Verdict {
        var entry =
            self.entries[place]
            ?? Entry(bucket: TokenBucket(rate: Self.linesPerSecond, burst: Self.burst, now: now), used: now)
        entry.used = now
        let verdict: Verdict
        if entry.bucket.take(now: now) {
            verdict = .write(suppressed: entry.suppressed)
            entry.suppressed = 0
        } else {
            entry.suppressed += 1
            self.suppressedTotal += 1
            verdict = .suppress
        }
        if self.entries[place] == nil, self.entries.count >= self.capacity,
            let oldest = self.entries.min(by: { $0.value.used < $1.value.used })
        {
            self.entries[oldest.key] = nil
        }
        self.entries[place] = entry
        return verdict
    }
}
