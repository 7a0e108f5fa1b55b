import DNSWire
import MeshCore
import NIOCore

/// Announces one peer on one interface and answers questions about it (RFC 6762 sections 6 to 8). Sans-I/O.
///
/// A conflict makes it take another name, which is as random as the one before; of two that probe for one name at the same
/// time, the one with the lesser records waits for the other.
struct MDNSResponder {
    enum Phase: Hashable {
        /// The number of probes sent.
        case probing(Int)
        case announcing(Int)
        case running
    }

    private struct Pending {
        let source: TransportAddress
        var kinds: Set<MDNSRecords.Kind>
        var due: NIODeadline
    }

    static let maximumPending = 64
    static let maximumQuestions = 32
    private static let probes = 3
    private static let announcements = 2
    private static let probeInterval = TimeAmount.milliseconds(250)
    /// At least that lies between two multicasts of one record.
    private static let multicastInterval = TimeAmount.seconds(1)

    private(set) var records: MDNSRecords
    private(set) var phase = Phase.probing(0)
    private var phaseDue: NIODeadline?
    private var pending: [Pending] = []
    private var lastMulticast: [MDNSRecords.Kind: NIODeadline] = [:]
    private var conflicts: [NIODeadline] = []
    private var generator: HostGenerator

    /// Begins to probe after a random delay.
    init(records: MDNSRecords, generator: HostGenerator, now: NIODeadline) {
        self.records = records
        self.generator = generator
        self.phaseDue = now + self.delay(0...250)
    }

    var deadline: NIODeadline? {
        let first = self.pending.map(\.due).min()
        guard let phaseDue = self.phaseDue else { return first }
        return first.map { min($0, phaseDue) } ?? phaseDue
    }

    private mutating func delay(_ milliseconds: ClosedRange<Int64>) -> TimeAmount {
        .microseconds(
            Int64.random(
                in: (milliseconds.lowerBound * 1000)...(milliseconds.upperBound * 1000),
                using: &self.generator
            )
        )
    }

    private var isAnnounced: Bool {
        if case .probing = self.phase { false } else { true }
    }

    /// Takes records with other addresses. Browsers that hand on a peer once only, as v1.17 does, hear a goodbye first, so that
    /// they see it anew.
    mutating func update(_ records: MDNSRecords, now: NIODeadline) -> [MDNSOutput] {
        guard records != self.records else { return [] }
        let outputs = self.isAnnounced ? self.goodbye() : []
        self.records = records
        if self.isAnnounced {
            self.phase = .announcing(0)
            self.phaseDue = now
        }
        return outputs
    }

    /// Takes back what was announced.
    func goodbye() -> [MDNSOutput] {
        guard self.isAnnounced, self.phase != .announcing(0) else { return [] }
        var message = Message(id: 0, flags: [.response, .authoritative])
        message.answers = [.pointer, .service, .text, .address].flatMap { self.records.records($0, ttl: 0) }
        return [.multicast(message)]
    }

    // MARK: Received

    mutating func received(query message: Message, from source: TransportAddress, now: NIODeadline) -> [MDNSOutput] {
        guard self.isAnnounced else {
            self.breakTie(message, now: now)
            return []
        }
        let known = message.answers.isEmpty ? [] : self.records.kinds(known: message.answers)
        // Known answers may be spread over several messages (section 7.2).
        for index in self.pending.indices where self.pending[index].source == source {
            self.pending[index].kinds.subtract(known)
        }
        self.pending.removeAll { $0.kinds.isEmpty }
        let questions = message.questions.prefix(Self.maximumQuestions)
        guard source.port == MulticastDNS.port else { return self.answer(legacy: message, questions, to: source) }
        var unicast: Set<MDNSRecords.Kind> = []
        var multicast: Set<MDNSRecords.Kind> = []
        for question in questions {
            for kind in self.records.kinds(answering: question).subtracting(known) {
                if question.recordClass.hasTopBit, self.wasMulticast(kind, now: now) {
                    unicast.insert(kind)
                } else {
                    multicast.insert(kind)
                }
            }
        }
        if !multicast.isEmpty, self.pending.count < Self.maximumPending {
            let delay: TimeAmount =
                if message.flags.contains(.truncated) {
                    self.delay(400...500)
                } else if multicast.contains(where: \.isShared) {
                    self.delay(20...120)
                } else {
                    .zero
                }
            self.pending.append(Pending(source: source, kinds: multicast, due: now + delay))
        }
        return unicast.isEmpty ? [] : [.unicast(self.records.response(unicast), to: source)]
    }

    /// Section 8.2: another probes for the same name, with other records. Whose are the lesser begins anew after a second, and finds
    /// the name taken then. Its own probe comes back to it and is no other's.
    private mutating func breakTie(_ probe: Message, now: NIODeadline) {
        guard self.phase != .probing(0) else { return }
        let loses = [(self.records.instance, [.service, .text]), (self.records.host, [.address])].contains {
            (name: DomainName, kinds: [MDNSRecords.Kind]) in
            guard probe.questions.contains(where: { $0.name == name }) else { return false }
            let theirs = probe.authorities.filter { $0.name == name }
            let ours = kinds.flatMap { self.records.records($0, flushes: false) }
            return !theirs.isEmpty
                && ours.tieBreak.lexicographicallyPrecedes(theirs.tieBreak) { $0.lexicographicallyPrecedes($1) }
        }
        guard loses else { return }
        self.phase = .probing(0)
        self.phaseDue = now + .seconds(1)
    }

