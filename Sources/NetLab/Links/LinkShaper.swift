import MeshCore

/// Decides when a frame leaves one direction of a link, and whether it is lost. Pure: time comes from outside, chance from
/// a seed.
struct LinkShaper: Sendable {
    /// A frame that would wait longer for its turn on a limited line finds the line's queue full.
    static let maximumQueueing: UInt64 = 200_000_000

    private var delay: UInt64 = 0
    private var jitter: UInt64 = 0
    private var loss: UInt64 = 0
    private var nanosecondsPerByte: Double = 0
    private var generator: SeededGenerator
    private var lastDeparture: UInt64 = 0
    private var lineIsFreeAt: UInt64 = 0

    init(_ conditions: LinkConditions, seed: UInt64) {
        self.generator = SeededGenerator(seed: seed)
        self.change(conditions)
    }

    /// Frames that already have their time keep it.
    mutating func change(_ conditions: LinkConditions) {
        self.delay = UInt64(clamping: conditions.delay.saturatedNanoseconds)
        self.jitter = UInt64(clamping: conditions.jitter.saturatedNanoseconds)
        self.loss = conditions.loss >= 1 ? .max : UInt64(conditions.loss * 0x1p64)
        self.nanosecondsPerByte = conditions.bandwidth.map { 8e9 / Double($0) } ?? 0
    }

    /// When a frame that comes at `now` (nanoseconds of `MonotonicTime`) leaves; nil if it is lost. Never before an earlier one.
    mutating func departure(of bytes: Int, at now: UInt64) -> UInt64? {
        if self.loss > 0, self.loss == .max || self.generator.next() < self.loss { return nil }
        var departure = now
        if self.nanosecondsPerByte > 0 {
            let begin = max(now, self.lineIsFreeAt)
            guard begin - now <= Self.maximumQueueing else { return nil }
            departure = begin + UInt64(Double(bytes) * self.nanosecondsPerByte)
            self.lineIsFreeAt = departure
        }
        departure += self.delay
        if self.jitter > 0 {
            let earliest = departure - min(self.jitter, departure - now)
            departure = earliest + self.generator.next() % (departure + self.jitter - earliest + 1)
        }
        self.lastDeparture = max(self.lastDeparture, departure)
        return self.lastDeparture
    }
}
