import DequeModule
import HeapModule
import NIOCore

/// Jobs in the order of their virtual time, and those of one instant in the order in which they were added.
struct EventQueue: Sendable {
    typealias Job = @Sendable () -> Void

    private struct Moment: Comparable, Sendable {
        let time: NIODeadline
        let sequence: UInt64

        static func < (lhs: Moment, rhs: Moment) -> Bool {
            lhs.time == rhs.time ? lhs.sequence < rhs.sequence : lhs.time < rhs.time
        }
    }

    private struct Due: Sendable {
        let sequence: UInt64
        let job: Job
    }

    /// What was added for the instant at which it was added: most of all jobs, and in order already.
    private var due = Deque<Due>()
    private var moments = Heap<Moment>()
    private var jobs: [UInt64: Job] = [:]
    private var nextSequence: UInt64 = 0

    var isEmpty: Bool { self.due.isEmpty && self.jobs.isEmpty }

    /// A job that runs at `now`.
    mutating func add(_ job: @escaping Job) {
        self.due.append(Due(sequence: self.nextSequence, job: job))
        self.nextSequence += 1
    }

    /// A job that runs at `time`, which may be cancelled by the number that is given back.
    mutating func add(at time: NIODeadline, _ job: @escaping Job) -> UInt64 {
        let sequence = self.nextSequence
        self.nextSequence += 1
        self.moments.insert(Moment(time: time, sequence: sequence))
        self.jobs[sequence] = job
        return sequence
    }

    /// Gives back the job that will not run; nil if it has run.
    mutating func cancel(_ sequence: UInt64) -> Job? {
        let job = self.jobs.removeValue(forKey: sequence)
        // Moments of cancelled jobs stay in the heap until they outnumber the others.
        if self.moments.count > 64, self.moments.count > self.jobs.count * 2 {
            let jobs = self.jobs
            self.moments = Heap(self.moments.unordered.filter { jobs[$0.sequence] != nil })
        }
        return job
    }

    /// Takes the next job that is due at `limit` at the latest, and its time, which is never before `now`.
    mutating func next(now: NIODeadline, limit: NIODeadline) -> (time: NIODeadline, job: Job)? {
        while let first = self.moments.min, self.jobs[first.sequence] == nil { self.moments.removeMin() }
        if let first = self.due.first {
            guard let moment = self.moments.min, moment.time <= now, moment.sequence < first.sequence else {
                self.due.removeFirst()
                return (now, first.job)
            }
        }
        guard let moment = self.moments.min, moment.time <= limit else { return nil }
        self.moments.removeMin()
        guard let job = self.jobs.removeValue(forKey: moment.sequence) else { return nil }
        return (max(moment.time, now), job)
    }

    /// Takes all jobs that have not run.
    mutating func removeAll() {
        self.due = []
        self.moments = Heap()
        self.jobs = [:]
    }
}
