import MeshCore
import Testing

@testable import NetLab

private let millisecond: UInt64 = 1_000_000

@Suite struct LinkShaperTests {
    @Test func aPlainLinkHoldsNothing() {
        var shaper = LinkShaper(LinkConditions(), seed: 1)
        let departures = (0..<1000).map { shaper.departure(of: 1514, at: $0) }
        #expect(departures == Array(0..<1000))
    }

    @Test func everyFrameIsDelayed() {
        var shaper = LinkShaper(LinkConditions(delay: .milliseconds(50)), seed: 1)
        for time in stride(from: 0, to: 100 * millisecond, by: 777_777) {
            let departure = shaper.departure(of: 64, at: time)
            #expect(departure == time + 50 * millisecond)
        }
    }

    @Test func jitterSpreadsFramesAndKeepsTheirOrder() throws {
        var shaper = LinkShaper(LinkConditions(delay: .milliseconds(10), jitter: .milliseconds(4)), seed: 7)
        var last: UInt64 = 0
        var delays: Set<UInt64> = []
        // Far enough apart that none is held by the one before.
        for frame in 0..<1000 as Range<UInt64> {
            let now = frame * 20 * millisecond
            let planned = shaper.departure(of: 64, at: now)
            let departure = try #require(planned)
            #expect((6 * millisecond...14 * millisecond).contains(departure - now))
            #expect(departure >= last)
            last = departure
            delays.insert((departure - now) / millisecond)
        }
        #expect(delays.isSuperset(of: 6...13))
        // And close together.
        for frame in 0..<1000 as Range<UInt64> {
            let planned = shaper.departure(of: 64, at: 20_000 * millisecond + frame)
            let departure = try #require(planned)
            #expect(departure >= last)
            last = departure
        }
    }

    @Test(arguments: [0.001, 0.01, 0.2, 0.5])
    func asManyFramesAreLostAsAsked(loss: Double) {
        let seed = UInt64.random(in: 0...UInt64.max)
        var shaper = LinkShaper(LinkConditions(loss: loss), seed: seed)
        let count = 200_000.0
        let lost = (0..<Int(count)).count { _ in shaper.departure(of: 64, at: 0) == nil }
        // Six standard deviations: a wrong verdict in a thousand million runs.
        let slack = 6 * (count * loss * (1 - loss)).squareRoot()
        #expect(abs(Double(lost) - count * loss) <= slack, "\(lost) lost, seed \(seed)")
    }

    @Test func aCutLosesEverything() {
        var shaper = LinkShaper(LinkConditions(loss: 1), seed: 1)
        let departures = (0..<1000).map { shaper.departure(of: 64, at: $0) }
        #expect(departures.allSatisfy { $0 == nil })
        shaper.change(LinkConditions())
        let healed = shaper.departure(of: 64, at: 5)
        #expect(healed == 5)
    }

    @Test func aSlowLineSendsOneFrameAfterTheOtherAndItsQueueEnds() throws {
        // A frame of 1,000 bytes takes a millisecond.
        var shaper = LinkShaper(LinkConditions(delay: .milliseconds(5), bandwidth: 8_000_000), seed: 1)
        let departures = (0..<1000).map { _ in shaper.departure(of: 1000, at: 0) }
        let sent = departures.compactMap(\.self)
        #expect(sent == (1...UInt64(sent.count)).map { ($0 + 5) * millisecond })
        #expect(UInt64(sent.count) == LinkShaper.maximumQueueing / millisecond + 1)
        #expect(departures.suffix(1000 - sent.count).allSatisfy { $0 == nil })
        // Later the line is free again.
        let later = shaper.departure(of: 1000, at: 1000 * millisecond)
        #expect(later == 1006 * millisecond)
    }
}

@Suite struct LinkConditionsTests {
    @Test func changesAreReadAsShellsHaveThem() throws {
        var link = LinkConditions()
        for change in ["delay=50ms", "jitter=1.5ms", "loss=0.5%", "bandwidth=10Mbit", "down"] {
            try link.apply(change)
        }
        #expect(
            link
                == LinkConditions(
                    isUp: false,
                    delay: .milliseconds(50),
                    jitter: .microseconds(1500),
                    loss: 0.005,
                    bandwidth: 10_000_000
                )
        )
        #expect("\(link)" == "down, delay 50 ms, jitter 1.5 ms, loss 0.5 %, 10 Mbit/s")
        try link.apply("up")
        try link.apply("clear")
        #expect(link == LinkConditions())
        #expect("\(link)" == "" && !link.isShaped)
        try link.apply("delay=250us")
        #expect(link.delay == .microseconds(250) && link.isShaped)
    }

    @Test(arguments: [
        ("sideways", "use up, down, clear, delay=50ms"), ("delay=50", "use a time up to 10s, such as 50ms"),
        ("delay=-1ms", "such as 50ms"), ("delay=11s", "up to 10s"), ("loss=101%", "such as 1% or 0.5%"),
        ("loss=0.5", "such as 1% or 0.5%"), ("bandwidth=fast", "such as 512kbit"), ("bandwidth=1bit", "512kbit"),
        ("colour=red", "it has: delay, jitter, loss, bandwidth"), ("delay=nanms", "such as 50ms"),
    ])
    func whatCannotBeReadSaysWhatCan(change: String, mend: String) {
        var link = LinkConditions(delay: .seconds(1))
        #expect {
            try link.apply(change)
        } throws: { error in
            (error as? LabError)?.code == .usage && "\(error)".contains(mend)
        }
        #expect(link == LinkConditions(delay: .seconds(1)))
    }
}
