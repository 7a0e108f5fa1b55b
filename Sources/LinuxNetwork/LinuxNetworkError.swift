/// What went wrong between us and the kernel or its tools.
public struct LinuxNetworkError: Error, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// A system call or a netlink request failed with this errno.
        case system(Int32)
        /// Bytes from the kernel that do not parse.
        case malformed
        /// The kernel did not answer in time.
        case timeout
        /// A change was sent, but the answer was lost or late: whether it is in force is not known. Program everything anew.
        case unconfirmed
        /// More than a named bound allows.
        case tooLarge
        /// A tool ended with this status.
        case command(Int32)
        /// This host or configuration cannot do it.
        case unsupported
    }

    public var code: Code
    /// What failed, to what, and what to check.
    public var message: String
    /// What led to it, if that was an error itself.
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var errno: Int32? {
        if case .system(let number) = self.code { number } else { nil }
    }

    public var description: String {
        let text =
            switch self.code {
            case .system(let number): "\(self.message): \(errnoText(number))"
            default: self.message
            }
        return self.cause.map { "\(text) (\($0))" } ?? text
    }
}
