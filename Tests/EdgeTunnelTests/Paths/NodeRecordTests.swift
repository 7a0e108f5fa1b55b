import MeshCore
import MeshInterfaces
import NIOCore
import Testing

@testable import EdgeTunnel

@Suite
struct NodeRecordTests {
    private var generator = SeededGenerator(seed: 7)
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000_000)
    private let configuration = NodeRecord.Configuration()

    private func at(_ seconds: Double) -> NIODeadline { self.start + .nanoseconds(Int64(seconds * 1e9)) }

    private var record: NodeRecord { NodeRecord(self.configuration, now: self.start) }

    @Test("a node that nobody uses is idle again when its connection ends, and is not dialled")
    func unused() {
        var record = self.record
        record.connected(.direct, now: self.at(1))
        #expect(record.state == .up && record.kind == .direct && record.since == self.at(1))
        record.disconnected("gone", now: self.at(2))
        #expect(record.state == .idle && record.wakeTime == nil && !record.wake(now: self.at(100)))
    }

    @Test("a node in use is dialled at once when it is lost, and is down when no path answers in a moment")
    func lost() {
        var record = self.record
        record.used(now: self.at(0))
        record.connected(.relayed, now: self.at(1))
        record.disconnected("gone", now: self.at(2))
        #expect(record.state == .connecting && record.wake(now: self.at(2)))
        let isFirst = record.dialStarted(now: self.at(2))
        #expect(isFirst && !record.dialStarted(now: self.at(2)))
        #expect(!record.wake(now: self.at(3.9)) && record.state == .connecting)
        #expect(!record.wake(now: self.at(4)) && record.state == .down && record.problem == "gone")
        record.dialSucceeded()
        record.connected(.direct, now: self.at(5))
        #expect(record.state == .up && record.problem == nil && record.since == self.at(5))
    }

    /// When the tries that follow a failure come, until `count` have failed.
    private mutating func pauses(_ record: inout NodeRecord, from start: Double, _ count: Int) -> [Double] {
        var now = self.at(start)
        var pauses: [Double] = []
        for _ in 0..<count {
            let isFirst = record.dialStarted(now: now)
            #expect(isFirst)
            record.dialFailed("refused", now: now, using: &self.generator)
            #expect(record.state == .down && record.freshFailure(now: now) == "refused")
            guard let wake = record.wakeTime else { break }
            pauses.append((wake - now).inSeconds)
            #expect(!record.wake(now: wake - .milliseconds(1)) && record.wake(now: wake))
            now = wake
        }
        return pauses
    }

    @Test(
        "one that is down is dialled every two seconds for five minutes, then at growing intervals to thirty, at once with hope"
    )
    mutating func down() {
        var record = self.record
        record.used(now: self.at(0))
        let soon = self.pauses(&record, from: 0, 100)
        #expect(soon.count == 100 && soon[0] <= 1 && soon.allSatisfy { (0.5...2).contains($0) })
        #expect(record.failedDials == 100)
        let late = self.pauses(&record, from: 301, 10)
        #expect(late.count == 10 && late.allSatisfy { (1...30).contains($0) } && late[9] >= 15)
        let now = self.at(1000)
        let isFirst = record.dialStarted(now: now)
        #expect(isFirst)
        record.dialFailed("refused", now: now, using: &self.generator)
        record.hurry(now: now)
        #expect(record.wake(now: now) && record.freshFailure(now: now) == nil)
        record.connected(.direct, now: now)
        #expect(record.failedDials == 0)
    }

    @Test("a first dial that takes long leaves the node down, though it goes on")
    func slow() {
        var record = self.record
        record.used(now: self.at(0))
        let isFirst = record.dialStarted(now: self.at(0))
        #expect(isFirst && record.state == .connecting && record.wakeTime == self.at(5))
        #expect(!record.wake(now: self.at(5)) && record.state == .down)
    }

    @Test("loss is that of the last twenty probes")
    func loss() {
        var outcomes = ProbeOutcomes()
        #expect(outcomes.loss == 0)
        for index in 0..<4 { outcomes.add(index != 0) }
        #expect(outcomes.loss == 0.25)
        for _ in 0..<20 { outcomes.add(true) }
        #expect(outcomes.loss == 0)
    }
}

