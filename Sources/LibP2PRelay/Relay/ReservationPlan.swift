import MeshCore
import Multiformats
import NIOCore

/// Which relays to hold reservations with, and what to do when; no I/O.
///
/// Each candidate is idle, then probed (connected to, its round trip measured), then perhaps reserved with: of those that are
/// measured the nearest, until the wanted number is held. Reservations are refreshed well before their end. What fails,
/// refuses or is lost waits for a jittered backoff and is a candidate again; meanwhile another takes its place.
///
/// When all are held, they and the other candidates are measured anew from time to time, and a new candidate at once. One that is
/// nearer than a held one by a good part, in several measurements on end, gets a reservation, and only then the farthest is let go.
/// Each request has a number, so that an answer that comes after its relay was lost does not count.
struct ReservationPlan {
    enum Action: Hashable {
        /// Connect and measure, then tell `probed` or `failed`.
        case probe(PeerID, request: UInt64)
        /// Ask for the slot, for the first time or anew, then tell `reserved`, `refused` or `failed`.
        case reserve(PeerID, request: UInt64)
        /// The reservation is over, and its addresses are void.
        case lost(PeerID)
        /// The same, because a nearer relay has taken its place.
        case replaced(PeerID)
    }

    enum State: Hashable {
        case idle
        case probing(request: UInt64)
        case reserving(request: UInt64)
        case reserved(until: NIODeadline, refresh: NIODeadline)
        case refreshing(until: NIODeadline, request: UInt64)
        case waiting(until: NIODeadline)

        var holdsSlot: Bool {
            switch self {
            case .reserved, .refreshing: true
            case .idle, .probing, .reserving, .waiting: false
            }
        }
    }

    private struct Candidate {
        var order: Int
        var roundTripTime: TimeAmount?
        /// When that was tried last, and the request that tries it again while a slot is held.
        var measured: NIODeadline?
        var measuring: UInt64?
        var state = State.idle
        var retry: Backoff
        var refusal: Backoff
    }

    /// The measurements by which held relays are compared with others.
    private struct Comparison {
        var next: NIODeadline?
        /// Until when the answers of this one are waited for.
        var end: NIODeadline?
        /// What was nearer in the last ones, and in how many.
        var nearest: PeerID?
        var confirmations = 0
    }

    private let configuration: RelayClientConfiguration
    private var generator: any RandomNumberGenerator & Sendable
    private var candidates: [PeerID: Candidate] = [:]
    private var requests: UInt64 = 0
    /// Until when the choice waits for probes, while reservations are wanting.
    private var selectionDeadline: NIODeadline?
    private var comparison = Comparison()
    private var pending: [Action] = []

    /// A reservation is renewed when this part of it is over, less up to a tenth.
    private static let refreshPart = 0.75
    /// Between which bounds a reservation is believed to last: the clocks of the two hosts may differ by much.
    private static let shortestLifetime = TimeAmount.minutes(1)
    private static let longestLifetime = TimeAmount.hours(24)

    init(configuration: RelayClientConfiguration, generator: any RandomNumberGenerator & Sendable) {
        self.configuration = configuration
        self.generator = generator
    }

    // MARK: Events

    /// Replaces the candidates, the preferred first; relays that are no longer among them are let go.
    mutating func setCandidates(_ peers: [PeerID]) {
        let peers = peers.prefix(self.configuration.maximumCandidates)
        for (peer, candidate) in self.candidates where !peers.contains(peer) {
            if candidate.state.holdsSlot { self.pending.append(.lost(peer)) }
            self.candidates[peer] = nil
        }
        for (order, peer) in peers.enumerated() {
            if self.candidates[peer] == nil {
                self.candidates[peer] = Candidate(
                    order: order,
                    retry: Backoff(
                        base: .nanoseconds(self.configuration.retryBase.nanoseconds),
                        cap: .nanoseconds(self.configuration.retryMaximum.nanoseconds)
                    ),
                    refusal: Backoff(
                        base: .nanoseconds(self.configuration.refusalBase.nanoseconds),
                        cap: .nanoseconds(self.configuration.refusalMaximum.nanoseconds)
                    )
                )
            } else {
                self.candidates[peer]?.order = order
            }
        }
    }

    mutating func probed(_ peer: PeerID, request: UInt64, roundTripTime: TimeAmount) {
        if self.candidates[peer]?.measuring == request {
            self.candidates[peer]?.measuring = nil
        } else if case .probing(request) = self.candidates[peer]?.state {
            self.candidates[peer]?.state = .idle
        } else {
            return
        }
        self.candidates[peer]?.roundTripTime = roundTripTime
    }

