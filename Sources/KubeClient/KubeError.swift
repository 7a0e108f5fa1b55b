/// A failure to reach, to trust or to understand an API server. The message names the file, key or server and what to
/// mend.
public struct KubeError: Error, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// A kubeconfig, URL or key that cannot be used as written.
        case invalidConfiguration
        /// No usable token, password, certificate or exec plugin result.
        case credentials
        case tls
        case connect
        case timeout
        case disconnected
        /// The server answered with something that is not its protocol.
        case malformedResponse
        /// A bound of this client was passed.
        case tooLarge
        case status(Int)
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        guard let cause = self.cause else { return self.message }
        return "\(self.message) (\(cause))"
    }
}
