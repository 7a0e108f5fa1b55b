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
        case resolutionFailed
        /// The peer that answered is another one.
        case peerMismatch
        /// The private networks' keys differ.
        case wrongPreSharedKey
        case handshakeFailed
        case listenFailed
        /// The peer or the address is this host's own.
        case selfDial
    }

    public var code: Code
    /// What failed, to whom, and what to check.
    public var message: String
    public var cause: (any Error)?
    /// Of a dial: each address that was tried or passed over, and why.
    public var attempts: [DialAttempt] = []

    public init(code: Code, message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        self.cause.map { "\(self.message): \($0)" } ?? self.message
    }
}