    /// Section 5.4: multicast within a quarter of its lifetime.
    private func wasMulticast(_ kind: MDNSRecords.Kind, now: NIODeadline) -> Bool {
        guard let last = self.lastMulticast[kind] else { return false }
        return now - last < .seconds(Int64(self.records.lifetime(of: kind)) / 4)
    }

    /// A plain resolver (section 6.7): it wants its question back, short lifetimes and no top bits.
    private func answer(
        legacy message: Message,
        _ questions: ArraySlice<Question>,
        to source: TransportAddress
    ) -> [MDNSOutput] {
        let kinds = questions.reduce(into: Set<MDNSRecords.Kind>()) {
            $0.formUnion(self.records.kinds(answering: $1))
        }
        guard !kinds.isEmpty else { return [] }
        var response = self.records.response(kinds)
        response.id = message.id
        response.questions = Array(questions)
        func plain(_ record: ResourceRecord) -> ResourceRecord {
            ResourceRecord(record.name, ttl: min(record.ttl, 10), record.data)
        }
        response.answers = response.answers.map(plain)
        response.additionals = response.additionals.map(plain)
        return [.unicast(response, to: source)]
    }

    /// Looks for others that use this name. `peerName` gives the new name after a conflict.
    mutating func received(
        response message: Message,
        now: NIODeadline,
        rename: (inout HostGenerator) -> MDNSRecords?
    ) {
        let isConflict = (message.answers + message.additionals).contains { record in
            guard record.name == self.records.instance || record.name == self.records.host, record.ttl > 0,
                record.recordClass.withoutTopBit == .internet
            else { return false }
            let kind: MDNSRecords.Kind
            switch record.type {
            case .srv: kind = .service
            case .txt: kind = .text
            case .a, .aaaa: kind = .address
            default: return false
            }
            return !self.records.records(kind).contains { $0.data == record.data }
        }
        guard isConflict, let renamed = rename(&self.generator) else { return }
        self.records = renamed
        self.phase = .probing(0)
        self.pending = []
        self.lastMulticast = [:]
        // Section 8.1: who meets conflict after conflict slows down.
        self.conflicts.removeAll { now - $0 > .seconds(10) }
        if self.conflicts.count < 15 { self.conflicts.append(now) }
        self.phaseDue = now + (self.conflicts.count < 15 ? .seconds(1) : .seconds(5))
    }

    // MARK: Time

    mutating func advance(now: NIODeadline) -> [MDNSOutput] {
        var outputs: [MDNSOutput] = []
        if let phaseDue = self.phaseDue, phaseDue <= now { outputs.append(contentsOf: self.advancePhase(now: now)) }
        let due = self.pending.filter { $0.due <= now }
        guard !due.isEmpty else { return outputs }
        self.pending.removeAll { $0.due <= now }
        var kinds: Set<MDNSRecords.Kind> = []
        for var answer in due {
            let early = answer.kinds.filter { kind in
                self.lastMulticast[kind].map { now - $0 < Self.multicastInterval } ?? false
            }
            kinds.formUnion(answer.kinds.subtracting(early))
            guard let last = early.compactMap({ self.lastMulticast[$0] }).max() else { continue }
            answer.kinds = early
            answer.due = last + Self.multicastInterval
            self.pending.append(answer)
        }
        guard !kinds.isEmpty else { return outputs }
        outputs.append(self.multicast(kinds, now: now))
        // All who wait hear it.
        for index in self.pending.indices { self.pending[index].kinds.subtract(kinds) }
        self.pending.removeAll { $0.kinds.isEmpty }
        return outputs
    }

    private mutating func multicast(_ kinds: Set<MDNSRecords.Kind>, now: NIODeadline) -> MDNSOutput {
        for kind in kinds { self.lastMulticast[kind] = now }
        return .multicast(self.records.response(kinds))
    }

    private mutating func advancePhase(now: NIODeadline) -> [MDNSOutput] {
        switch self.phase {
        case .probing(let sent) where sent < Self.probes:
            self.phase = .probing(sent + 1)
            self.phaseDue = now + Self.probeInterval
            var probe = Message(id: 0)
            probe.questions = [
                Question(self.records.instance, .any), Question(self.records.host, .any),
            ]
            probe.authorities = [.service, .text, .address].flatMap { self.records.records($0, flushes: false) }
            return [.multicast(probe)]
        case .probing:
            self.phase = .announcing(0)
            return self.advancePhase(now: now)
        case .announcing(let sent):
            let isLast = sent + 1 >= Self.announcements
            self.phase = isLast ? .running : .announcing(sent + 1)
            self.phaseDue = isLast ? nil : now + Self.multicastInterval
            return [self.multicast(MDNSRecords.Kind.announced, now: now)]
        case .running:
            self.phaseDue = nil
            return []
        }
    }
}
