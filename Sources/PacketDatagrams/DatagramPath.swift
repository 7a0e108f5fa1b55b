public import MeshCore

/// Which way datagrams take to a peer, and how long they may be. No I/O; time is given.
///
/// Short probes go to all addresses where the peer may be, from both sides at once, so that NATs on the way let them in. The way by which
/// one is answered is proven in both directions. Longer ones tell then what length passes, and from the first answer packets go; until
/// then none do. Further probes keep the way open and watch it. A datagram of the peer from another address makes that a candidate: who roams, or
/// whose NAT takes another port, is followed once the new way is proven.
public struct DatagramPath: Sendable {
    public struct Configuration: Sendable, Hashable {
        /// Between the probes of one address, until one is answered.
        public var punchIntervals: [Duration] = [
            .milliseconds(100), .milliseconds(100), .milliseconds(200), .milliseconds(400), .milliseconds(800),
            .milliseconds(1600), .milliseconds(3200),
        ]
        /// Between the probes of the way in use, which also keep the mappings of NATs.
        public var keepAlive: Duration = .seconds(5)
        /// For an answer of the way in use; after some such times without one it is lost.
        public var patience: Duration = .seconds(1)
        public var triesUntilLost = 4
        /// Of silence of the way in use, after which another proven one takes its place as soon as the peer uses that.
        public var roamAfter: Duration = .seconds(1)
        /// The length that a way must carry: with the headers below it, it passes the smallest link of IPv6.
        public var baseLength = 1200
        /// What else is tried: what Ethernet carries, with and without other tunnels on the way.
        public var lengths = [1472, 1452, 1432, 1412, 1392, 1372, 1332, 1280]
        /// Between two looks for a greater length.
        public var lengthInterval: Duration = .seconds(600)
        public var maximumCandidates = 32

        public init() {}
    }

    /// A probe to be sent.
    public struct Probe: Sendable, Hashable {
        public var number: UInt64
        /// Of the datagram; zero for as short as it can be.
        public var length: Int
        public var address: TransportAddress
    }

    private struct Candidate {
        let address: TransportAddress
        var tries = 0
        var next: MonotonicTime?
        var isProven = false
        var roundTrip: Duration?
        var heard: MonotonicTime?
    }

    private struct Outstanding {
        let probe: Probe
        let sent: MonotonicTime
    }

    private static let maximumOutstanding = 64
    /// An IPv6 header is so much longer than one of IPv4.
    private static let familyDifference = 20
    private static let lengthRounds = 3

    private let configuration: Configuration
    private var candidates: [Candidate] = []
    private var outstanding: [Outstanding] = []
    private var selected: TransportAddress?
    private var length = 0
    private var lengthRound = 0
    private var lengthsAt: MonotonicTime?
    private var keepAliveAt: MonotonicTime?
    private var unanswered = 0
    /// When the way in use was heard last, and when a packet was last sent by it.
    private var heard: MonotonicTime
    private(set) var roundTrip: Duration?
    /// Of the way in use, since it was taken: what load adds to the others is not in it.
    private(set) var leastRoundTrip: Duration?
    /// How often another way was taken, the first included.
    private(set) var changes: UInt64 = 0
    /// How often the way in use was lost.
    private(set) var losses: UInt64 = 0

    public init(candidates: [TransportAddress], configuration: Configuration = Configuration(), now: MonotonicTime) {
        self.configuration = configuration
        self.heard = now
        self.add(candidates, now: now)
    }

    /// Where packets go, and how long a datagram there may be; nil while no way is proven.
    public var route: (address: TransportAddress, length: Int)? {
        self.length > 0 ? self.selected.map { ($0, self.length) } : nil
    }

    /// Nothing is proven, and nothing is tried any more.
    public var isLost: Bool { self.selected == nil && self.candidates.allSatisfy { $0.next == nil } }

    // MARK: Events

