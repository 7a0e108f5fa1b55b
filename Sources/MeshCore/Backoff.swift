/// Delays between attempts: exponential, capped, with full jitter in the upper half so that a fleet does not retry in step.
public struct Backoff: Sendable {
    public let base: Duration
    public let cap: Duration
    /// How many delays were handed out since the last `reset()`.
    public private(set) var attempts = 0

    public init(base: Duration, cap: Duration) {
        self.base = base
        self.cap = cap
    }

    /// The delay before the next attempt: between half and the whole of `min(cap, base * 2^attempts)`.
    public mutating func next(using generator: inout some RandomNumberGenerator) -> Duration {
        let base = max(1, self.base.saturatedNanoseconds)
        let cap = max(base, self.cap.saturatedNanoseconds)
        let doublings = min(self.attempts, 62)
        let (scaled, overflow) = base.multipliedReportingOverflow(by: 1 << Int64(doublings))
        let ceiling = overflow ? cap : min(cap, scaled)
        self.attempts += 1
        return .nanoseconds(Int64.random(in: (ceiling / 2)...ceiling, using: &generator))
    }

    public mutating func next() -> Duration {
        var generator = SystemRandomNumberGenerator()
        return self.next(using: &generator)
    }

    /// Call after a success.
    public mutating func reset() {
        self.attempts = 0
    }
}
