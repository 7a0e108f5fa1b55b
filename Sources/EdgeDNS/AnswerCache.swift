import DNSWire
import MeshCore

/// Answers of upstreams, positive and negative (RFC 2308), kept past their time for when no upstream can be reached
/// (RFC 8767). Time is passed in.
struct AnswerCache {
    struct Limits: Hashable, Sendable {
        /// The most questions kept; zero: none.
        var entries = 4096
        /// Seconds; upstream TTLs are cut to it.
        var maximumTTL: UInt32 = 3600
        var maximumNegativeTTL: UInt32 = 300
        /// How long past its time an answer may serve; zero turns that off.
        var staleWindow: Duration = .seconds(86_400)
        /// How long an outdated answer serves without asking again after an attempt failed (RFC 8767 section 5).
        var staleRetry: Duration = .seconds(5)
    }

    /// Why an answer may be given.
    enum Freshness: Equatable {
        /// `prefetch`: its time is nearly over and it is in use, so it is worth asking again now.
        case fresh(prefetch: Bool)
        /// Past its time; `mayServeNow`: a refresh failed a moment ago.
        case stale(mayServeNow: Bool)
    }

    struct Hit {
        var answer: PreparedAnswer
        var timeToLive: PreparedAnswer.TimeToLive
        var freshness: Freshness
    }

    private struct Entry {
        var answer: PreparedAnswer
        var stored: MonotonicTime
        /// Seconds.
        var lifetime: UInt32
        var hits: UInt32 = 0
        var prefetched = false
        var retryAfter: MonotonicTime?
    }

    let limits: Limits
    private var table: QuestionTable<Entry>

    /// The TTL of records in an outdated answer (RFC 8767 section 4).
    static let staleTTL: UInt32 = 30
    /// Hits that make an entry worth refreshing before its time is over, and the part of its life at which that happens.
    static let prefetchHits: UInt32 = 3
    static let prefetchFraction: UInt32 = 10

    var count: Int { self.table.count }
    var evictions: UInt64 { self.table.evictions }

    init(limits: Limits) {
        self.limits = limits
        self.table = QuestionTable(capacity: limits.entries)
    }

    mutating func find(_ name: UnsafeRawBufferPointer, _ tag: UInt32, now: MonotonicTime) -> Hit? {
        guard let place = self.table.find(name, tag) else { return nil }
        let entry = self.table[place]
        let elapsed = now > entry.stored ? now.nanoseconds - entry.stored.nanoseconds : 0
        let age = UInt32(clamping: elapsed / 1_000_000_000)
        if age < entry.lifetime {
            self.table.touch(place)
            self.table[place].hits &+= 1
            let isDue =
                !entry.prefetched && entry.hits >= AnswerCache.prefetchHits && entry.lifetime >= 2
                && entry.retryAfter.map { now >= $0 } ?? true
                && entry.lifetime - age <= max(1, entry.lifetime / AnswerCache.prefetchFraction)
            if isDue { self.table[place].prefetched = true }
            return Hit(
                answer: entry.answer,
                timeToLive: .aged(age: age, cap: entry.lifetime),
                freshness: .fresh(prefetch: isDue)
            )
        }
        let outdatedFor = Duration.seconds(Int64(age - entry.lifetime))
        guard outdatedFor < self.limits.staleWindow else {
            self.table.remove(place)
            return nil
        }
        self.table.touch(place)
        return Hit(
            answer: entry.answer,
            timeToLive: .fixed(AnswerCache.staleTTL),
            freshness: .stale(mayServeNow: entry.retryAfter.map { now < $0 } ?? false)
        )
    }

    /// A refresh failed: what is kept serves for a while without trying again.
    mutating func refreshFailed(_ name: UnsafeRawBufferPointer, _ tag: UInt32, now: MonotonicTime) {
        guard let place = self.table.find(name, tag) else { return }
        self.table[place].retryAfter = now + self.limits.staleRetry
        self.table[place].prefetched = false
    }

    /// Keeps `answer` if its message allows it.
    mutating func store(
        _ answer: PreparedAnswer,
        from message: Message,
        for name: UnsafeRawBufferPointer,
        _ tag: UInt32,
        now: MonotonicTime
    ) {
        guard self.limits.entries > 0, let lifetime = self.lifetime(of: message), lifetime > 0 else { return }
        self.table.insert(Entry(answer: answer, stored: now, lifetime: lifetime), for: name, tag)
    }

    /// Seconds; nil if the message must not be kept. A negative answer without SOA says nothing of its time, so it is not
    /// (RFC 2308 section 5).
    func lifetime(of message: Message) -> UInt32? {
        guard !message.flags.contains(.truncated) else { return nil }
        let negative = message.authorities.lazy.compactMap { record -> UInt32? in
            guard case .soa(let soa) = record.data else { return nil }
            return min(record.ttl, soa.minimum)
        }.first
        let positive = message.answers.map(\.ttl).min()
        switch message.responseCode {
        case .noError:
            guard let question = message.questions.first else { return nil }
            let isPositive = message.answers.contains { $0.type == question.type }
            if isPositive { return positive.map { min($0, self.limits.maximumTTL) } }
            fallthrough
        case .nameError:
            return negative.map { min($0, positive ?? .max, self.limits.maximumNegativeTTL, self.limits.maximumTTL) }
        default:
            return nil
        }
    }
}
