import DNSWire
import MeshCore

/// Finds upstreams that send our own queries back to us. Each gets a question for a random name; if that name arrives here
/// as a client's question, the upstream forwards to us, at whatever remove. Such an upstream is not used until a later
/// probe stays away. Pure: time and randomness are passed in.
///
/// The name lies in a top-level domain of its own and not under `invalid` or `test`, which resolvers answer themselves
/// (RFC 6761) even if they forward everything else.
struct LoopGuard {
    static let domain = "edgemesh-loop-probe"
    /// A probe that has not come back by then is no sign of a loop.
    static let patience: Duration = .seconds(4)
    static let interval: Duration = .seconds(60)

    private var pending: [String: (upstream: TransportAddress, sent: MonotonicTime)] = [:]
    private(set) var looping: Set<TransportAddress> = []
    /// How often an upstream was found to send our queries back.
    private(set) var detections: UInt64 = 0
    private var lastRound: MonotonicTime?
    private var upstreams: [TransportAddress] = []

    /// The probes to send: for new upstreams at once, for looping ones once in a while.
    mutating func takeProbes(
        for upstreams: [TransportAddress],
        now: MonotonicTime,
        using generator: inout some RandomNumberGenerator
    ) -> [(upstream: TransportAddress, label: String)] {
        let new = upstreams.filter { !self.upstreams.contains($0) }
        self.upstreams = upstreams
        self.looping.formIntersection(upstreams)
        let isRound = self.lastRound.map { now - $0 >= LoopGuard.interval } ?? true
        if isRound { self.lastRound = now }
        return upstreams.filter { new.contains($0) || isRound && self.looping.contains($0) }.map { upstream in
            let label = String(UInt64.random(in: .min ... .max, using: &generator), radix: 16)
            self.pending[label] = (upstream, now)
            return (upstream, label)
        }
    }

    /// The random label, if `name` (in lower case) could be a probe.
    static func label(of name: DomainName) -> String? {
        let labels = name.labels
        guard labels.count == 2, labels[1].elementsEqual(LoopGuard.domain.utf8) else { return nil }
        return String(decoding: labels[0], as: UTF8.self)
    }

    /// A client asked for a probe's name. Returns the upstream that must have sent it, if the probe was ours.
    mutating func arrived(_ label: String) -> TransportAddress? {
        guard let probe = self.pending.removeValue(forKey: label) else { return nil }
        self.looping.insert(probe.upstream)
        self.detections += 1
        return probe.upstream
    }

    /// Upstreams that were looping and whose last probe did not come back.
    mutating func takeCleared(now: MonotonicTime) -> [TransportAddress] {
        let overdue = self.pending.filter { now - $0.value.sent >= LoopGuard.patience }
        for label in overdue.keys { self.pending[label] = nil }
        let cleared = Set(overdue.values.map(\.upstream)).intersection(self.looping)
        self.looping.subtract(cleared)
        return cleared.sorted()
    }
}
