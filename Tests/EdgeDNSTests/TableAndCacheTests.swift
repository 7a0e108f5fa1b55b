import DNSWire
import MeshCore
import Testing

@testable import EdgeDNS

@Suite struct QuestionTableTests {
    private func key(_ number: Int) -> [UInt8] { Array("name-\(number)".utf8) }

    /// Against a plain model: an array ordered by use.
    @Test(arguments: 1...4)
    func behavesAsALeastRecentlyUsedMap(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var table = QuestionTable<Int>(capacity: 20)
        var model: [(key: Int, value: Int)] = []
        for step in 0..<5000 {
            let number = Int.random(in: 0..<40, using: &generator)
            let key = self.key(number)
            let place = key.withUnsafeBytes { table.find($0, 1) }
            let index = model.firstIndex { $0.key == number }
            #expect((place == nil) == (index == nil), "seed \(seed) step \(step)")
            switch Int.random(in: 0..<4, using: &generator) {
            case 0, 1:
                key.withUnsafeBytes { table.insert(step, for: $0, 1) }
                if let index { model.remove(at: index) } else if model.count == 20 { model.removeFirst() }
                model.append((number, step))
            case 2:
                guard let place, let index else { continue }
                #expect(table[place] == model[index].value, "seed \(seed) step \(step)")
                table.touch(place)
                model.append(model.remove(at: index))
            default:
                guard let place, let index else { continue }
                table.remove(place)
                model.remove(at: index)
            }
            #expect(table.count == model.count, "seed \(seed) step \(step)")
        }
    }

    @Test func tellsTypesApart() {
        var table = QuestionTable<String>(capacity: 4)
        let key = self.key(1)
        key.withUnsafeBytes { name in
            table.insert("a", for: name, QuestionTable<String>.tag(.a))
            table.insert("aaaa", for: name, QuestionTable<String>.tag(.aaaa))
            table.insert("do", for: name, QuestionTable<String>.tag(.a, flags: 1))
            #expect(table.find(name, QuestionTable<String>.tag(.a)).map { table[$0] } == "a")
            #expect(table.find(name, QuestionTable<String>.tag(.aaaa)).map { table[$0] } == "aaaa")
            #expect(table.find(name, QuestionTable<String>.tag(.a, flags: 1)).map { table[$0] } == "do")
            #expect(table.find(name, QuestionTable<String>.tag(.srv)) == nil)
        }
    }

    @Test func countsWhatHadToGo() {
        var table = QuestionTable<Int>(capacity: 3)
        for number in 0..<10 { self.key(number).withUnsafeBytes { table.insert(number, for: $0, 0) } }
        #expect(table.count == 3)
        #expect(table.evictions == 7)
        #expect(self.key(6).withUnsafeBytes { table.find($0, 0) } == nil)
        #expect(self.key(7).withUnsafeBytes { table.find($0, 0) } != nil)
    }
}

@Suite struct AnswerCacheTests {
    static let start = MonotonicTime(nanoseconds: 1_000_000_000_000)

    private static func message(
        ttls: [UInt32],
        code: ResponseCode = .noError,
        soa: (ttl: UInt32, minimum: UInt32)? = nil
    ) throws -> Message {
        let name = try DomainName("www.example.org")
        var message = Message(id: 1, flags: .response, questions: [Question(name, .a)])
        message.responseCode = code
        message.answers = ttls.map { ResourceRecord(name, ttl: $0, .a(.loopback)) }
        if let soa {
            let data = StartOfAuthority(
                primary: name,
                mailbox: name,
                serial: 1,
                refresh: 1,
                retry: 1,
                expire: 1,
                minimum: soa.minimum
            )
            message.authorities = [ResourceRecord(name, ttl: soa.ttl, .soa(data))]
        }
        return message
    }

    private static func lifetimes() throws -> [(Message, UInt32?)] {
        [
            (try message(ttls: [300, 60]), 60), (try message(ttls: [9999]), 3600), (try message(ttls: [0]), 0),
            (try message(ttls: [], soa: (900, 100)), 100), (try message(ttls: [], soa: (50, 100)), 50),
            (try message(ttls: [], code: .nameError, soa: (900, 800)), 300), (try message(ttls: []), nil),
            (try message(ttls: [], code: .nameError), nil),
            (try message(ttls: [], code: .serverFailure, soa: (9, 9)), nil),
        ]
    }

    @Test func boundsLifetimes() throws {
        for (message, expected) in try AnswerCacheTests.lifetimes() {
            #expect(AnswerCache(limits: .init()).lifetime(of: message) == expected, "\(message)")
        }
    }

    private func cache(ttl: UInt32 = 60) throws -> (AnswerCache, [UInt8]) {
        var cache = AnswerCache(limits: .init())
        let message = try AnswerCacheTests.message(ttls: [ttl])
        let name = message.questions[0].name
        let answer = PreparedAnswer(question: name, answers: message.answers)
        name.wire.withUnsafeBytes { cache.store(answer, from: message, for: $0, 1, now: AnswerCacheTests.start) }
        return (cache, name.wire)
    }