@Suite
struct LivenessProbeTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000_000)

    private func at(_ seconds: Double) -> NIODeadline { self.start + .nanoseconds(Int64(seconds * 1e9)) }

    private func signs(heard: Double, sent: Double, roundTrip: TimeAmount? = nil) -> LivenessProbe.Signs {
        LivenessProbe.Signs(heard: self.at(heard), sent: self.at(sent), roundTrip: roundTrip)
    }

    private var probe: LivenessProbe { LivenessProbe(.init(), now: self.start) }

    @Test("a peer that is heard is not asked")
    func heard() {
        var probe = self.probe
        for step in 1...100 {
            let now = Double(step) * 9
            // It owes nothing; and then an answer to what was sent just now.
            #expect(
                probe.look(self.signs(heard: now, sent: now - 1), now: self.at(now)) == .wait(until: self.at(now + 10))
            )
            #expect(
                probe.look(self.signs(heard: now, sent: now + 0.1), now: self.at(now + 0.5))
                    == .wait(until: self.at(now + 1))
            )
        }
    }

    @Test("one that owes an answer is asked after a second, suspect half a second later, and dead after ten of silence")
    func silent() {
        var probe = self.probe
        let silence = self.signs(heard: 1, sent: 1.2)
        #expect(probe.look(silence, now: self.at(1.9)) == .wait(until: self.at(2)))
        #expect(probe.look(silence, now: self.at(2)) == .ping(next: self.at(5)) && probe.wakeTime == self.at(2.5))
        #expect(probe.look(silence, now: self.at(2.4)) == .wait(until: self.at(2.5)) && !probe.isSuspect)
        #expect(probe.look(silence, now: self.at(2.5)) == .wait(until: self.at(5)) && probe.isSuspect)
        #expect(probe.look(silence, now: self.at(5)) == .ping(next: self.at(8)))
        #expect(probe.look(silence, now: self.at(8)) == .ping(next: self.at(11)))
        var other = probe
        #expect(probe.look(silence, now: self.at(11)) == .dead)
        #expect(other.look(self.signs(heard: 10, sent: 8), now: self.at(10.9)) == .wait(until: self.at(20)))
        #expect(!other.isSuspect)
    }

    @Test(
        "one that owes nothing is asked after ten seconds of silence; what was silent before nobody looked does not count"
    )
    func quiet() {
        var probe = LivenessProbe(.init(), now: self.at(100))
        let silence = self.signs(heard: 1, sent: 0.5)
        #expect(probe.look(silence, now: self.at(100)) == .wait(until: self.at(110)))
        guard case .ping = probe.look(silence, now: self.at(110)) else { return #expect(Bool(false), "it is asked") }
        #expect(probe.look(silence, now: self.at(110.5)) != .dead && probe.isSuspect)
        #expect(probe.look(silence, now: self.at(113)) == .dead)
    }

    @Test(
        "a far peer is not suspect before it can have answered; nobody has longer than five seconds",
        arguments: [(nil, 500), (100, 500), (700, 2100), (60_000, 5000)] as [(Int64?, Int64)]
    )
    func far(roundTrip: Int64?, patience: Int64) {
        #expect(LivenessProbe.Configuration().patience(roundTrip.map { .milliseconds($0) }) == .milliseconds(patience))
    }

    @Test("after a change of the network it is asked at once and has three seconds")
    func suspected() {
        var probe = self.probe
        let silence = self.signs(heard: 0.9, sent: 0)
        probe.suspect(now: self.at(1))
        #expect(probe.wakeTime == self.at(1))
        #expect(probe.look(silence, now: self.at(1)) == .ping(next: self.at(2)))
        #expect(probe.look(silence, now: self.at(4)) == .dead)
    }

    @Test("one that is suspect and is asked once more at once stays suspect until it is heard")
    func suspectedAnew() {
        var probe = self.probe
        let silence = self.signs(heard: 1, sent: 1.2)
        _ = probe.look(silence, now: self.at(2))
        _ = probe.look(silence, now: self.at(2.5))
        probe.suspect(now: self.at(2.7))
        #expect(probe.look(silence, now: self.at(2.7)) == .ping(next: self.at(3.7)) && probe.isSuspect)
        _ = probe.look(self.signs(heard: 2.8, sent: 2.7), now: self.at(2.8))
        #expect(!probe.isSuspect)
    }
}
