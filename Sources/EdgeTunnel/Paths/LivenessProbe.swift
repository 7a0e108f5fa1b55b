import NIOCore

/// When the peer of one connection is asked for a sign of life, and when it is given up; no I/O.
///
/// Whatever comes from the peer is a sign of life. After an interval of silence it is pinged, some times until the timeout; then the
/// connection counts as dead.
struct LivenessProbe {
    struct Configuration: Sendable, Hashable {
        var interval: TimeAmount = .seconds(5)
        /// From the last sign of life that was looked for in vain.
        var timeout: TimeAmount = .seconds(10)
        /// In place of the timeout after the network has changed.
        var suspicion: TimeAmount = .seconds(3)
        /// Pings until the connection is given up.
        var pings = 3

        /// Between two pings.
        func spacing(within time: TimeAmount) -> TimeAmount { .nanoseconds(time.nanoseconds / Int64(self.pings)) }
    }

    enum Step: Equatable {
        case wait(until: NIODeadline)
        case ping(next: NIODeadline)
        case dead
    }

    private let configuration: Configuration
    private var reads: UInt64
    private var askAt: NIODeadline
    /// Once it was asked: when it is dead, and when it is asked again.
    private var asked: (deadline: NIODeadline, next: NIODeadline)?
    private var patience: TimeAmount

    init(_ configuration: Configuration, reads: UInt64, now: NIODeadline) {
        self.configuration = configuration
        self.reads = reads
        self.askAt = now + configuration.interval
        self.patience = max(configuration.timeout - configuration.interval, configuration.suspicion)
    }

    /// - Parameter reads: how often the peer was heard so far.
    mutating func look(reads: UInt64, now: NIODeadline) -> Step {
        if reads != self.reads {
            self.reads = reads
            self.asked = nil
            self.askAt = now + self.configuration.interval
            self.patience = max(self.configuration.timeout - self.configuration.interval, self.configuration.suspicion)
            return .wait(until: self.askAt)
        }
        guard let asked = self.asked else {
            guard now >= self.askAt else { return .wait(until: self.askAt) }
            return self.ask(deadline: now + self.patience, now)
        }
        if now >= asked.deadline { return .dead }
        if now >= asked.next { return self.ask(deadline: asked.deadline, now) }
        return .wait(until: min(asked.next, asked.deadline))
    }

    /// When there is something to look at again.
    var wakeTime: NIODeadline { self.asked.map { min($0.next, $0.deadline) } ?? self.askAt }

    /// The network has changed: the peer is asked at once, and has little time.
    mutating func suspect(now: NIODeadline) {
        self.askAt = now
        self.asked = nil
        self.patience = self.configuration.suspicion
    }

    private mutating func ask(deadline: NIODeadline, _ now: NIODeadline) -> Step {
        let next = min(deadline, now + self.configuration.spacing(within: self.patience))
        self.asked = (deadline, next)
        return .ping(next: next)
    }
}
