import MeshInterfaces
import NIOCore
import Synchronization

/// On which of the loops the packets to each node are sent: that of its channel. Any thread.
final class NodeHomes: Sendable {
    private struct State {
        var handles: [PacketWorkerHandle] = []
        var indices: [ObjectIdentifier: Int] = [:]
        var homes: [String: Int] = [:]
    }

    private let state = Mutex(State())

    /// The workers, in the order of their indices. None once they are to stop.
    func replaceHandles(_ handles: [PacketWorkerHandle]) {
        self.state.withLock { state in
            state.handles = handles
            state.homes = [:]
            state.indices = Dictionary(
                handles.enumerated().map { (ObjectIdentifier($1.loop), $0) },
                uniquingKeysWith: { first, _ in first }
            )
        }
    }

    var handles: [PacketWorkerHandle] { self.state.withLock { $0.handles } }

    func handle(_ index: Int) -> PacketWorkerHandle? {
        self.state.withLock { $0.handles.indices.contains(index) ? $0.handles[index] : nil }
    }

    func index(of loop: any EventLoop) -> Int? { self.state.withLock { $0.indices[ObjectIdentifier(loop)] } }

    /// - Parameter index: is it from now on if there was none.
    func home(of node: String, orElse index: Int) -> Int {
        self.state.withLock { state in
            if let home = state.homes[node] { return home }
            state.homes[node] = index
            return index
        }
    }

    func move(_ node: String, to index: Int) {
        let handles = self.state.withLock { state -> [PacketWorkerHandle] in
            guard state.homes[node] != index, state.handles.indices.contains(index) else { return [] }
            state.homes[node] = index
            return state.handles
        }
        for handle in handles { handle.run { $0.moved(node, to: index) } }
    }

    func forget(_ node: String, at index: Int) {
        self.state.withLock { state in
            if state.homes[node] == index { state.homes[node] = nil }
        }
    }

    /// Hands a channel to the worker of its loop.
    func take(_ channel: PacketChannel, isOpened: Bool) {
        let handle = self.state.withLock { state in
            state.indices[ObjectIdentifier(channel.channel.eventLoop)].map { state.handles[$0] }
        }
        guard let handle else { return channel.channel.close(promise: nil) }
        handle.run { $0.take(channel, isOpened: isOpened) }
    }
}