    /// False if the answer comes too late to count.
    mutating func reserved(_ peer: PeerID, request: UInt64, lifetime: TimeAmount, now: NIODeadline) -> Bool {
        switch self.candidates[peer]?.state {
        case .reserving(request), .refreshing(_, request): break
        default: return false
        }
        let lifetime = min(max(lifetime, Self.shortestLifetime), Self.longestLifetime)
        let part = Self.refreshPart - Double.random(in: 0...0.1, using: &self.generator)
        self.candidates[peer]?.state = .reserved(
            until: now + lifetime,
            refresh: now + .nanoseconds(Int64(Double(lifetime.nanoseconds) * part))
        )
        self.candidates[peer]?.retry.reset()
        self.candidates[peer]?.refusal.reset()
        return true
    }

    /// The relay has said no.
    mutating func refused(_ peer: PeerID, request: UInt64, now: NIODeadline) {
        guard var candidate = self.candidates[peer] else { return }
        switch candidate.state {
        case .reserving(request): break
        case .refreshing(_, request): self.pending.append(.lost(peer))
        default: return
        }
        candidate.state = .waiting(until: now + TimeAmount(candidate.refusal.next(using: &self.generator)))
        self.candidates[peer] = candidate
    }

    /// The relay could not be reached, or did not answer. A reservation stands until its end all the same.
    mutating func failed(_ peer: PeerID, request: UInt64, now: NIODeadline) {
        guard var candidate = self.candidates[peer] else { return }
        if candidate.measuring == request {
            // Whether a held relay is still there is found out otherwise.
            self.candidates[peer]?.measuring = nil
            return
        }
        switch candidate.state {
        case .probing(request), .reserving(request):
            candidate.roundTripTime = nil
            candidate.state = .waiting(until: now + TimeAmount(candidate.retry.next(using: &self.generator)))
        case .refreshing(let until, request):
            let again = now + TimeAmount(candidate.retry.next(using: &self.generator))
            candidate.state = .reserved(until: until, refresh: again)
        default: return
        }
        self.candidates[peer] = candidate
    }

    /// The last direct connection to the relay is gone, and the reservation with it.
    mutating func disconnected(_ peer: PeerID, now: NIODeadline) {
        guard var candidate = self.candidates[peer], candidate.state.holdsSlot else { return }
        self.pending.append(.lost(peer))
        candidate.roundTripTime = nil
        candidate.state = .waiting(until: now + TimeAmount(candidate.retry.next(using: &self.generator)))
        self.candidates[peer] = candidate
    }

    /// The network has changed: what failed before is worth another try at once.
    mutating func retryAll() {
        for (peer, candidate) in self.candidates {
            guard case .waiting = candidate.state else { continue }
            self.candidates[peer]?.state = .idle
            self.candidates[peer]?.retry.reset()
        }
    }

    // MARK: Decisions

    /// What is to be done now.
    mutating func next(now: NIODeadline) -> [Action] {
        for (peer, candidate) in self.candidates.sorted(by: { $0.value.order < $1.value.order }) {
            switch candidate.state {
            case .waiting(let until) where until <= now:
                self.candidates[peer]?.state = .idle
            case .reserved(let until, _) where until <= now, .refreshing(let until, _) where until <= now:
                self.pending.append(.lost(peer))
                self.candidates[peer]?.roundTripTime = nil
                self.candidates[peer]?.state = .idle
            case .reserved(let until, let refresh) where refresh <= now:
                let request = self.nextRequest()
                self.candidates[peer]?.state = .refreshing(until: until, request: request)
                self.pending.append(.reserve(peer, request: request))
            default: break
            }
        }
        self.letGo()
        self.fill(now: now)
        self.compare(now: now)
        defer { self.pending = [] }
        return self.pending
    }

    /// When `next` has something to do again, if nothing happens before.
    var wakeTime: NIODeadline? {
        var times = self.candidates.values.compactMap { candidate -> NIODeadline? in
            switch candidate.state {
            case .reserved(let until, let refresh): min(until, refresh)
            case .refreshing(let until, _), .waiting(let until): until
            case .idle, .probing, .reserving: nil
            }
        }
        times += [self.selectionDeadline, self.comparison.end ?? self.comparison.next].compactMap { $0 }
        return times.min()
    }

    /// Measures idle candidates and asks the nearest, as long as reservations are wanting.
    private mutating func fill(now: NIODeadline) {
        var missing = self.configuration.wantedReservations
        var probing = 0
        for candidate in self.candidates.values {
            switch candidate.state {
            case .reserving, .reserved, .refreshing: missing -= 1
            case .probing: probing += 1
            case .idle, .waiting: break
            }
        }
        guard missing > 0 else {
            self.selectionDeadline = nil
            return
        }
        let idle = self.candidates.filter { $0.value.state == .idle }.sorted { $0.value.order < $1.value.order }
        for (peer, candidate) in idle where candidate.roundTripTime == nil {
            guard probing < self.configuration.maximumProbes else { break }
            self.measure(peer, now: now)
            probing += 1
        }
        let measured = idle.compactMap { peer, candidate in
            candidate.roundTripTime.map { (peer: peer, time: $0, order: candidate.order) }
        }
        guard !measured.isEmpty else {
            self.selectionDeadline = nil
            return
        }
        // Some that are still being measured may be nearer: they get a moment.
        if probing > 0 {
            let deadline = self.selectionDeadline ?? now + self.configuration.selectionDelay
            self.selectionDeadline = deadline
            guard deadline <= now else { return }
        }
        self.selectionDeadline = nil
        for choice in measured.sorted(by: { ($0.time, $0.order) < ($1.time, $1.order) }).prefix(missing) {
            self.reserve(choice.peer)
        }
    }

