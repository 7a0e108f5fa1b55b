import DNSWire
import MeshCore

/// The course of one upstream question: which upstream is tried next, how and for how long. Pure: events in, actions out.
///
/// Each upstream is tried twice over UDP before the next one is; the round starts anew until the deadline. An upstream
/// that refuses the packet or answers SERVFAIL or REFUSED is not asked again. A truncated answer is fetched over TCP.
struct Resolution {
    enum Transport: Hashable, Sendable {
        case udp
        case tcp
    }

    enum Action: Equatable {
        case send(TransportAddress, Transport, edns: Bool, timeout: Duration)
        case finish(Message)
        case fail
    }

    enum Event {
        case reply(Message)
        case timedOut
        /// The upstream's host or the network on the way refused.
        case unreachable
    }

    private var candidates: [TransportAddress]
    private let deadline: MonotonicTime
    private var position = 0
    private var triesHere = 0
    private var tries = 0
    private var transport = Transport.udp
    private var usesEDNS = true
    /// A bad answer, given if no better one comes.
    private var lastResort: Message?

    static let triesPerUpstream = 2
    static let maximumTries = 12
    static let firstTimeout: Duration = .milliseconds(600)
    static let laterTimeout: Duration = .milliseconds(1000)

    init(candidates: [TransportAddress], deadline: MonotonicTime) {
        self.candidates = candidates
        self.deadline = deadline
    }

    mutating func start(now: MonotonicTime) -> Action { self.send(now: now) }

    mutating func handle(_ event: Event, now: MonotonicTime) -> Action {
        switch event {
        case .timedOut:
            if self.transport == .tcp {
                self.dropUpstream()
            } else if self.triesHere >= Resolution.triesPerUpstream {
                self.position += 1
                self.resetUpstream()
            }
        case .unreachable:
            self.dropUpstream()
        case .reply(let message):
            if message.flags.contains(.truncated), self.transport == .udp {
                self.lastResort = self.lastResort ?? message
                self.transport = .tcp
            } else if message.responseCode == .formatError, self.usesEDNS, message.edns == nil {
                // A server from before EDNS (RFC 6891 section 7).
                self.usesEDNS = false
            } else if [.serverFailure, .refused, .notImplemented, .formatError].contains(message.responseCode) {
                self.lastResort = self.lastResort ?? message
                self.dropUpstream()
            } else {
                return .finish(message)
            }
        }
        return self.send(now: now)
    }

    private mutating func send(now: MonotonicTime) -> Action {
        guard !self.candidates.isEmpty, now < self.deadline, self.tries < Resolution.maximumTries else {
            return self.lastResort.map { .finish($0) } ?? .fail
        }
        self.position %= self.candidates.count
        let left = self.deadline - now
        let wanted: Duration =
            self.transport == .tcp ? left : self.triesHere == 0 ? Resolution.firstTimeout : Resolution.laterTimeout
        self.triesHere += 1
        self.tries += 1
        return .send(self.candidates[self.position], self.transport, edns: self.usesEDNS, timeout: min(wanted, left))
    }

    private mutating func dropUpstream() {
        self.candidates.remove(at: self.position)
        self.resetUpstream()
    }

    private mutating func resetUpstream() {
        self.triesHere = 0
        self.transport = .udp
        self.usesEDNS = true
    }
}
