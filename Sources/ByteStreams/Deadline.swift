/// Runs `body`, cancels it when `duration` has passed and throws `ByteStreamsError.Code.deadlineExceeded` then.
///
/// `body` must end soon after its cancellation; what it returns late is dropped.
public func withDeadline<Value: Sendable>(
    _ duration: Duration,
    _ what: @autoclosure () -> String,
    clock: some Clock<Duration> = ContinuousClock(),
    _ body: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    let outcome: Value? = try await withThrowingTaskGroup(of: Value?.self) { group in
        group.addTask { try await body() }
        group.addTask {
            try await clock.sleep(for: duration)
            return nil
        }
        defer { group.cancelAll() }
        return try await group.next() ?? nil
    }
    guard let outcome else {
        throw ByteStreamsError(code: .deadlineExceeded, message: "\(what()) took longer than \(duration)")
    }
    return outcome
}
