import DNSWire
import HashTreeCollections
import Logging
import MeshCore
import NIOCore
import ServiceCatalog

/// Answers queries on one event loop: cluster zone, cache, upstream, in this order. Everything here is confined to the
/// loop, so a query takes no lock; a cluster or cached answer allocates nothing but room in the reply buffer.
final class QueryResponder {
    /// What became of a query.
    enum Disposition {
        /// The reply was appended.
        case answered
        /// No reply is due.
        case ignored
        /// The answer needs an upstream: pass it to `resolve`.
        case deferred(DeferredQuery)
    }

    /// A query that waits for an upstream.
    struct DeferredQuery {
        var head: QueryHead
        /// The question's bytes as the client sent them.
        var question: [UInt8]
        /// In lower case.
        var name: DomainName
        /// The most octets of the reply.
        var limit: Int
        /// The name to ask for, and the CNAME records that lead to it: not the client's name if that is an ExternalName.
        var target: DomainName
        var prefix: [ResourceRecord] = []
    }

    private struct ZoneEntry {
        enum Content {
            case complete(PreparedAnswer)
            case chase(prefix: [ResourceRecord], target: DomainName)
        }

        var content: Content
        /// The catalog version for which this is known to be right.
        var version: UInt64
        /// The one service this was made from: as long as it is the same object, so is the answer.
        var serviceName: ObjectName?
        var service: Service?
    }

    let forwarder: Forwarder
    var counters = QueryCounters()
    var limiter: SourceRateLimiter
    private(set) var settings: EdgeDNSSettings
    private let loop: any EventLoop
    private let onProbe: @Sendable (String) -> Void
    private var zone: ClusterZone?
    private var snapshot = CatalogSnapshot()
    private var zoneAnswers: QuestionTable<ZoneEntry>
    private var cache: AnswerCache
    private var rotation = 0
    private var scratch = [UInt8](repeating: 0, count: 256)

    /// How long a client waits for a refresh before it gets the outdated answer (RFC 8767 section 5).
    static let stalePatience: Duration = .milliseconds(1800)

    private static let refused = PreparedAnswer(question: .root, responseCode: .refused)
    private static let serverFailure = PreparedAnswer(question: .root, responseCode: .serverFailure)
    private static let badVersion = PreparedAnswer(question: .root, responseCode: .badVersion)
    private static let formatError = PreparedAnswer(question: .root, responseCode: .formatError)
    /// RFC 8482 section 4.2: a made-up HINFO answers ANY. Its owner is a pointer to the question, whatever that is.
    private static let any: PreparedAnswer = {
        let name = (try? DomainName("any")) ?? .root
        let data = RecordData.opaque(.hinfo, [7] + Array("RFC8482".utf8) + [0])
        return PreparedAnswer(question: name, answers: [ResourceRecord(name, ttl: 3600, data)])
    }()
    private static let reverseSuffixes = ["in-addr.arpa", "ip6.arpa"].compactMap { try? DomainName($0).wire }

    /// - Parameter onProbe: called with the label of a loop probe that came in as a query.
    init(
        loop: any EventLoop,
        settings: EdgeDNSSettings,
        logger: Logger,
        onProbe: @escaping @Sendable (String) -> Void
    ) {
        self.loop = loop
        self.settings = settings
        self.onProbe = onProbe
        self.forwarder = Forwarder(loop: loop, settings: settings, logger: logger)
        self.limiter = SourceRateLimiter(limits: settings.sourceLimits)
        self.zoneAnswers = QuestionTable(capacity: settings.clusterCacheEntries)
        self.cache = AnswerCache(limits: settings.cacheLimits)
        self.forwarder.onEnd = { [weak self] question, outcome in self?.keep(outcome, of: question) }
    }

    var cacheSizes: (cluster: Int, upstream: Int, evictions: UInt64) {
        (self.zoneAnswers.count, self.cache.count, self.zoneAnswers.evictions &+ self.cache.evictions)
    }

    // MARK: State

