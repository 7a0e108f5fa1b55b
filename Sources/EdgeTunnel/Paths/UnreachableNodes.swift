import MeshInterfaces
import NIOCore
import Synchronization

/// Tells observers which nodes are unreachable, on one event loop, in order. Any thread.
final class UnreachableNodes: Sendable {
    private struct State {
        var nodes: Set<String> = []
        var receivers: [UInt64: @Sendable (Set<String>) -> Void] = [:]
        var nextID: UInt64 = 0
    }

    private let loop: any EventLoop
    private let state = Mutex(State())

    init(loop: any EventLoop) {
        self.loop = loop
    }

    func set(_ nodes: Set<String>) {
        let isNews = self.state.withLock { state in
            defer { state.nodes = nodes }
            return state.nodes != nodes
        }
        guard isNews else { return }
        self.loop.execute {
            // What is there now, so that nobody is told of a state that is over.
            let (nodes, receivers) = self.state.withLock { ($0.nodes, $0.receivers) }
            for receiver in receivers.sorted(by: { $0.key < $1.key }) { receiver.value(nodes) }
        }
    }

    func observe(_ receive: @escaping @Sendable (Set<String>) -> Void) -> TunnelObservation {
        let id = self.state.withLock { state in
            defer { state.nextID += 1 }
            state.receivers[state.nextID] = receive
            return state.nextID
        }
        self.loop.execute {
            guard let nodes = self.state.withLock({ $0.receivers[id] == nil ? nil : $0.nodes }) else { return }
            receive(nodes)
        }
        return TunnelObservation {
            self.state.withLock { $0.receivers[id] = nil }
        }
    }
}