    private mutating func measure(_ peer: PeerID, now: NIODeadline) {
        let request = self.nextRequest()
        self.candidates[peer]?.measured = now
        if self.candidates[peer]?.state == .idle {
            self.candidates[peer]?.state = .probing(request: request)
        } else {
            self.candidates[peer]?.measuring = request
        }
        self.pending.append(.probe(peer, request: request))
    }

    private mutating func reserve(_ peer: PeerID) {
        let request = self.nextRequest()
        self.candidates[peer]?.state = .reserving(request: request)
        self.pending.append(.reserve(peer, request: request))
    }

    // MARK: Nearer relays

    /// Those that hold a slot, the nearest first, or those that could be asked for one.
    private func nearest(holding: Bool) -> [(peer: PeerID, time: TimeAmount)] {
        self.candidates.filter { holding ? $0.value.state.holdsSlot : $0.value.state == .idle }
            .compactMap { peer, candidate in
                candidate.roundTripTime.map { (peer: peer, time: $0, order: candidate.order) }
            }
            .sorted { ($0.time, $0.order) < ($1.time, $1.order) }
            .map { ($0.peer, $0.time) }
    }

    /// Lets the farthest go if more are held than wanted.
    private mutating func letGo() {
        let held = self.nearest(holding: true)
        for (peer, _) in held.dropFirst(self.configuration.wantedReservations) {
            self.candidates[peer]?.state = .idle
            self.candidates[peer]?.measuring = nil
            self.pending.append(.replaced(peer))
        }
    }

    /// Measures what is held and what could be, if all that are wanted are held, and decides when the answers are there.
    private mutating func compare(now: NIODeadline) {
        let states = self.candidates.values.map(\.state)
        let held = states.count { $0.holdsSlot }
        guard held > 0, held == self.configuration.wantedReservations, held < states.count else {
            self.comparison = Comparison()
            return
        }
        if let end = self.comparison.end {
            let isMeasuring = self.candidates.values.contains { candidate in
                if case .probing = candidate.state { return true }
                return candidate.measuring != nil
            }
            guard !isMeasuring || end <= now else { return }
            self.comparison.end = nil
            self.decide(now: now)
            return
        }
        let next = self.comparison.next ?? now + self.configuration.comparisonInterval
        self.comparison.next = next
        guard self.hasNewCandidate || next <= now else { return }
        let others = self.candidates.filter { $0.value.state == .idle }
            .sorted {
                ($0.value.measured ?? .uptimeNanoseconds(0), $0.value.order)
                    < ($1.value.measured ?? .uptimeNanoseconds(0), $1.value.order)
            }
        // Those that were not measured for the longest time, if there are too many.
        for (peer, _) in others.prefix(self.configuration.maximumProbes) { self.measure(peer, now: now) }
        for (peer, candidate) in self.candidates where candidate.state.holdsSlot { self.measure(peer, now: now) }
        self.comparison.end = now + self.configuration.probeTimeout
    }

    private var hasNewCandidate: Bool {
        self.candidates.values.contains { $0.state == .idle && $0.measured == nil }
    }

    private mutating func decide(now: NIODeadline) {
        // The rest is measured at once.
        guard !self.hasNewCandidate else { return }
        self.comparison.next = now + self.configuration.comparisonInterval
        guard let farthest = self.nearest(holding: true).last, let nearest = self.nearest(holding: false).first,
            farthest.time - nearest.time >= self.configuration.nearerBy,
            Double(nearest.time.nanoseconds) <= Double(farthest.time.nanoseconds) * self.configuration.nearerPart
        else {
            self.comparison.nearest = nil
            return
        }
        if self.comparison.nearest != nearest.peer {
            self.comparison.nearest = nearest.peer
            self.comparison.confirmations = 0
        }
        self.comparison.confirmations += 1
        if self.comparison.confirmations < self.configuration.nearerConfirmations {
            self.comparison.next = now + self.configuration.confirmationInterval
        } else {
            self.comparison.nearest = nil
            self.reserve(nearest.peer)
        }
    }

    private mutating func nextRequest() -> UInt64 {
        self.requests += 1
        return self.requests
    }

    // MARK: Look

    func state(of peer: PeerID) -> State? { self.candidates[peer]?.state }

    func roundTripTime(of peer: PeerID) -> TimeAmount? { self.candidates[peer]?.roundTripTime }
}

extension TimeAmount {
    fileprivate init(_ duration: Duration) {
        self = .nanoseconds(duration.saturatedNanoseconds)
    }
}
