/// What goes wrong with a simulation itself. Errors of its sockets are those of the kernel's (`IOError`, `ChannelError`).
public struct NetSimError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// The time that was given to a task is over.
        case outOfTime
        /// A task waits and nothing is left that could wake it.
        case stalled
        /// Code has left the simulated loop, so that no run is like another.
        case leftTheLoop
    }

    public var code: Code
    /// What failed and what to check.
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
