/// Why a connection could not be secured, or ended badly once it was.
public struct LibP2PSecurityError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// The other side is known to have another pre-shared key, or none.
        case wrongPreSharedKey
        /// The other side left after our first bytes without a valid one of its own: most often it has another key.
        case suspectedPreSharedKey
        case handshakeFailed
        case wrongPeer
        case malformed
        /// The connection ended where it may not: inside the handshake or inside a frame.
        case closed
        case timedOut
        /// A counter of the cipher is used up; the connection has to be made anew.
        case exhausted
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