    @Test func ages() throws {
        var (cache, name) = try self.cache()
        let hit = name.withUnsafeBytes { cache.find($0, 1, now: AnswerCacheTests.start + .seconds(20)) }
        #expect(hit?.freshness == .fresh(prefetch: false))
        guard case .aged(let age, let cap) = hit?.timeToLive else { throw DNSWireError(.truncated, "not aged") }
        #expect(age == 20)
        #expect(cap == 60)
        #expect(name.withUnsafeBytes { cache.find($0, 2, now: AnswerCacheTests.start) } == nil)
    }

    @Test func servesOutdatedAnswersForABoundedTime() throws {
        var (cache, name) = try self.cache()
        func freshness(after time: Duration) -> AnswerCache.Freshness? {
            name.withUnsafeBytes { cache.find($0, 1, now: AnswerCacheTests.start + time)?.freshness }
        }
        #expect(freshness(after: .seconds(60)) == .stale(mayServeNow: false))
        name.withUnsafeBytes { cache.refreshFailed($0, 1, now: AnswerCacheTests.start + .seconds(61)) }
        #expect(freshness(after: .seconds(62)) == .stale(mayServeNow: true))
        #expect(freshness(after: .seconds(66)) == .stale(mayServeNow: false))
        #expect(freshness(after: .seconds(60 + 86_400)) == nil)
        #expect(cache.count == 0)
    }

    @Test func asksAgainOnceForNamesInUse() throws {
        var (cache, name) = try self.cache()
        func isPrefetch(after seconds: Int) -> Bool {
            name.withUnsafeBytes { cache.find($0, 1, now: AnswerCacheTests.start + .seconds(seconds))?.freshness }
                == .fresh(prefetch: true)
        }
        #expect(!isPrefetch(after: 55))
        #expect(!isPrefetch(after: 55))
        #expect(!isPrefetch(after: 55))
        #expect(isPrefetch(after: 55))
        #expect(!isPrefetch(after: 56))
        // An upstream that fails is not asked for every hit.
        name.withUnsafeBytes { cache.refreshFailed($0, 1, now: AnswerCacheTests.start + .seconds(54)) }
        #expect(!isPrefetch(after: 57))
        #expect(isPrefetch(after: 59))
    }
}

@Suite struct SourceRateLimiterTests {
    private func limiter(_ rate: UInt32, burst: UInt32) -> SourceRateLimiter {
        var limits = SourceRateLimiter.Limits()
        (limits.rate, limits.burst) = (rate, burst)
        return SourceRateLimiter(limits: limits, seed: 1)
    }

    private func pass(_ limiter: inout SourceRateLimiter, _ source: String, count: Int, _ now: MonotonicTime) -> Bool {
        (0..<count).allSatisfy { _ in limiter.admit(ZoneFixtures.address(source), now: now) == .pass }
    }

    @Test func boundsEachSource() {
        var limiter = self.limiter(10, burst: 5)
        var now = MonotonicTime(nanoseconds: 5_000_000_000)
        let source = ZoneFixtures.address("10.0.0.1")
        let passed5 = self.pass(&limiter, "10.0.0.1", count: 5, now)
        #expect(passed5)
        let refused = (0..<4).map { _ in limiter.admit(source, now: now) }
        #expect(refused == [.drop, .truncate, .drop, .truncate])
        #expect(limiter.admit(ZoneFixtures.address("10.0.0.2"), now: now) == .pass)
        now = now + .milliseconds(200)
        let passed2 = self.pass(&limiter, "10.0.0.1", count: 2, now)
        #expect(passed2)
        #expect(limiter.admit(source, now: now) != .pass)
    }

    @Test(arguments: [3, 999, 1_500, 1_999, 5_000] as [UInt32])
    func givesASourceThatNeverPausesTheWholeRate(rate: UInt32) {
        var limiter = self.limiter(rate, burst: 10)
        let start = MonotonicTime(nanoseconds: 5_000_000_000)
        let source = ZoneFixtures.address("10.0.0.1")
        var passed: UInt32 = 0
        // Ten seconds, by steps in which less than one whole query comes due.
        for step in 0..<100_000 where limiter.admit(source, now: start + .microseconds(step * 100)) == .pass {
            passed += 1
        }
        #expect(passed >= rate * 10 && passed <= rate * 10 + 10, "\(passed)")
    }

    @Test func countsAnIPv6NetworkAsOneSourceAndLoopbackAsNone() {
        var limiter = self.limiter(1, burst: 1)
        let now = MonotonicTime(nanoseconds: 5_000_000_000)
        #expect(limiter.admit(ZoneFixtures.address("2001:db8::1"), now: now) == .pass)
        #expect(limiter.admit(ZoneFixtures.address("2001:db8::2"), now: now) != .pass)
        let loopback = self.pass(&limiter, "127.0.0.1", count: 10, now)
        #expect(loopback)
    }

    @Test func isOffAtRateZero() {
        var limiter = self.limiter(0, burst: 1)
        let now = MonotonicTime(nanoseconds: 1)
        let passed = self.pass(&limiter, "10.0.0.1", count: 10, now)
        #expect(passed)
    }
}
