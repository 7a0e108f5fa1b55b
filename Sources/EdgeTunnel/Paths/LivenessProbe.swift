import NIOCore

/// When the peer of one connection is asked for a sign of life, when it is doubted, and when it is given up; no I/O.
///
/// Whatever comes from the peer is a sign of life. One that owes an answer is asked after an interval of silence, one that owes
/// nothing after some intervals. Who does not answer is soon suspect: new flows take another way, open ones wait. After the timeout
/// the connection counts as dead.
struct LivenessProbe {
    struct Configuration: Sendable, Hashable {
        /// Of silence, when something was sent since the peer was heard.
        var interval: TimeAmount = .seconds(1)
        /// Intervals of silence when nothing was.
        var quietIntervals = 10
        /// Silence until the connection is given up.
        var timeout: TimeAmount = .seconds(10)
        /// For an answer in place of what is left of the timeout, after the network has changed.
        var suspicion: TimeAmount = .seconds(3)
        /// Pings until the connection is given up.
        var pings = 3

        var quiet: TimeAmount { self.interval * self.quietIntervals }

        /// For an answer, before the peer is suspect.
        /// - Parameter roundTrip: the last that was measured; a far peer is not doubted sooner than it can answer.
        func patience(_ roundTrip: TimeAmount?) -> TimeAmount {
            max(.nanoseconds(self.interval.nanoseconds / 2), min((roundTrip ?? .zero) * 3, self.interval * 5))
        }

        /// Between two pings.
        func spacing(within time: TimeAmount) -> TimeAmount {
            // Rounded up, so that there is not one ping more a nanosecond before the end.
            .nanoseconds((time.nanoseconds + Int64(self.pings) - 1) / Int64(self.pings))
        }
    }

    /// What is known of the connection.
    struct Signs: Hashable {
        var heard: NIODeadline
        var sent: NIODeadline
        var roundTrip: TimeAmount?
    }

    enum Step: Equatable {
        case wait(until: NIODeadline)
        case ping(next: NIODeadline)
        case dead
    }

    private struct Question {
        let since: NIODeadline
        let suspectAt: NIODeadline
        let deadline: NIODeadline
        var next: NIODeadline
    }

    private let configuration: Configuration
    /// What was silent before nobody looked does not count.
    private var silentSince: NIODeadline
    private var question: Question?
    private var isAskedAtOnce = false
    private(set) var isSuspect = false
    /// When there is something to look at again, if nothing is sent before.
    private(set) var wakeTime: NIODeadline

    init(_ configuration: Configuration, now: NIODeadline) {
        self.configuration = configuration
        self.silentSince = now
        self.wakeTime = now + configuration.quiet
    }

    mutating func look(_ signs: Signs, now: NIODeadline) -> Step {
        if signs.heard > self.silentSince {
            self.silentSince = signs.heard
            self.question = nil
            self.isSuspect = false
        }
        guard let question else {
            let silence = signs.sent > signs.heard ? self.configuration.interval : self.configuration.quiet
            let due = self.isAskedAtOnce ? now : self.silentSince + silence
            guard now >= due else {
                self.wakeTime = due
                return .wait(until: due)
            }
            let rest =
                self.isAskedAtOnce
                ? self.configuration.suspicion
                : max(self.configuration.timeout - silence, self.configuration.suspicion)
            self.isAskedAtOnce = false
            return self.ask(now, for: rest, signs.roundTrip)
        }
        if now >= question.suspectAt { self.isSuspect = true }
        if now >= question.deadline { return .dead }
        if now >= question.next {
            let next = question.next + self.configuration.spacing(within: question.deadline - question.since)
            self.question?.next = next
            self.wakeTime = min(next, question.deadline)
            return .ping(next: self.wakeTime)
        }
        self.wakeTime = self.isSuspect ? min(question.next, question.deadline) : min(question.next, question.suspectAt)
        return .wait(until: self.wakeTime)
    }

    /// The network has changed: the peer is asked at once, and has little time.
    mutating func suspect(now: NIODeadline) {
        self.isAskedAtOnce = true
        self.question = nil
        self.wakeTime = now
    }

    private mutating func ask(_ now: NIODeadline, for time: TimeAmount, _ roundTrip: TimeAmount?) -> Step {
        let question = Question(
            since: now,
            suspectAt: now + self.configuration.patience(roundTrip),
            deadline: now + time,
            next: now + self.configuration.spacing(within: time)
        )
        self.question = question
        self.wakeTime = min(question.suspectAt, question.next)
        return .ping(next: question.next)
    }
}
