import Synchronization

/// What somebody asks for, for whoever carries it out. Any thread.
final class WantedSet<Element: Hashable & Sendable>: Sendable {
    private struct State {
        /// Nil until somebody has asked, be it for nothing.
        var elements: Set<Element>?
        var requests: AsyncStream<Set<Element>>.Continuation?
    }

    private let state = Mutex(State())

    var elements: Set<Element> { self.state.withLock { $0.elements ?? [] } }

    /// Asks for these and nothing else; false if it is so already.
    @discardableResult
    func replace(with elements: Set<Element>) -> Bool {
        self.state.withLock { state in
            guard state.elements != elements else { return false }
            state.elements = elements
            state.requests?.yield(elements)
            return true
        }
    }

    /// What is asked for, once somebody has asked, and whenever it changes. One reader at a time.
    func requests() -> AsyncStream<Set<Element>> {
        let (stream, continuation) = AsyncStream.makeStream(of: Set<Element>.self, bufferingPolicy: .bufferingNewest(1))
        self.state.withLock { state in
            state.requests = continuation
            if let elements = state.elements { continuation.yield(elements) }
        }
        return stream
    }
}
