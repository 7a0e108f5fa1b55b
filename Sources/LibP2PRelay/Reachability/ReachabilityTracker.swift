import LibP2P
import NIOCore

/// Weighs what peers say about this host's reachability, and when the next is to be asked. Sans-I/O.
///
/// One success shows that the host can be reached, so it is believed at once. A failure has many reasons: it takes
/// `maximumConfidence` more of them than successes to doubt what was believed.
struct ReachabilityTracker {
    enum Outcome: Hashable {
        case reachable
        case unreachable
        /// The peer would not dial, or the question was lost.
        case noAnswer
    }

    static let maximumConfidence = 3

    private let retry: TimeAmount
    private let refresh: TimeAmount
    private(set) var status = Reachability.unknown
    private(set) var confidence = 0
    private var lastProbe: NIODeadline?
    private var lastOutcome: Outcome?
    private var lastInbound: NIODeadline?

    /// - Parameters:
    ///   - retry: between questions while the answer is not certain.
    ///   - refresh: between questions once it is.
    init(retry: TimeAmount, refresh: TimeAmount) {
        self.retry = retry
        self.refresh = refresh
    }

    mutating func asked(now: NIODeadline) {
        self.lastProbe = now
    }

    /// Tells whether the status has changed.
    mutating func record(_ outcome: Outcome) -> Bool {
        self.lastOutcome = outcome
        let observed: Reachability
        switch outcome {
        case .reachable: observed = .publiclyReachable
        case .unreachable: observed = .behindNAT
        case .noAnswer: return false
        }
        if observed == self.status {
            self.confidence = min(Self.maximumConfidence, self.confidence + 1)
            return false
        }
        guard observed == .publiclyReachable || self.confidence == 0 else {
            self.confidence -= 1
            return false
        }
        self.status = observed
        self.confidence = 0
        return true
    }

    /// A peer of the internet has connected to this host: what is believed is more, or less, likely than before.
    mutating func acceptedConnection(now: NIODeadline) {
        self.lastInbound = now
    }

    /// The host's own addresses have changed: ask soon.
    mutating func addressesChanged() {
        if self.confidence == Self.maximumConfidence { self.confidence -= 1 }
    }

    /// When a peer is to be asked again; nil at once.
    var nextProbe: NIODeadline? {
        guard let lastProbe = self.lastProbe else { return nil }
        let isCertain = self.confidence == Self.maximumConfidence && self.status != .unknown
        guard isCertain, self.lastOutcome != .noAnswer else { return lastProbe + self.retry }
        guard let lastInbound = self.lastInbound, lastInbound > lastProbe else { return lastProbe + self.refresh }
        return self.status == .publiclyReachable
            ? lastProbe + self.refresh * 2 : lastProbe + .nanoseconds(self.refresh.nanoseconds / 5)
    }
}
