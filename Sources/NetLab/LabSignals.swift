import Synchronization
import UnixSignals

/// Removes labs when the process is interrupted.
enum LabSignals {
    /// Remembers the lab that has to go.
    final class Guardian: Sendable {
        private let lab = Mutex<Lab?>(nil)

        func protect(_ lab: Lab) {
            self.lab.withLock { $0 = lab }
        }

        /// Kills the lab's processes too, on which the interrupted work may wait.
        func remove() {
            try? self.lab.withLock { $0 }?.remove()
        }
    }

    /// Runs `body`, and removes the lab it has given to the guardian if SIGINT or SIGTERM comes.
    ///
    /// - Returns: False if a signal came.
    static func run(_ body: @escaping @Sendable (Guardian) async -> Void) async throws -> Bool {
        let guardian = Guardian()
        let signals = await UnixSignalsSequence(trapping: [.sigint, .sigterm])
        return await withTaskGroup(of: Bool.self) { group in
            group.addTask {
                await body(guardian)
                return true
            }
            group.addTask {
                for await _ in signals { break }
                return false
            }
            let isFinished = await group.next() ?? false
            // First, so that the work knows why its commands die.
            group.cancelAll()
            if !isFinished { guardian.remove() }
            return isFinished
        }
    }
}
