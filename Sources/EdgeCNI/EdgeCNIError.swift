/// What went wrong in the path of pods' packets.
public struct EdgeCNIError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable {
        /// Bytes of a peer that are no frames of packets.
        case malformed
    }

    public let code: Code
    /// What failed, and what to check.
    public let message: String

    public init(code: Code, message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { self.message }
}