    func apply(_ settings: EdgeDNSSettings, zone: ClusterZone?) {
        if zone != self.zone || settings.clusterCacheEntries != self.settings.clusterCacheEntries {
            self.zoneAnswers = QuestionTable(capacity: settings.clusterCacheEntries)
        }
        if settings.cacheLimits != self.settings.cacheLimits { self.cache = AnswerCache(limits: settings.cacheLimits) }
        if settings.sourceLimits != self.settings.sourceLimits {
            self.limiter = SourceRateLimiter(limits: settings.sourceLimits)
        }
        self.zone = zone
        self.settings = settings
        self.forwarder.apply(settings)
    }

    /// Answers made from older snapshots are checked against this one when they are next used.
    func apply(_ snapshot: CatalogSnapshot) {
        self.snapshot = snapshot
    }

    // MARK: Answering at once

    func respond(to bytes: UnsafeRawBufferPointer, overTCP: Bool, into buffer: inout ByteBuffer) -> Disposition {
        if overTCP { self.counters.overTCP &+= 1 } else { self.counters.overUDP &+= 1 }
        switch self.scratch.withUnsafeMutableBytes({ QueryHead.read(bytes, lowercasedName: $0) }) {
        case .ignore:
            self.counters.ignored &+= 1
            return .ignored
        case .refuse(let id, let flags, let code):
            self.counters.count(code)
            buffer.writeDNSHeaderReply(id: id, flags: flags, code: code)
            return .answered
        case .query(let head):
            let question = UnsafeRawBufferPointer(
                rebasing: bytes[QueryHead.questionOffset..<(QueryHead.questionOffset + head.questionLength)]
            )
            return self.respond(to: head, question, overTCP: overTCP, into: &buffer)
        }
    }

    private func respond(
        to head: QueryHead,
        _ question: UnsafeRawBufferPointer,
        overTCP: Bool,
        into buffer: inout ByteBuffer
    ) -> Disposition {
        self.counters.count(head.type)
        var options = PreparedAnswer.ReplyOptions(limit: overTCP ? 65_535 : self.udpLimit(head))
        options.payloadSize = self.settings.udpPayloadLimit
        options.recursionAvailable = !self.forwarder.pool.isEmpty
        self.rotation &+= 1
        options.rotation = self.rotation & 0xFFFF
        func write(_ answer: PreparedAnswer) -> Disposition {
            self.counters.count(answer.responseCode)
            answer.writeReply(to: head, question: question, options: options, into: &buffer)
            return .answered
        }
        if let edns = head.edns, edns.version > 0 { return write(QueryResponder.badVersion) }
        guard head.recordClass == .internet else { return write(QueryResponder.refused) }
        switch head.type {
        case .any: return write(QueryResponder.any)
        case .opt: return write(QueryResponder.formatError)
        // Zone transfers, and the meta types TKEY and TSIG.
        case .axfr, .ixfr, RecordType(rawValue: 249), RecordType(rawValue: 250): return write(QueryResponder.refused)
        default: break
        }
        var deferred: DeferredQuery?
        func makeDeferred(_ name: UnsafeRawBufferPointer) -> DeferredQuery {
            let name = DomainName(scratch: name, length: head.nameLength)
            return DeferredQuery(
                head: head,
                question: Array(question),
                name: name,
                limit: options.limit,
                target: name
            )
        }
        return self.withScratchName(head.nameLength) { name in
            switch self.zoneContent(name, head.type) {
            case .complete(let answer):
                self.counters.clusterAnswers &+= 1
                return write(answer)
            case .chase(let prefix, let target):
                deferred = makeDeferred(name)
                deferred?.prefix = prefix
                deferred?.target = target.lowercased
            case nil:
                if let hit = self.cachedAnswer(name, head) {
                    options.timeToLive = hit.timeToLive
                    if case .stale = hit.freshness { options.extendedError = hit.answer.staleError }
                    return write(hit.answer)
                }
                deferred = makeDeferred(name)
            }
            return deferred.map { .deferred($0) } ?? .ignored
        }
    }

