/// Why peers could not be found or a record not be stored.
public struct LibP2PDiscoveryError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        case malformed
        case timedOut
        case notFound
        case noPeers
        case limitExceeded
        case stopped
    }

    public var code: Code
    /// What failed, to whom, and what to check.
    public var message: String
    public var cause: (any Error)?

    public init(code: Code, message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        self.cause.map { "\(self.message): \($0)" } ?? self.message
    }
}
