import DequeModule
import MeshCore
import MeshInterfaces
import ServiceCatalog
import Synchronization

/// The policy in force, and what it has refused. Any thread; its index is made anew on that of whoever tells of a change.
final class TargetAccess: Sendable {
    /// A request that was turned down.
    struct Refused: Sendable, Hashable {
        /// The node of the peer, or its peer ID if no node is known by it.
        var peer: String
        var target: TransportAddress
        var transport: TransportProtocol
        var reason: TargetRefusal
        /// Wall-clock seconds since 1970.
        var time: UInt64
    }

    /// Refusals that are kept to be looked at.
    static let maximumRefused = 32

    private struct State {
        var policy: TargetPolicy
        var counts: [TargetRefusal: UInt64] = [:]
        var refused = Deque<Refused>()
    }

    private let index: Mutex<TargetIndex>
    private let state: Mutex<State>

    init(nodeName: String, settings: TargetAccessSettings = TargetAccessSettings()) {
        let index = TargetIndex(nodeName: nodeName, settings: settings)
        self.state = Mutex(State(policy: index.policy))
        self.index = Mutex(index)
    }

    // MARK: What it is made of

    /// The cluster has changed. Takes the time of the change's size; not for a data loop.
    func apply(_ update: CatalogUpdate) { self.change { $0.apply(update) } }

    func apply(_ settings: TargetAccessSettings) { self.change { $0.apply(settings) } }

    /// The addresses of this node's interfaces, whenever they change.
    func apply(interfaces: [IPAddress]) { self.change { $0.apply(interfaces: interfaces) } }

    private func change(_ body: (inout TargetIndex) -> Void) {
        // Published within the lock of the index, so that a later state is not replaced by an earlier one.
        self.index.withLock { index in
            body(&index)
            let policy = index.policy
            self.state.withLock { $0.policy = policy }
        }
    }

    // MARK: For data loops

    var policy: TargetPolicy { self.state.withLock { $0.policy } }

    func note(_ refused: Refused) {
        self.state.withLock { state in
            state.counts[refused.reason, default: 0] += 1
            if state.refused.count >= Self.maximumRefused { state.refused.removeFirst() }
            state.refused.append(refused)
        }
    }

    // MARK: For status and metrics

    var refusals: [TargetRefusal: UInt64] { self.state.withLock { $0.counts } }

    /// The last ones, the newest last.
    var lastRefused: [Refused] { self.state.withLock { Array($0.refused) } }
}
