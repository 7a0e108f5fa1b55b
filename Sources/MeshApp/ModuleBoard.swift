import Documents
import MeshCore
import Synchronization

/// How each module of the agent is doing, for status and readiness. Any thread.
final class ModuleBoard: Sendable {
    enum State: String, Hashable, Sendable {
        case disabled
        case starting
        case running
        /// It failed and is started again after a delay.
        case failed
        case stopped
    }

    struct Entry: Hashable, Sendable {
        var state: State
        var message: String
        var since: MonotonicTime
        var failures = 0
    }

    private let entries = Mutex<[String: Entry]>([:])
    private let clock: @Sendable () -> MonotonicTime

    init(clock: @escaping @Sendable () -> MonotonicTime = { MonotonicTime.now() }) {
        self.clock = clock
    }

    func set(_ module: String, _ state: State, _ message: String = "") {
        let now = self.clock()
        self.entries.withLock { entries in
            var entry = entries[module] ?? Entry(state: state, message: message, since: now)
            if entry.state != state { entry.since = now }
            entry.state = state
            entry.message = message
            if state == .failed { entry.failures += 1 }
            entries[module] = entry
        }
    }

    func state(of module: String) -> State? {
        self.entries.withLock { $0[module]?.state }
    }

    /// What keeps the agent from being ready, in words.
    var notReady: [String] {
        self.entries.withLock { entries in
            entries.sorted { $0.key < $1.key }.compactMap { name, entry in
                switch entry.state {
                case .running, .disabled: nil
                default: "\(name) is \(entry.state.rawValue)\(entry.message.isEmpty ? "" : ": \(entry.message)")"
                }
            }
        }
    }

    var document: Document {
        let now = self.clock()
        return self.entries.withLock { entries in
            .object(
                entries.sorted { $0.key < $1.key }.map { name, entry in
                    .init(
                        name,
                        [
                            "state": .string(entry.state.rawValue), "message": .string(entry.message),
                            "forSeconds": .integer(Int64((now - entry.since).inSeconds)),
                            "failures": .integer(entry.failures),
                        ]
                    )
                }
            )
        }
    }
}
