import Logging
import MeshCore
import NIOCore
import Synchronization

extension Host {
    /// Tells observers and event streams something that has happened, or that a service upon the host has found out.
    public func emit(_ event: HostEvent) {
        let (observers, streams) = self.state.withLock { ($0.observers, $0.streams) }
        // In the order in which they came.
        for (_, observer) in observers.sorted(by: { $0.key < $1.key }) { observer(event) }
        var dropped: UInt64 = 0
        for stream in streams.values {
            if case .dropped = stream.yield(event) { dropped += 1 }
        }
        if dropped > 0 { self.state.withLock { $0.metrics.eventsDropped += dropped } }
    }

    /// Calls `observer` with every event, on the thread where it happens, after the fact. It must not block.
    public func observe(_ observer: @escaping @Sendable (HostEvent) -> Void) -> Observation {
        let id = self.state.withLock { state in
            let id = state.nextObserverID
            state.nextObserverID += 1
            state.observers[id] = observer
            return id
        }
        return Observation { [weak self] in
            self?.state.withLock { $0.observers[id] = nil }
        }
    }

    /// Events from now on, until the host is shut down. When `limit` of them wait, the oldest are dropped and counted.
    public func events(limit: Int = 256) -> AsyncStream<HostEvent> {
        let (stream, continuation) = AsyncStream.makeStream(
            of: HostEvent.self,
            bufferingPolicy: .bufferingNewest(limit)
        )
        let id = self.state.withLock { state -> UInt64? in
            guard state.phase == .running else { return nil }
            let id = state.nextObserverID
            state.nextObserverID += 1
            state.streams[id] = continuation
            return id
        }
        guard let id else {
            continuation.finish()
            return stream
        }
        continuation.onTermination = { [weak self] _ in
            // Taken out of the lock before it is released, as its release calls back.
            _ = self?.state.withLock { $0.streams.removeValue(forKey: id) }
        }
        return stream
    }

    /// Logs what was refused, at most a few times a minute however often it happens.
    func logRefusal(_ error: any Error, of what: @autoclosure () -> String) {
        let refusals = self.state.withLock { state -> Int? in
            state.refusalsUnlogged += 1
            guard state.refusalLog.take(now: MonotonicTime(self.clock.now)) else { return nil }
            defer { state.refusalsUnlogged = 0 }
            return state.refusalsUnlogged
        }
        guard let refusals else { return }
        self.logger.warning(
            "refused \(what())",
            metadata: ["error": "\(error)", "refusals-since-last": "\(refusals)"]
        )
    }
}

/// Keeps an observer registered until it is cancelled.
public struct Observation: Sendable {
    private let cancellation: @Sendable () -> Void

    init(_ cancellation: @escaping @Sendable () -> Void) {
        self.cancellation = cancellation
    }

    public func cancel() { self.cancellation() }
}
