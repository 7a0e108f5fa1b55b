import MeshCore
import MeshInterfaces
import NIOCore

/// The state of the way to one node, and when it is to be dialled; no I/O.
///
/// A node that nobody uses is idle, up while it is connected all the same. One that is in use is dialled anew as soon as its last
/// connection ends, and counts as down when that fails or takes longer than a moment. One that is down is dialled until it is up.
struct NodeRecord {
    struct Configuration: Sendable, Hashable {
        /// For how long after the last flow a node is in use.
        var usedFor: TimeAmount = .minutes(5)
        /// For another path to answer, once the last connection of a node in use has ended.
        var redialGrace: TimeAmount = .seconds(2)
        /// For the first connection, until the node counts as down though the dial goes on.
        var connectGrace: TimeAmount = .seconds(5)
        var retryBase: Duration = .seconds(1)
        /// Between tries to reach a node that was lost not long ago, and one that was lost long ago.
        var soonRetryCap: Duration = .seconds(2)
        var retryCap: Duration = .seconds(30)
        /// For how long a loss is not long ago.
        var soon: TimeAmount = .minutes(5)
        /// A node that was found to be down so shortly ago is not dialled again on demand.
        var freshFailure: TimeAmount = .seconds(1)
    }

    private let configuration: Configuration
    private(set) var state = NodePath.State.idle
    private(set) var kind: NodePath.Kind?
    private(set) var since: NIODeadline
    private(set) var problem: String?
    private(set) var isDialling = false
    private var lastUsed: NIODeadline?
    private var lastFailure: NIODeadline?
    /// Tries that failed since it was last connected.
    private(set) var failedDials = 0
    private var soonRetry: Backoff
    private var lateRetry: Backoff
    private var retryAt: NIODeadline?
    private var graceEnd: NIODeadline?
    private var outcomes = ProbeOutcomes()

    init(_ configuration: Configuration, now: NIODeadline) {
        self.configuration = configuration
        self.since = now
        self.soonRetry = Backoff(base: configuration.retryBase, cap: configuration.soonRetryCap)
        self.lateRetry = Backoff(base: configuration.soonRetryCap, cap: configuration.retryCap)
    }

    // MARK: Use

    /// A flow to the node is opened, or open.
    mutating func used(now: NIODeadline) { self.lastUsed = now }

    func isUsed(now: NIODeadline) -> Bool {
        self.lastUsed.map { $0 + self.configuration.usedFor > now } ?? false
    }

    /// Why a dial on demand is of no use now: it has just failed.
    func freshFailure(now: NIODeadline) -> String? {
        guard self.state == .down, let lastFailure, lastFailure + self.configuration.freshFailure > now else {
            return nil
        }
        return self.problem
    }

    // MARK: Events

    mutating func connected(_ kind: NodePath.Kind, now: NIODeadline) {
        if self.state != .up || self.kind != kind { self.since = now }
        self.state = .up
        self.kind = kind
        self.problem = nil
        self.failedDials = 0
        self.soonRetry.reset()
        self.lateRetry.reset()
        self.lastFailure = nil
        self.retryAt = nil
        self.graceEnd = nil
    }

    /// No connection is left.
    mutating func disconnected(_ reason: String, now: NIODeadline) {
        guard self.state == .up else { return }
        self.kind = nil
        self.since = now
        self.outcomes = ProbeOutcomes()
        guard self.isUsed(now: now) else {
            self.state = .idle
            return
        }
        self.state = .connecting
        self.problem = reason
        self.retryAt = now
        self.graceEnd = now + self.configuration.redialGrace
    }

    /// - Returns: whether this dial is the one that counts; another may be under way.
    mutating func dialStarted(now: NIODeadline) -> Bool {
        guard !self.isDialling else { return false }
        self.isDialling = true
        self.retryAt = nil
        if self.state == .idle {
            self.state = .connecting
            self.since = now
            self.graceEnd = now + self.configuration.connectGrace
        }
        return true
    }

    mutating func dialSucceeded() { self.isDialling = false }

    mutating func dialFailed(_ problem: String, now: NIODeadline, using generator: inout some RandomNumberGenerator) {
        self.isDialling = false
        guard self.state != .up else { return }
        self.fall(problem, now)
        self.lastFailure = now
        self.failedDials += 1
        let isSoon = now < self.since + self.configuration.soon
        let pause = isSoon ? self.soonRetry.next(using: &generator) : self.lateRetry.next(using: &generator)
        self.retryAt = now + .nanoseconds(pause.saturatedNanoseconds)
    }

    /// There is reason to hope: the node was seen, or the network has changed.
    mutating func hurry(now: NIODeadline) {
        guard self.state == .down || self.state == .connecting else { return }
        self.soonRetry.reset()
        self.lateRetry.reset()
        self.lastFailure = nil
        self.retryAt = now
    }

    mutating func probed(isAnswered: Bool) { self.outcomes.add(isAnswered) }

    // MARK: Time

    /// Whether the node is to be dialled now.
    mutating func wake(now: NIODeadline) -> Bool {
        if let graceEnd, graceEnd <= now, self.state == .connecting {
            self.fall(self.problem ?? "no path has answered yet", now)
        }
        guard let retryAt, retryAt <= now, !self.isDialling, self.state != .up else { return false }
        return true
    }

    var wakeTime: NIODeadline? {
        let dial = self.isDialling ? nil : self.retryAt
        return [dial, self.graceEnd].compactMap { $0 }.min()
    }

    /// Of the last probes, the share that was not answered.
    var loss: Double { self.outcomes.loss }

    private mutating func fall(_ problem: String, _ now: NIODeadline) {
        if self.state != .down { self.since = now }
        self.state = .down
        self.kind = nil
        self.problem = problem
        self.graceEnd = nil
    }
}

/// The last probes of a node, as bits.
struct ProbeOutcomes {
    static let kept = 20

    private var lost: UInt32 = 0
    private var count = 0

    mutating func add(_ isAnswered: Bool) {
        self.lost = (self.lost << 1 | (isAnswered ? 0 : 1)) & (1 << UInt32(Self.kept) - 1)
        self.count = min(self.count + 1, Self.kept)
    }

    var loss: Double { self.count == 0 ? 0 : Double(self.lost.nonzeroBitCount) / Double(self.count) }
}
