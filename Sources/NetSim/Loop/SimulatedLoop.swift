public import Dispatch
import Glibc
public import NIOCore
import Synchronization

/// An event loop on virtual time, which moves only when `run` has nothing left to do at the present instant.
///
/// It runs on the thread that calls `run`, so that one seed gives one order of events. Between two runs any thread may add
/// jobs. What another thread adds during a run is kept, but counted in `foreignJobs`: it came from code that has left
/// the loop, whose timing is the machine's, and no run is like another any more.
public final class SimulatedLoop: EventLoop, NIOSerialEventLoopExecutor, CustomStringConvertible {
    private struct State {
        var queue = EventQueue()
        var isShutDown = false
        var foreignJobs = 0
    }

    /// Far enough from zero that code may look back.
    public static let start = NIODeadline.uptimeNanoseconds(3_600_000_000_000)

    private let state = Mutex(State())
    private let time = Atomic<UInt64>(SimulatedLoop.start.uptimeNanoseconds)
    /// The thread of the current run, or zero.
    private let thread = Atomic<UInt>(0)
    private let jobCount = Atomic<UInt64>(0)

    public init() {}

    public var description: String { "SimulatedLoop" }
    public var now: NIODeadline { .uptimeNanoseconds(self.time.load(ordering: .relaxed)) }
    public var inEventLoop: Bool { self.thread.load(ordering: .relaxed) == pthread_self() }
    /// How many jobs have run.
    public var jobsRun: UInt64 { self.jobCount.load(ordering: .relaxed) }
    /// How many jobs other threads have added during a run.
    public var foreignJobs: Int { self.state.withLock { $0.foreignJobs } }

    // MARK: Running

    /// Runs jobs until virtual time is `limit`, until none is left, or until `isDone`, which is asked after each job.
    /// Time ends at `limit` if neither stopped the run before. Answers whether `isDone`.
    @discardableResult
    func run(until limit: NIODeadline, advance: Bool = true, isDone: () -> Bool = { false }) -> Bool {
        let (entered, other) = self.thread.compareExchange(expected: 0, desired: pthread_self(), ordering: .relaxed)
        precondition(entered, "the simulation runs already, on \(other == pthread_self() ? "this" : "another") thread")
        defer { self.thread.store(0, ordering: .relaxed) }
        while !isDone() {
            let now = self.now
            guard let next = self.state.withLock({ $0.queue.next(now: now, limit: limit) }) else {
                if advance, now < limit { self.time.store(limit.uptimeNanoseconds, ordering: .relaxed) }
                return false
            }
            self.time.store(next.time.uptimeNanoseconds, ordering: .relaxed)
            self.jobCount.wrappingAdd(1, ordering: .relaxed)
            next.job()
        }
        return true
    }

    var isIdle: Bool { self.state.withLock { $0.queue.isEmpty } }

    /// Ends the loop: what waits for a time is cancelled, and what is to be done at once is done.
    func shutDown() {
        self.state.withLock { $0.isShutDown = true }
        // Timers find the loop shut down and fail their promises, whatever their time.
        self.run(until: .distantFuture, advance: false)
    }

    // MARK: EventLoop

    public func execute(_ task: @escaping @Sendable () -> Void) {
        self.withState { $0.queue.add(task) }
    }

    @discardableResult
    public func scheduleTask<T>(
        deadline: NIODeadline,
        _ task: @escaping @Sendable () throws -> T
    ) -> Scheduled<T> {
        let promise = self.makePromise(of: T.self)
        let timer = self.schedule(at: deadline) {
            guard !self.state.withLock({ $0.isShutDown }) else { return promise.fail(EventLoopError.shutdown) }
            do { promise.assumeIsolated().succeed(try task()) } catch { promise.fail(error) }
        }
        return Scheduled(promise: promise, cancellationTask: { self.cancel(timer) })
    }

    @discardableResult
    public func scheduleTask<T>(in delay: TimeAmount, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
        self.scheduleTask(deadline: self.now + delay, task)
    }

    /// The default implementation would count from the machine's time.
    @discardableResult
    public func scheduleCallback(
        in amount: TimeAmount,
        handler: some (NIOScheduledCallbackHandler & Sendable)
    ) throws -> NIOScheduledCallback {
        self.scheduleCallback(at: self.now + amount, handler: handler)
    }

    public func preconditionInEventLoop(file: StaticString, line: UInt) {
        precondition(self.inEventLoop, "not in the simulated loop", file: file, line: line)
    }

    public func preconditionNotInEventLoop(file: StaticString, line: UInt) {
        precondition(!self.inEventLoop, "in the simulated loop", file: file, line: line)
    }

    /// Only the simulation ends its loop.
    public func shutdownGracefully(queue: DispatchQueue, _ callback: @escaping @Sendable ((any Error)?) -> Void) {
        queue.async { callback(EventLoopError.unsupportedOperation) }
    }

    // MARK: Timers of the simulation itself

    struct Timer: Sendable { fileprivate let sequence: UInt64 }

    /// Runs a job at a time, without the promise that `scheduleTask` makes.
    @discardableResult
    func schedule(at time: NIODeadline, _ job: @escaping @Sendable () -> Void) -> Timer {
        Timer(sequence: self.withState { $0.queue.add(at: time, job) })
    }

    func cancel(_ timer: Timer) {
        // Released outside of the lock, as what it holds may call back.
        _ = self.state.withLock { $0.queue.cancel(timer.sequence) }
    }

    private func withState<R: Sendable>(_ body: (inout State) -> R) -> R {
        let thread = self.thread.load(ordering: .relaxed)
        return self.state.withLock { state in
            if thread != 0, thread != pthread_self() { state.foreignJobs += 1 }
            return body(&state)
        }
    }
}
