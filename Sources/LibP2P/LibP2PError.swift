/// Why a peer could not be reached or a stream not be opened.
public struct LibP2PError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        case dialFailed
        case noAddresses
        case protocolNotSupported
        case limitExceeded
        case timedOut
        case connectionClosed
        case malformed
        case shutDown
        case notAllowed
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
