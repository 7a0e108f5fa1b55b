/// What the gateway could not do.
public struct GatewayError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, Hashable {
        /// A listener could not be opened.
        case listen
        /// A certificate or key is missing or no such thing.
        case certificate
        /// The process has no file descriptors left.
        case descriptors
        /// No endpoint of a service can be reached.
        case backend
        /// Bytes that are no TLS ClientHello.
        case clientHello
    }

    public let code: Code
    /// What failed, of whom, and what to look at. Never a secret.
    public let message: String
    public let cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String { self.cause.map { "\(self.message): \($0)" } ?? self.message }
}