    private func withScratchName<Result>(_ length: Int, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        self.scratch.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[..<length])) }
    }

    private func udpLimit(_ head: QueryHead) -> Int {
        guard let edns = head.edns else { return 512 }
        return max(512, Int(min(edns.payloadSize, self.settings.udpPayloadLimit)))
    }

    /// What the cluster zone says, from its kept answers if they are still right; nil if the name is outside.
    private func zoneContent(_ name: UnsafeRawBufferPointer, _ type: RecordType) -> ZoneEntry.Content? {
        guard let zone,
            name.hasSuffix(zone.domain.wire) || QueryResponder.reverseSuffixes.contains(where: name.hasSuffix)
        else { return nil }
        let tag = QuestionTable<ZoneEntry>.tag(type)
        if let place = self.zoneAnswers.find(name, tag) {
            if self.zoneAnswers[place].version != self.snapshot.version { self.revalidate(place) }
            if self.zoneAnswers[place].version == self.snapshot.version {
                self.zoneAnswers.touch(place)
                return self.zoneAnswers[place].content
            }
        }
        let owned = DomainName(scratch: name, length: name.count)
        let resolution = zone.resolve(owned, type, in: self.snapshot)
        let content: ZoneEntry.Content
        switch resolution.answer {
        case .outside: return nil
        case .chase(let prefix, let target): content = .chase(prefix: prefix, target: target)
        case .complete(let sections):
            content = .complete(
                PreparedAnswer(
                    question: owned,
                    responseCode: sections.responseCode,
                    flags: .authoritative,
                    answers: sections.answers,
                    authorities: sections.authorities,
                    additionals: sections.additionals
                )
            )
        }
        let service = resolution.service.flatMap { self.snapshot.services[$0] }
        let entry = ZoneEntry(
            content: content,
            version: self.snapshot.version,
            serviceName: resolution.service,
            service: service
        )
        self.zoneAnswers.insert(entry, for: name, tag)
        return content
    }

    private func revalidate(_ place: Int) {
        guard let name = self.zoneAnswers[place].serviceName, let service = self.zoneAnswers[place].service,
            self.snapshot.services[name] === service
        else { return }
        self.zoneAnswers[place].version = self.snapshot.version
    }

    private func cachedAnswer(_ name: UnsafeRawBufferPointer, _ head: QueryHead) -> AnswerCache.Hit? {
        let dnssecOK = head.edns?.dnssecOK ?? false
        let checkingDisabled = head.flags.contains(.checkingDisabled)
        let tag = QuestionTable<Void>.tag(head.type, flags: (dnssecOK ? 1 : 0) | (checkingDisabled ? 2 : 0))
        guard let hit = self.cache.find(name, tag, now: .now()) else {
            self.counters.cacheMisses &+= 1
            return nil
        }
        func refresh() {
            self.forwarder.resolve(
                UpstreamQuestion(
                    name: DomainName(scratch: name, length: name.count),
                    type: head.type,
                    dnssecOK: dnssecOK,
                    checkingDisabled: checkingDisabled
                )
            ) { _ in }
        }
        switch hit.freshness {
        case .fresh(let prefetch):
            self.counters.cacheHits &+= 1
            if prefetch {
                self.counters.prefetches &+= 1
                refresh()
            }
        case .stale(let mayServeNow):
            guard mayServeNow || !self.forwarder.pool.isAnyUp else { return nil }
            self.counters.staleAnswers &+= 1
            if !mayServeNow { refresh() }
        }
        return hit
    }

    // MARK: Answering later

    /// Asks upstreams and calls `deliver` with the reply, once, on the loop, perhaps before this returns.
    func resolve(_ query: DeferredQuery, deliver: @escaping (ByteBuffer) -> Void) {
        if let label = LoopGuard.label(of: query.target) { self.onProbe(label) }
        let question = UpstreamQuestion(
            name: query.target,
            type: query.head.type,
            dnssecOK: query.head.edns?.dnssecOK ?? false,
            checkingDisabled: query.head.flags.contains(.checkingDisabled)
        )
        let hit = query.target.wire.withUnsafeBytes { self.cache.find($0, question.tag, now: .now()) }
        if let hit, case .fresh = hit.freshness {
            return deliver(self.reply(to: query, hit))
        }
        var isDelivered = false
        var timer: Scheduled<Void>?
        func finish(_ reply: ByteBuffer) {
            guard !isDelivered else { return }
            isDelivered = true
            timer?.cancel()
            deliver(reply)
        }
        if let hit {
            timer = self.loop.assumeIsolated().scheduleTask(
                in: .nanoseconds(QueryResponder.stalePatience.saturatedNanoseconds)
            ) {
                self.counters.staleAnswers &+= 1
                finish(self.reply(to: query, hit))
            }
        }
        self.forwarder.resolve(question) { outcome in
            switch outcome {
            case .answer(let message) where message.responseCode != .serverFailure || hit == nil:
                finish(self.reply(to: query, message))
            case .answer, .failed:
                guard let hit else { return finish(self.failure(query)) }
                if !isDelivered { self.counters.staleAnswers &+= 1 }
                finish(self.reply(to: query, hit))
            }
        }
    }

    private func reply(to query: DeferredQuery, _ message: Message) -> ByteBuffer {
        var flags = message.flags.intersection(.authenticData)
        if !query.prefix.isEmpty { flags.insert(.authoritative) }
        if message.flags.contains(.truncated) { flags.insert(.truncated) }
        let answer = PreparedAnswer(
            question: query.name,
            responseCode: message.responseCode,
            flags: flags,
            answers: query.prefix + message.answers,
            authorities: message.authorities,
            additionals: message.additionals
        )
        return self.reply(to: query, answer)
    }

    private func reply(to query: DeferredQuery, _ hit: AnswerCache.Hit) -> ByteBuffer {
        var isStale = false
        if case .stale = hit.freshness { isStale = true }
        let error = isStale ? hit.answer.staleError : nil
        guard !query.prefix.isEmpty else {
            return self.reply(to: query, hit.answer, timeToLive: hit.timeToLive, error: error)
        }
        // The kept answer is made for the question of its own name: read it back, to put the aliases in front.
        var head = query.head
        head.nameLength = query.target.wire.count
        let question = query.target.wire + query.question.suffix(4)
        var options = PreparedAnswer.ReplyOptions(limit: 65_535)
        options.timeToLive = hit.timeToLive
        var bytes = ByteBuffer()
        question.withUnsafeBytes { hit.answer.writeReply(to: head, question: $0, options: options, into: &bytes) }
        guard let message = try? Message(parsing: bytes) else { return self.failure(query) }
        return self.reply(to: query, message)
    }

    private func failure(_ query: DeferredQuery) -> ByteBuffer {
        self.forwarder.pool.isEmpty
            ? self.reply(to: query, QueryResponder.refused, error: .notReady)
            : self.reply(to: query, QueryResponder.serverFailure, error: .noReachableAuthority)
    }

    private func reply(
        to query: DeferredQuery,
        _ answer: PreparedAnswer,
        timeToLive: PreparedAnswer.TimeToLive = .asPrepared,
        error: ExtendedError? = nil
    ) -> ByteBuffer {
        self.counters.count(answer.responseCode)
        var options = PreparedAnswer.ReplyOptions(limit: query.limit)
        options.payloadSize = self.settings.udpPayloadLimit
        options.recursionAvailable = !self.forwarder.pool.isEmpty
        options.timeToLive = timeToLive
        options.extendedError = error
        var buffer = ByteBuffer()
        query.question.withUnsafeBytes {
            answer.writeReply(to: query.head, question: $0, options: options, into: &buffer)
        }
        return buffer
    }

    private func keep(_ outcome: Forwarder.Outcome, of question: UpstreamQuestion) {
        question.name.wire.withUnsafeBytes { name in
            switch outcome {
            case .answer(let message) where message.responseCode != .serverFailure:
                let answer = PreparedAnswer(
                    question: question.name,
                    responseCode: message.responseCode,
                    flags: message.flags.intersection(.authenticData),
                    answers: message.answers,
                    authorities: message.authorities,
                    additionals: message.additionals
                )
                self.cache.store(answer, from: message, for: name, question.tag, now: .now())
            case .answer, .failed:
                self.cache.refreshFailed(name, question.tag, now: .now())
            }
        }
    }
}

extension PreparedAnswer {
    fileprivate var staleError: ExtendedError { self.responseCode == .nameError ? .staleNameError : .staleAnswer }
}

extension UnsafeRawBufferPointer {
    fileprivate func hasSuffix(_ suffix: [UInt8]) -> Bool {
        guard self.count >= suffix.count else { return false }
        return suffix.withUnsafeBytes { UnsafeRawBufferPointer(rebasing: self.suffix($0.count)).isEqual(to: $0) }
    }
}
