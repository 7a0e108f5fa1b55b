import Glibc
import Logging
import MeshCore
import Testing

@testable import MeshApp

@Suite struct KlogFormatTests {
    /// 2026-11-21 06:30:00.123456 in the zone of the machine.
    static var moment: timespec {
        var parts = tm()
        parts.tm_year = 126
        parts.tm_mon = 10
        parts.tm_mday = 21
        parts.tm_hour = 6
        parts.tm_min = 30
        parts.tm_isdst = -1
        return timespec(tv_sec: mktime(&parts), tv_nsec: 123_456_789)
    }

    @Test(arguments: [
        (Logger.Level.info, "I"), (.debug, "I"), (.notice, "I"), (.warning, "W"), (.error, "E"), (.critical, "F"),
    ])
    func lineHasKlogsForm(level: Logger.Level, letter: String) {
        let line = KlogFormat.line(
            level: level,
            time: Self.moment,
            processID: 1234,
            file: "MeshApp/Agent.swift",
            line: 7,
            message: "Started",
            metadata: ["service": "default/web", "reason": "two words", "count": "3"]
        )
        #expect(
            line == "\(letter)1121 06:30:00.123456    1234 Agent.swift:7] Started count=3 reason=\"two words\" "
                + "service=default/web\n"
        )
    }

    @Test func hostileTextStaysOnOneLine() {
        let line = KlogFormat.line(
            level: .info,
            time: Self.moment,
            processID: 1,
            file: "F.swift",
            line: 1,
            message: "a\nE1121 forged",
            metadata: ["k": "x\ny \"q\"", "empty": ""]
        )
        #expect(line.filter { $0 == "\n" }.count == 1)
        #expect(line.hasSuffix(#"a E1121 forged empty="" k="x\ny \"q\"""# + "\n"))
    }

    @Test(arguments: [(0, Logger.Level.info), (3, .info), (4, .debug), (5, .debug), (6, .trace), (99, .trace)])
    func verbosity(number: Int, level: Logger.Level) {
        #expect(KlogHandler.level(forVerbosity: number) == level)
    }
}

@Suite struct LogRateLimiterTests {
    private func time(_ seconds: Double) -> MonotonicTime { MonotonicTime(nanoseconds: UInt64(seconds * 1e9) + 1) }

    @Test func aPlaceIsBoundedAndSaysHowMuchItKeptBack() {
        var limiter = LogRateLimiter()
        let place = LogRateLimiter.Place(file: "A.swift", line: 1)
        let written = (0..<1000).count { _ in limiter.check(place, now: self.time(0)) != .suppress }
        #expect(written == Int(LogRateLimiter.burst))
        #expect(limiter.check(place, now: self.time(5)) == .write(suppressed: 980))
        #expect(limiter.suppressedTotal == 980)
    }

    @Test func placesDoNotDisturbEachOther() {
        var limiter = LogRateLimiter()
        for _ in 0..<100 { _ = limiter.check(.init(file: "A.swift", line: 1), now: self.time(0)) }
        #expect(limiter.check(.init(file: "A.swift", line: 2), now: self.time(0)) == .write(suppressed: 0))
    }

    @Test func theTableIsBounded() {
        var limiter = LogRateLimiter(capacity: 8)
        for line in 0..<100 {
            _ = limiter.check(.init(file: "A.swift", line: UInt(line)), now: self.time(Double(line)))
            #expect(limiter.count <= 8)
        }
        // The newest is remembered, the oldest was forgotten.
        #expect(limiter.count == 8)
    }
}
