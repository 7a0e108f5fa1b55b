import MeshCore
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

    @Test("one that is down is dialled at growing intervals of a second to thirty, at once when there is hope")
    mutating func down() {
        var record = self.record
        record.used(now: self.at(0))
        var now = self.at(0)
        var pauses: [Double] = []
        for _ in 0..<10 {
            #expect(record.dialStarted(now: now))
            record.dialFailed("refused", now: now, using: &self.generator)
            #expect(record.state == .down && record.freshFailure(now: now) == "refused")
            guard let wake = record.wakeTime else { break }
            pauses.append((wake - now).inSeconds)
            #expect(!record.wake(now: wake - .milliseconds(1)) && record.wake(now: wake))
            now = wake
        }
        #expect(pauses.count == 10 && pauses[0] <= 1 && pauses.allSatisfy { (0.5...30).contains($0) })
        #expect(pauses[9] >= 15)
        #expect(record.dialStarted(now: now))
        record.dialFailed("refused", now: now, using: &self.generator)
        record.hurry(now: now)
        #expect(record.wake(now: now) && record.freshFailure(now: now) == nil)
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

    @Test("a peer that is heard is not asked")
    func heard() {
        var probe = LivenessProbe(.init(), reads: 0, now: self.start)
        for step in 1...100 {
            let now = self.at(Double(step) * 5)
            #expect(probe.look(reads: UInt64(step), now: now) == .wait(until: now + .seconds(5)))
        }
    }

    @Test("one that is silent is asked three times, and is dead at the timeout; any sign of life ends that")
    func silent() {
        var probe = LivenessProbe(.init(), reads: 0, now: self.start)
        #expect(probe.look(reads: 0, now: self.at(4.9)) == .wait(until: self.at(5)))
        var pings = 0
        var now = self.at(5)
        while case .ping(let next) = probe.look(reads: 0, now: now) {
            pings += 1
            now = next
        }
        #expect(pings == 3 && probe.look(reads: 0, now: self.at(10)) == .dead)
        var other = LivenessProbe(.init(), reads: 0, now: self.start)
        _ = other.look(reads: 0, now: self.at(5))
        #expect(other.look(reads: 1, now: self.at(9.9)) == .wait(until: self.at(14.9)))
    }

    @Test("after a change of the network it is asked at once and has three seconds")
    func suspected() {
        var probe = LivenessProbe(.init(), reads: 3, now: self.start)
        probe.suspect(now: self.at(1))
        #expect(probe.wakeTime == self.at(1))
        #expect(probe.look(reads: 3, now: self.at(1)) == .ping(next: self.at(2)))
        #expect(probe.look(reads: 3, now: self.at(4)) == .dead)
    }
}
