/// Why a relay refused, or a path through it failed.
public struct LibP2PRelayError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        case reservationRefused
        case resourceLimitExceeded
        case permissionDenied
        case connectionFailed
        case noReservation
        case malformed
        case unexpected
        case timedOut
        /// No direct connection came about, whatever was tried.
        case holePunchFailed
        /// A gateway does not map ports, or is not there.
        case mappingFailed
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
