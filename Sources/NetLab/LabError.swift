/// What went wrong in a lab, in words that say what to do.
public struct LabError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        /// The plan of the lab contradicts itself.
        case invalidPlan
        /// Arguments of a lab command or application.
        case usage
        /// Another process runs a lab of this name.
        case inUse
        /// The host does not allow what the lab needs.
        case notPermitted
        /// A program could not be started.
        case spawnFailed
        /// A program ran and failed.
        case commandFailed
        /// Something did not happen in time.
        case deadlineExceeded
        /// A file or directory of the lab.
        case file
    }

    public var code: Code
    public var message: String
    /// What the system or the failed program said.
    public var cause: String?

    public init(_ code: Code, _ message: String, cause: String? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        guard let cause, !cause.isEmpty else { return self.message }
        return "\(self.message): \(cause)"
    }
}
