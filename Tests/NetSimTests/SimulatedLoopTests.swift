import Dispatch
import NIOCore
import Synchronization
import Testing

@testable import NetSim

@Suite struct SimulatedLoopTests {
    private final class Log: Sendable {
        private let entries = Mutex<[String]>([])
        var all: [String] { self.entries.withLock { $0 } }
        func add(_ entry: String) { self.entries.withLock { $0.append(entry) } }
    }

    @Test func jobsRunInTheOrderOfTheirTimeThenOfTheirComing() {
        let (loop, log) = (SimulatedLoop(), Log())
        loop.scheduleTask(in: .seconds(2)) { log.add("d") }
        loop.scheduleTask(in: .seconds(1)) {
            log.add("b")
            loop.scheduleTask(in: .zero) { log.add("c1") }
            loop.execute { log.add("c2") }
            loop.scheduleTask(in: .zero) { log.add("c3") }
        }
        loop.scheduleTask(in: .seconds(2)) { log.add("e") }
        loop.execute { log.add("a") }
        loop.run(until: SimulatedLoop.start + .seconds(2))
        #expect(log.all == ["a", "b", "c1", "c2", "c3", "d", "e"])
        #expect(loop.now == SimulatedLoop.start + .seconds(2))
    }

    @Test func timeStopsAtTheLimitAndCancelledTasksDoNotRun() throws {
        let (loop, log) = (SimulatedLoop(), Log())
        let cancelled = loop.scheduleTask(in: .seconds(1)) { log.add("cancelled") }
        loop.scheduleTask(in: .seconds(3)) { log.add("late") }
        cancelled.cancel()
        loop.run(until: SimulatedLoop.start + .seconds(2))
        #expect(log.all.isEmpty)
        #expect(loop.now == SimulatedLoop.start + .seconds(2))
        loop.run(until: SimulatedLoop.start + .seconds(4))
        #expect(log.all == ["late"])
    }

    @Test func manyCancelledTimersLeaveTheirPlace() {
        var queue = EventQueue()
        let numbers = (0..<1000).map { queue.add(at: .uptimeNanoseconds(UInt64(1000 - $0)), {}) }
        for number in numbers.dropLast() {
            let job = queue.cancel(number)
            #expect(job != nil)
        }
        #expect(!queue.isEmpty)
        let next = queue.next(now: .uptimeNanoseconds(0), limit: .uptimeNanoseconds(5000))
        #expect(next?.time == .uptimeNanoseconds(1))
        #expect(queue.isEmpty)
    }

    @Test func tasksRunOnTheLoop() throws {
        try withSimulation(seed: 1) { simulation in
            let loop = simulation.loop
            let before = loop.now
            let sum =
                try simulation.run(within: .hours(2)) {
                    #expect(loop.inEventLoop)
                    try await loop.scheduleTask(in: .hours(1)) {}.futureResult.get()
                    #expect(loop.inEventLoop)
                    async let one = loop.scheduleTask(in: .seconds(1)) { 1 }.futureResult.get()
                    async let two = loop.scheduleTask(in: .seconds(1)) { 2 }.futureResult.get()
                    return try await one + two
                } as Int
            #expect(sum == 3)
            #expect(loop.now == before + .hours(1) + .seconds(1))
            #expect(!loop.inEventLoop)
        }
    }

    @Test func aTaskThatWaitsForNothingIsStalled() {
        withSimulation(seed: 1) { simulation in
            let promise = simulation.loop.makePromise(of: Void.self)
            let error = #expect(throws: NetSimError.self) {
                try simulation.run { try await promise.futureResult.get() }
            }
            #expect(error?.code == .stalled)
            promise.succeed()
        }
    }

    @Test func aTaskThatTakesTooLongIsOutOfTime() {
        withSimulation(seed: 1) { simulation in
            let loop = simulation.loop
            let error = #expect(throws: NetSimError.self) {
                try simulation.run(within: .seconds(10)) {
                    try await loop.scheduleTask(in: .seconds(11)) {}.futureResult.get()
                }
            }
            #expect(error?.code == .outOfTime)
        }
    }

    private static func onAnotherThread(_ body: @escaping @Sendable () -> Void) {
        // The loop's thread must not go on before; it waits for a thread of Dispatch, which never waits for it.
        let done = DispatchSemaphore(value: 0)
        DispatchQueue.global().async {
            body()
            done.signal()
        }
        done.wait()
    }

    @Test func codeThatLeavesTheLoopIsFoundOut() {
        withSimulation(seed: 1) { simulation in
            let loop = simulation.loop
            let error = #expect(throws: NetSimError.self) {
                try simulation.run {
                    Self.onAnotherThread { loop.execute {} }
                    try await loop.scheduleTask(in: .seconds(1)) {}.futureResult.get()
                }
            }
            #expect(error?.code == .leftTheLoop)
        }
    }
}
