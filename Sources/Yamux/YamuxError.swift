/// What ended a yamux stream or session.
public struct YamuxError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        case protocolViolation
        case streamReset
        case sessionClosed
        case limitExceeded
        case remoteGoAway
        case keepAliveTimedOut
        case writeTimedOut
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

    static func violation(_ what: String) -> YamuxError {
        YamuxError(code: .protocolViolation, message: "the peer broke the yamux protocol: \(what)")
    }

    static func limit(_ what: String) -> YamuxError {
        YamuxError(code: .limitExceeded, message: what)
    }
}