    /// Tries these addresses, again if they were tried before.
    public mutating func add(_ addresses: [TransportAddress], now: MonotonicTime) {
        for address in addresses {
            if let index = self.index(of: address) {
                guard !self.candidates[index].isProven else { continue }
                self.candidates[index].tries = 0
                self.candidates[index].next = now
            } else {
                self.insert(address, now: now)
            }
        }
    }

    /// A proven datagram came from an address.
    public mutating func heard(from address: TransportAddress, now: MonotonicTime) {
        if address == self.selected {
            self.heard = now
            return
        }
        guard let index = self.index(of: address) else { return self.insert(address, now: now) }
        self.candidates[index].heard = now
        if self.candidates[index].isProven {
            if self.selected == nil || now - self.heard > self.configuration.roamAfter { self.select(index, now: now) }
        } else if self.candidates[index].next == nil {
            // It was tried in vain, before the other side had opened its NAT.
            self.candidates[index].tries = 0
            self.candidates[index].next = now
        }
    }

    /// The answer to a probe.
    public mutating func answered(_ number: UInt64, now: MonotonicTime) {
        guard let found = self.outstanding.firstIndex(where: { $0.probe.number == number }) else { return }
        let answered = self.outstanding.remove(at: found)
        guard let index = self.index(of: answered.probe.address) else { return }
        let roundTrip = now - answered.sent
        self.candidates[index].isProven = true
        self.candidates[index].next = nil
        self.candidates[index].roundTrip = roundTrip
        if self.selected == answered.probe.address {
            self.answered(answered.probe, roundTrip, now: now)
        } else if self.selected == nil || self.isBetter(roundTrip, now: now) {
            self.select(index, now: now)
        }
    }

    private mutating func answered(_ probe: Probe, _ roundTrip: Duration, now: MonotonicTime) {
        self.roundTrip = roundTrip
        self.leastRoundTrip = min(self.leastRoundTrip ?? roundTrip, roundTrip)
        self.heard = now
        // Where only a shorter one was answered, after some of the present length were not, that has become too long.
        if probe.length > self.length || (self.unanswered > Self.triesAtLength && probe.length > 0) {
            self.length = probe.length
        }
        self.unanswered = 0
        self.keepAliveAt = now + self.configuration.keepAlive
    }

    /// Probes of the length in use, before shorter ones are tried.
    private static let triesAtLength = 2

    /// A packet goes out: a way that is silent meanwhile is asked sooner than one that is at rest.
    public mutating func used(now: MonotonicTime) {
        guard let keepAliveAt, keepAliveAt > now, self.unanswered == 0, now - self.heard > self.configuration.patience
        else { return }
        self.keepAliveAt = now
    }

    /// There are new keys: the other side takes them once it sees them in use.
    public mutating func confirm(now: MonotonicTime) {
        if self.selected != nil { self.keepAliveAt = now }
    }

    /// The network of this machine has changed: all is tried anew.
    public mutating func networkChanged(now: MonotonicTime) {
        for index in self.candidates.indices {
            self.candidates[index].tries = 0
            self.candidates[index].next = now
        }
        if self.selected != nil { self.keepAliveAt = now }
    }

    // MARK: Time

    /// When there is something to do, unless something happens before; nil: never.
    public var wakeTime: MonotonicTime? {
        let times = self.candidates.compactMap(\.next) + [self.keepAliveAt, self.lengthsAt].compactMap { $0 }
        return times.min()
    }

    /// What is to be sent now.
    public mutating func wake(now: MonotonicTime, using generator: inout some RandomNumberGenerator) -> [Probe] {
        var probes: [Probe] = []
        self.watch(now: now, &probes, using: &generator)
        for index in self.candidates.indices {
            guard let next = self.candidates[index].next, next <= now else { continue }
            let tries = self.candidates[index].tries
            self.candidates[index].tries = tries + 1
            let intervals = self.configuration.punchIntervals
            self.candidates[index].next = tries < intervals.count ? now + intervals[tries] : nil
            let address = self.candidates[index].address
            probes.append(self.probe(address, 0, now: now, using: &generator))
        }
        if let lengthsAt, lengthsAt <= now, let selected {
            let difference = selected.address.family == .v6 ? Self.familyDifference : 0
            let most = (self.configuration.lengths.max() ?? 0) - difference
            for length in [self.configuration.baseLength] + self.configuration.lengths
            where length > self.length && length <= max(most, self.configuration.baseLength) {
                probes.append(self.probe(selected, length, now: now, using: &generator))
            }
            self.lengthRound += 1
            let isOver = self.lengthRound >= Self.lengthRounds
            if isOver { self.lengthRound = 0 }
            self.lengthsAt = now + (isOver ? self.configuration.lengthInterval : self.configuration.patience)
        }
        return probes
    }

