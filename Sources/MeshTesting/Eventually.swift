/// What `eventually` throws, which fails the test that waited in vain.
public struct NeverHappened: Error, CustomStringConvertible {
    public let description: String
}

/// Waits until `condition` holds and throws if it does not within `limit`.
///
/// For what happens in another task or thread and cannot be awaited; it looks every few milliseconds.
public func eventually(
    _ what: String,
    within limit: Duration = .seconds(60),
    fileID: StaticString = #fileID,
    line: UInt = #line,
    _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + limit
    while ContinuousClock.now < deadline {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(5))
    }
    throw NeverHappened(description: "\(fileID):\(line): not within \(limit): \(what)")
}
