/// What went wrong between us and the kernel or its tools.
public struct LinuxNetworkError: Error, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// A system call or a netlink request failed with this errno.
        case system(Int32)
        /// Bytes from the kernel that do not parse.
        case malformed
        /// The kernel did not answer in time.
        case timeout
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

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var errno: Int32? {
        if case .system(let number) = self.code { number } else { nil }
    }

    public var description: String {
        switch self.code {
        case .system(let number): "\(self.message): \(errnoText(number))"
        default: self.message
        }
    }
}
