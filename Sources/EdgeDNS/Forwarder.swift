import DNSWire
import Logging
import MeshCore
import NIOCore

/// A question as it goes to upstreams; equal ones are asked once at a time.
struct UpstreamQuestion: Hashable, Sendable {
    /// In lower case.
    var name: DomainName
    var type: RecordType
    var dnssecOK = false
    var checkingDisabled = false

    /// Tells questions for one name apart in the cache.
    var tag: UInt32 {
        QuestionTable<Void>.tag(self.type, flags: (self.dnssecOK ? 1 : 0) | (self.checkingDisabled ? 2 : 0))
    }
}

/// Asks upstreams. Confined to its event loop.
final class Forwarder {
    enum Outcome {
        case answer(Message)
        /// No upstream answered, or none is known, or too much is outstanding.
        case failed
    }

    struct Counters: Hashable, Sendable {
        var questions: UInt64 = 0
        var joined: UInt64 = 0
        var overflows: UInt64 = 0
        var failures: UInt64 = 0
        var timeouts: UInt64 = 0
        var unreachable: UInt64 = 0
        var overTCP: UInt64 = 0
        var mismatches: UInt64 = 0

        static func + (lhs: Counters, rhs: Counters) -> Counters {
            Counters(
                questions: lhs.questions &+ rhs.questions,
                joined: lhs.joined &+ rhs.joined,
                overflows: lhs.overflows &+ rhs.overflows,
                failures: lhs.failures &+ rhs.failures,
                timeouts: lhs.timeouts &+ rhs.timeouts,
                unreachable: lhs.unreachable &+ rhs.unreachable,
                overTCP: lhs.overTCP &+ rhs.overTCP,
                mismatches: lhs.mismatches &+ rhs.mismatches
            )
        }
    }

    private struct Flight {
        var resolution: Resolution
        var waiters: [(Outcome) -> Void]
        /// The exchange under way.
        var exchange: UpstreamExchange?
    }

    private let loop: any EventLoop
    private let logger: Logger
    private(set) var pool = UpstreamPool()
    private(set) var counters = Counters()
    private var flights: [UpstreamQuestion: Flight] = [:]
    private var isProbing = false
    private var maximumOutstanding: Int
    private var maximumWaiters: Int
    private var deadline: Duration
    /// Called once for each question that came to an end, before those who wait for it.
    var onEnd: ((UpstreamQuestion, Outcome) -> Void)?

    var outstanding: Int { self.flights.count }

    init(loop: any EventLoop, settings: EdgeDNSSettings, logger: Logger) {
        self.loop = loop
        self.logger = logger
        self.maximumOutstanding = settings.maximumOutstanding
        self.maximumWaiters = settings.maximumWaitersPerQuestion
        self.deadline = settings.upstreamDeadline
    }

    func apply(_ settings: EdgeDNSSettings) {
        self.maximumOutstanding = settings.maximumOutstanding
        self.maximumWaiters = settings.maximumWaitersPerQuestion
        self.deadline = settings.upstreamDeadline
    }

    func setUpstreams(_ addresses: [TransportAddress], looping: Set<TransportAddress>) {
        self.pool.replace(with: addresses)
        self.pool.setLooping(looping)
    }

    /// These send our own queries back: they are not asked.
    func setLooping(_ addresses: Set<TransportAddress>) {
        self.pool.setLooping(addresses)
    }

    /// Asks, or waits for the answer to the same question that is under way. `completion` is called on the loop, perhaps
    /// before this returns.
    func resolve(_ question: UpstreamQuestion, completion: @escaping (Outcome) -> Void) {
        if let flight = self.flights[question] {
            guard flight.waiters.count < self.maximumWaiters else { return self.overflow(completion) }
            self.counters.joined += 1
            self.flights[question]?.waiters.append(completion)
            return
        }
        guard self.flights.count < self.maximumOutstanding else { return self.overflow(completion) }
        self.counters.questions += 1
        let now = MonotonicTime.now()
        let resolution = Resolution(candidates: self.pool.candidates, deadline: now + self.deadline)
        self.flights[question] = Flight(resolution: resolution, waiters: [completion])
        guard let action = self.flights[question]?.resolution.start(now: now) else { return }
        self.perform(action, for: question)
    }

    private func overflow(_ completion: (Outcome) -> Void) {
        self.counters.overflows += 1
        completion(.failed)
    }

    private func perform(_ action: Resolution.Action, for question: UpstreamQuestion) {
        switch action {
        case .send(let upstream, let transport, let edns, let timeout):
            if transport == .tcp { self.counters.overTCP += 1 }
            let exchange = UpstreamExchange(
                loop: self.loop,
                question: Question(question.name, question.type),
                edns: edns,
                dnssecOK: question.dnssecOK,
                checkingDisabled: question.checkingDisabled
            )
            self.flights[question]?.exchange = exchange
            exchange.start(upstream, transport, timeout: timeout) { end in
                self.counters.mismatches += UInt64(exchange.mismatches)
                self.note(end, of: upstream)
                guard let action = self.flights[question]?.resolution.handle(end.event, now: .now()) else { return }
                self.perform(action, for: question)
            }
        case .finish(let message):
            self.end(question, .answer(message))
        case .fail:
            self.counters.failures += 1
            self.end(question, .failed)
        }
    }

    private func end(_ question: UpstreamQuestion, _ outcome: Outcome) {
        guard let flight = self.flights.removeValue(forKey: question) else { return }
        self.onEnd?(question, outcome)
        for waiter in flight.waiters { waiter(outcome) }
    }

    private func note(_ end: UpstreamExchange.End, of upstream: TransportAddress) {
        switch end {
        case .reply:
            if self.pool.succeeded(upstream) {
                self.logger.notice("DNS upstream answers again", metadata: ["upstream": "\(upstream)"])
            }
            return
        case .timedOut: self.counters.timeouts += 1
        case .unreachable: self.counters.unreachable += 1
        }
        if self.pool.failed(upstream, now: .now()) {
            self.logger.warning(
                "DNS upstream does not answer; it is asked last until it does",
                metadata: ["upstream": "\(upstream)", "failures": "\(UpstreamPool.failuresUntilDown)"]
            )
            self.scheduleProbes()
        }
    }

    /// Asks those that are down for the root's name servers, which any resolver can answer, until all are up.
    private func scheduleProbes() {
        guard !self.isProbing else { return }
        self.isProbing = true
        self.loop.assumeIsolated().scheduleTask(in: .seconds(1)) {
            self.isProbing = false
            for upstream in self.pool.takeDueProbes(now: .now()) { self.send(Question(.root, .ns), to: upstream) }
            if self.pool.isAnyDown { self.scheduleProbes() }
        }
    }

    /// Sends a question whose answer only tells that the upstream lives.
    func send(_ question: Question, to upstream: TransportAddress) {
        let exchange = UpstreamExchange(
            loop: self.loop,
            question: question,
            edns: false,
            dnssecOK: false,
            checkingDisabled: false
        )
        exchange.start(upstream, .udp, timeout: Resolution.laterTimeout) { [exchange] end in
            self.counters.mismatches += UInt64(exchange.mismatches)
            self.note(end, of: upstream)
        }
    }
}

extension UpstreamExchange.End {
    fileprivate var event: Resolution.Event {
        switch self {
        case .reply(let message): .reply(message)
        case .timedOut: .timedOut
        case .unreachable: .unreachable
        }
    }
}
