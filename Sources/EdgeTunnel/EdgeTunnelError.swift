/// Why the tunnel of this node cannot run as it is set up.
public struct EdgeTunnelError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, Hashable, CaseIterable {
        case preSharedKey
        case identity
        case transport
        case listen
    }

    public let code: Code
    /// What is wrong and what mends it.
    public let message: String
    public let cause: (any Error)?

    public init(code: Code, message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String { self.cause.map { "\(self.message): \($0)" } ?? self.message }
}
