/// What went wrong with a socket or a stream.
public struct ByteStreamsError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable, Hashable {
        case deadlineExceeded
        case listenFailed
        case optionRefused
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
