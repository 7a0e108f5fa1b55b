import Documents
import Logging
import MeshCore
import ServiceLifecycle
import Synchronization
import Testing

@testable import MeshApp

@Suite(.timeLimit(.minutes(1))) struct SupervisionTests {
    struct Broken: Error {}

    @Test func aModuleThatFailsIsStartedAgainAndReported() async throws {
        let board = ModuleBoard()
        let attempts = Mutex(0)
        let module = SupervisedModule(
            name: "edgeDNS",
            board: board,
            logger: Logger(label: "test"),
            backoff: Backoff(base: .milliseconds(1), cap: .milliseconds(2))
        ) { isUp in
            let attempt = attempts.withLock { attempts in
                attempts += 1
                return attempts
            }
            guard attempt > 3 else {
                #expect(board.state(of: "edgeDNS") == .starting)
                throw Broken()
            }
            isUp()
            #expect(board.state(of: "edgeDNS") == .running)
        }
        try await module.run()
        #expect(attempts.withLock { $0 } == 4)
        #expect(board.document["edgeDNS"]?["failures"]?.integer == 3)
        #expect(board.state(of: "edgeDNS") == .stopped)
    }

    @Test func oneModuleThatNeverStartsLeavesTheOthersAlone() async throws {
        let board = ModuleBoard()
        let logger = Logger(label: "test")
        let (events, continuation) = AsyncStream.makeStream(of: String.self)
        let broken = SupervisedModule(
            name: "edgeProxy",
            board: board,
            logger: logger,
            backoff: Backoff(base: .milliseconds(1), cap: .milliseconds(1))
        ) { _ in
            continuation.yield("broken")
            throw Broken()
        }
        let sound = SupervisedModule(name: "edgeDNS", board: board, logger: logger) { isUp in
            isUp()
            try await gracefulShutdown()
        }
        let group = ServiceGroup(configuration: .init(services: [broken, sound], logger: logger))
        let running = Task { try await group.run() }
        var failures = 0
        for await _ in events {
            failures += 1
            if failures == 10 { break }
        }
        while board.state(of: "edgeDNS") != .running { await Task.yield() }
        #expect(board.notReady.contains { $0.hasPrefix("edgeProxy is") })
        #expect(!board.notReady.contains { $0.hasPrefix("edgeDNS") })
        await group.triggerGracefulShutdown()
        try await running.value
        #expect(board.state(of: "edgeDNS") == .stopped)
    }
}
