/// A request as the fake server saw it.
public struct FakeKubeRequest: Hashable, Sendable {
    public var method: String
    /// Without the query.
    public var path: String
    public var query: [String: String]
    public var authorization: String?
    public var userAgent: String?
    public var accept: String?
    public var acceptEncoding: String?
    /// The collection, such as `services`; empty for other paths.
    public var plural = ""
    /// Counts connections, so that a test can tell whether one was used again.
    public var connection: Int

    public var isWatch: Bool { self.query["watch"] == "true" || self.query["watch"] == "1" }
    /// The first form that is accepted is `PartialObjectMetadata`, or a list of it.
    public var asksForMetadata: Bool { self.accept?.hasPrefix("application/json;as=PartialObjectMetadata") == true }
}

/// Something that goes wrong with the next requests that fit.
public struct FakeKubeFault: Sendable {
    public enum Effect: Hashable, Sendable {
        /// An error answer; `retryAfter` is in seconds.
        case status(Int, retryAfter: Int? = nil)
        /// The continue token has expired.
        case expired
        /// The connection is closed without an answer.
        case disconnect
        /// Answered as it should be, and then the connection is closed though it was to be kept, as a server or a proxy does
        /// when its time for idle connections is up.
        case closeAfter
        /// The body is cut after so many bytes and the connection closed.
        case truncate(bytes: Int)
        /// The body comes in pieces of this size with a pause after each.
        case drip(bytes: Int, pause: Duration)
        /// Answered 200 with this body, whatever was asked.
        case body([UInt8])
    }

    public enum Operation: Hashable, Sendable {
        case any
        case list
        case watch
        case patch
    }

    /// Nil: any collection.
    public var plural: String?
    public var operation: Operation
    public var effect: Effect
    /// How many requests it hits.
    public var times: Int

    public init(_ effect: Effect, on operation: Operation = .any, of plural: String? = nil, times: Int = 1) {
        self.effect = effect
        self.operation = operation
        self.plural = plural
        self.times = times
    }

    func hits(_ request: FakeKubeRequest) -> Bool {
        if let plural, plural != request.plural { return false }
        return switch self.operation {
        case .any: true
        case .patch: request.method == "PATCH"
        case .list: request.method == "GET" && !request.isWatch && !request.plural.isEmpty
        case .watch: request.isWatch
        }
    }
}
