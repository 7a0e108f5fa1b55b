/// A rate bound: `rate` tokens a second, at most `burst` saved up. The caller supplies the time.
public struct TokenBucket: Sendable {
    /// Tokens gained per second.
    public let rate: Double
    /// The most tokens that can be saved up.
    public let burst: Double
    private var tokens: Double
    private var updated: MonotonicTime

    /// Starts full.
    public init(rate: Double, burst: Double, now: MonotonicTime) {
        self.rate = max(rate, 0)
        self.burst = max(burst, 1)
        self.tokens = self.burst
        self.updated = now
    }

    /// Takes one token if there is one.
    public mutating func take(now: MonotonicTime) -> Bool {
        self.refill(now: now)
        guard self.tokens >= 1 else { return false }
        self.tokens -= 1
        return true
    }

    /// How long until a token is there; zero if one is there now, nil if there will never be one.
    public mutating func delay(now: MonotonicTime) -> Duration? {
        self.refill(now: now)
        guard self.tokens < 1 else { return .zero }
        guard self.rate > 0 else { return nil }
        return .nanoseconds(Int64(((1 - self.tokens) / self.rate * 1e9).rounded(.up)))
    }

    /// Whether no more tokens can be saved up.
    public mutating func isFull(now: MonotonicTime) -> Bool {
        self.refill(now: now)
        return self.tokens >= self.burst
    }

    private mutating func refill(now: MonotonicTime) {
        guard now > self.updated else { return }
        self.tokens = min(self.burst, self.tokens + (now - self.updated).inSeconds * self.rate)
        self.updated = now
    }
}
