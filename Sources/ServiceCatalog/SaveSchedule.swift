import MeshCore

/// When to write: some time after the last change, but not put off for ever by constant change, and later again after
/// each failure; never so often that flash memory wears out. No clock of its own.
struct SaveSchedule {
    /// Bytes per second that writing may take up in the long run: a large state is written less often.
    static let maximumWriteRate = 512 << 10

    let quiet: Duration
    let atMost: Duration
    private var backoff = Backoff(base: .seconds(5), cap: .seconds(300))
    private var firstChange: MonotonicTime?
    private var lastChange: MonotonicTime?
    private var notBefore: MonotonicTime?

    init(quiet: Duration, atMost: Duration) {
        self.quiet = quiet
        self.atMost = atMost
    }

    /// When the next write is due; nil if there is nothing to write.
    var deadline: MonotonicTime? {
        guard let firstChange, let lastChange else { return nil }
        let due = min(lastChange + self.quiet, firstChange + self.atMost)
        return self.notBefore.map { max(due, $0) } ?? due
    }

    mutating func changed(now: MonotonicTime) {
        self.firstChange = self.firstChange ?? now
        self.lastChange = now
    }

    /// A write begins: changes from now on need another one.
    mutating func began() {
        self.firstChange = nil
        self.lastChange = nil
    }

    mutating func succeeded(now: MonotonicTime, bytes: Int) {
        self.backoff.reset()
        self.notBefore = now + max(self.atMost, .seconds(bytes / Self.maximumWriteRate))
    }

    mutating func failed(now: MonotonicTime, using generator: inout some RandomNumberGenerator) {
        self.changed(now: now)
        self.notBefore = now + self.backoff.next(using: &generator)
    }

    /// It is too early to write what there is.
    mutating func postponed(now: MonotonicTime) {
        self.changed(now: now)
        self.notBefore = now + self.quiet
    }
}
