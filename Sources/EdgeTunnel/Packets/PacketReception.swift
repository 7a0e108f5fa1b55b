import MeshInterfaces
import Synchronization

/// Who takes the packets of other nodes; outlives the node that hands them over, which may be made anew. Any thread.
final class PacketReception: Sendable {
    typealias Taker = @Sendable (PacketChannel) -> Void

    private struct State {
        var taker: Taker?
        var changed: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())

    var taker: Taker? { self.state.withLock { $0.taker } }

    func set(_ taker: Taker?) {
        let changed = self.state.withLock { state in
            state.taker = taker
            return state.changed
        }
        changed?()
    }

    /// Calls `changed` when there is a taker, or none any more, instead of who was called before.
    func observe(_ changed: (@Sendable () -> Void)?) { self.state.withLock { $0.changed = changed } }
}
