import Logging
import MeshCore
import ServiceLifecycle

/// Runs a module and starts it again after a failure, with growing delays, so that one that cannot start (a port in use, a
/// missing capability) is reported and never takes the others down.
struct SupervisedModule: Service {
    let name: String
    let board: ModuleBoard
    let logger: Logger
    var backoff = Backoff(base: .seconds(1), cap: .seconds(60))
    /// A module that ran this long before it failed is started again after the shortest delay.
    var steadyAfter = Duration.seconds(120)
    /// Runs until shutdown; throws if the module cannot start or breaks. Calls `isUp` when it serves.
    let body: @Sendable (_ isUp: @escaping @Sendable () -> Void) async throws -> Void

    func run() async throws {
        var backoff = self.backoff
        while !Task.isCancelled, !Task.isShuttingDownGracefully {
            self.board.set(self.name, .starting)
            let began = MonotonicTime.now()
            do {
                let board = self.board
                let name = self.name
                try await self.body { board.set(name, .running) }
                break
            } catch is CancellationError {
                break
            } catch {
                if MonotonicTime.now() - began > self.steadyAfter { backoff.reset() }
                let delay = backoff.next()
                self.board.set(self.name, .failed, "\(error)")
                self.logger.error(
                    "A module failed and is started again",
                    metadata: [
                        "module": "\(self.name)", "error": "\(error)", "seconds": "\(Int(delay.inSeconds + 0.5))",
                    ]
                )
                await Self.sleep(delay)
            }
        }
        self.board.set(self.name, .stopped)
    }

    /// Ends early, and without an error, at shutdown.
    private static func sleep(_ duration: Duration) async {
        _ = try? await cancelWhenGracefulShutdown { try await Task.sleep(for: duration) }
    }
}
