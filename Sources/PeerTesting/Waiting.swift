public import NIOCore

extension EventLoopFuture where Value: Sendable {
    /// The value, or an error that says what was waited for when it has not come in time: a test with a peer that falls silent ends.
    public func get(within limit: TimeAmount, for what: String) async throws -> Value {
        try await self.limited(to: limit, for: what).get()
    }

    /// A future that fails with what was waited for when this one has not completed in time.
    public func limited(to limit: TimeAmount, for what: String) -> EventLoopFuture<Value> {
        let promise = self.eventLoop.makePromise(of: Value.self)
        let timer = self.eventLoop.scheduleTask(in: limit) {
            promise.fail(TestPeerError("waited \(limit.nanoseconds / 1_000_000_000) s in vain for \(what)"))
        }
        self.whenComplete { result in
            timer.cancel()
            promise.completeWith(result)
        }
        return promise.futureResult
    }
}