    private mutating func watch(
        now: MonotonicTime,
        _ probes: inout [Probe],
        using generator: inout some RandomNumberGenerator
    ) {
        guard let keepAliveAt, keepAliveAt <= now, let selected else { return }
        guard self.unanswered < self.configuration.triesUntilLost else { return self.lose(now: now) }
        let isAtLength = self.length > 0 && self.unanswered < Self.triesAtLength
        let length = isAtLength ? self.length : self.configuration.baseLength
        self.unanswered += 1
        self.keepAliveAt = now + self.configuration.patience
        probes.append(self.probe(selected, length, now: now, using: &generator))
    }

    private mutating func probe(
        _ address: TransportAddress,
        _ length: Int,
        now: MonotonicTime,
        using generator: inout some RandomNumberGenerator
    ) -> Probe {
        let probe = Probe(number: generator.next(), length: length, address: address)
        if self.outstanding.count >= Self.maximumOutstanding { self.outstanding.removeFirst() }
        self.outstanding.append(Outstanding(probe: probe, sent: now))
        return probe
    }

    // MARK: Parts

    private func index(of address: TransportAddress) -> Int? {
        self.candidates.firstIndex { $0.address == address }
    }

    private mutating func insert(_ address: TransportAddress, now: MonotonicTime) {
        if self.candidates.count >= self.configuration.maximumCandidates {
            // What was tried in vain, or else the way that is silent longest: those of a peer that roams much.
            let done = self.candidates.indices.filter { index in
                self.candidates[index].address != self.selected && self.candidates[index].next == nil
            }
            let oldest = done.min { self.lastHeard($0) < self.lastHeard($1) }
            guard let oldest else { return }
            self.candidates.remove(at: oldest)
        }
        self.candidates.append(Candidate(address: address, next: now))
    }

    private func lastHeard(_ index: Int) -> MonotonicTime {
        guard self.candidates[index].isProven else { return MonotonicTime(nanoseconds: 0) }
        return self.candidates[index].heard ?? MonotonicTime(nanoseconds: 0)
    }

    /// Round trips of one way differ from time to time; a change of ways is to be worth it.
    private func isBetter(_ roundTrip: Duration, now: MonotonicTime) -> Bool {
        if now - self.heard > self.configuration.roamAfter { return true }
        return self.roundTrip.map { roundTrip * 4 < $0 * 3 } ?? false
    }

    private mutating func select(_ index: Int, now: MonotonicTime) {
        self.selected = self.candidates[index].address
        self.roundTrip = self.candidates[index].roundTrip
        self.leastRoundTrip = self.roundTrip
        self.length = 0
        self.heard = now
        self.unanswered = 0
        self.keepAliveAt = now + self.configuration.keepAlive
        self.lengthRound = 0
        self.lengthsAt = now
        self.changes += 1
    }

    private mutating func lose(now: MonotonicTime) {
        if let selected, let index = self.index(of: selected) { self.candidates[index].isProven = false }
        self.selected = nil
        self.losses += 1
        self.length = 0
        self.roundTrip = nil
        self.leastRoundTrip = nil
        self.keepAliveAt = nil
        self.lengthsAt = nil
        let next = self.candidates.indices.filter { self.candidates[$0].isProven }.max {
            self.lastHeard($0) < self.lastHeard($1)
        }
        guard let next else { return }
        self.select(next, now: now)
        // It was proven a while ago: it has to answer soon.
        self.keepAliveAt = now
    }
}
