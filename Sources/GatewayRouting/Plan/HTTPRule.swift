/// The rules of all hosts of one listener.
public struct HTTPHosts: Sendable, Hashable {
    public struct Host: Sendable, Hashable {
        public var pattern: HostPattern
        /// In order: the first that matches is in force.
        public var rules: [HTTPRule]
        /// Plain HTTP is sent to HTTPS with 301.
        public var redirectsToHTTPS: Bool

        public init(pattern: HostPattern, rules: [HTTPRule], redirectsToHTTPS: Bool = false) {
            self.pattern = pattern
            self.rules = rules
            self.redirectsToHTTPS = redirectsToHTTPS
        }
    }

    /// Each pattern once, most specific first.
    public var hosts: [Host] {
        didSet { self.patterns = HostIndex(self.hosts.map(\.pattern)) }
    }
    private(set) var patterns: HostIndex

    public init(_ hosts: [Host] = []) {
        self.hosts = hosts
        self.patterns = HostIndex(hosts.map(\.pattern))
    }

    public static func == (lhs: Self, rhs: Self) -> Bool { lhs.hosts == rhs.hosts }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.hosts) }
}

/// What is done with requests of a kind.
public struct HTTPRule: Sendable, Hashable {
    public enum Action: Sendable, Hashable {
        case forward([WeightedBackend])
        case redirect(HTTPRedirect)
        case respond(DirectResponse)
    }

    /// Where it was written, for the access log and status: `HTTPRoute default/web rule 2`.
    public var origin: String
    /// One of them must hold; without any, every request does.
    public var matches: [HTTPMatch]
    public var filters: HTTPFilters
    public var action: Action
    /// Of the whole request, retries and all; nil for none.
    public var timeout: Duration?
    /// Of each try.
    public var tryTimeout: Duration?
    public var retries: RetryPolicy?
    public var mirrors: [Mirror]
    public var cors: CORSPolicy?
    public var fault: FaultInjection?
    /// Of Gateway API's session persistence: a cookie or header; nil for none.
    public var persistence: SessionPersistence?

    public init(origin: String, matches: [HTTPMatch], action: Action) {
        self.origin = origin
        self.matches = matches
        self.action = action
        self.filters = HTTPFilters()
        self.mirrors = []
    }
}

/// All of its parts must hold.
public struct HTTPMatch: Sendable, Hashable {
    public var path: PathMatch?
    public var method: TextMatch?
    public var scheme: TextMatch?
    public var authority: TextMatch?
    /// Names in lower case.
    public var headers: [NamedMatch]
    public var withoutHeaders: [NamedMatch]
    public var query: [NamedMatch]
    /// Of the listener.
    public var port: UInt16?

    public init(path: PathMatch? = nil) {
        self.path = path
        self.headers = []
        self.withoutHeaders = []
        self.query = []
    }
}

public enum PathMatch: Sendable, Hashable {
    case exact(String, ignoresCase: Bool)
    /// Istio's: any text that begins so.
    case prefix(String, ignoresCase: Bool)
    /// Gateway API's `PathPrefix`: whole elements of the path.
    case elements(String)
    case regex(BoundedRegex)
}

public enum TextMatch: Sendable, Hashable {
    /// Any value, if there is one.
    case present
    case exact(String)
    case prefix(String)
    case regex(BoundedRegex)
}

public struct NamedMatch: Sendable, Hashable {
    public var name: String
    public var value: TextMatch

    public init(name: String, value: TextMatch) {
        self.name = name
        self.value = value
    }
}

/// What is changed in a request on its way, and in its response.
public struct HTTPFilters: Sendable, Hashable {
    public var request: HeaderEdits
    public var response: HeaderEdits
    public var path: PathRewrite?
    /// The new `Host`.
    public var authority: String?

    public init() {
        self.request = HeaderEdits()
        self.response = HeaderEdits()
    }

    public var isEmpty: Bool {
        self.request.isEmpty && self.response.isEmpty && self.path == nil && self.authority == nil
    }
}

/// Applied in this order: removed, set, added.
public struct HeaderEdits: Sendable, Hashable {
    public struct Field: Sendable, Hashable {
        public var name: String
        public var value: String

        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    public var set: [Field]
    public var add: [Field]
    public var remove: [String]

    public init(set: [Field] = [], add: [Field] = [], remove: [String] = []) {
        self.set = set
        self.add = add
        self.remove = remove
    }

    public var isEmpty: Bool { self.set.isEmpty && self.add.isEmpty && self.remove.isEmpty }
}

public enum PathRewrite: Sendable, Hashable {
    case full(String)
    /// What the match's prefix has matched becomes this text.
    case prefix(String)
    /// As Istio's `uriRegexRewrite`.
    case regex(BoundedRegex, substitution: String)
}

public struct HTTPRedirect: Sendable, Hashable {
    public enum Port: Sendable, Hashable {
        /// None if the scheme is named, else that of the listener.
        case automatic
        case number(UInt16)
        /// That of the request's `Host`.
        case ofRequest
        /// Whatever the scheme has.
        case omitted
    }

    public var scheme: String?
    public var host: String?
    public var port: Port
    public var path: PathRewrite?
    public var status: UInt16

    public init(status: UInt16 = 302) {
        self.status = status
        self.port = .automatic
    }
}

public struct DirectResponse: Sendable, Hashable {
    public var status: UInt16
    public var body: [UInt8]

    public init(status: UInt16, body: [UInt8] = []) {
        self.status = status
        self.body = body
    }
}

public struct RetryPolicy: Sendable, Hashable {
    public enum Condition: Sendable, Hashable {
        /// Nothing of the request has reached the backend: safe for every method.
        case connectFailure
        case refusedStream
        case reset
        case gatewayError
        case serverError
        case retriable4xx
        case status(UInt16)
    }

    /// After the first try.
    public var attempts: Int
    public var conditions: Set<Condition>
    public var backoff: Duration

    public init(attempts: Int, conditions: Set<Condition>, backoff: Duration = .milliseconds(25)) {
        self.attempts = attempts
        self.conditions = conditions
        self.backoff = backoff
    }
}

/// Copies of requests, whose answers are thrown away.
public struct Mirror: Sendable, Hashable {
    public var backend: Backend
    /// Of a million.
    public var share: UInt32

    public init(backend: Backend, share: UInt32) {
        self.backend = backend
        self.share = share
    }
}

/// Methods and headers may hold `*`, for any.
public struct CORSPolicy: Sendable, Hashable {
    public var origins: [TextMatch]
    public var methods: [String]
    public var headers: [String]
    public var exposedHeaders: [String]
    public var maximumAge: Duration?
    public var allowsCredentials: Bool
    /// Origins that are not allowed are the backend's to refuse, as Istio has it.
    public var forwardsUnmatchedPreflights: Bool

    public init(origins: [TextMatch]) {
        self.origins = origins
        self.methods = []
        self.headers = []
        self.exposedHeaders = []
        self.allowsCredentials = false
        self.forwardsUnmatchedPreflights = false
    }
}

public struct FaultInjection: Sendable, Hashable {
    public var delay: Duration?
    /// Of a million.
    public var delayShare: UInt32
    public var abortStatus: UInt16?
    public var abortShare: UInt32

    public init() {
        self.delayShare = 0
        self.abortShare = 0
    }
}

public struct SessionPersistence: Sendable, Hashable {
    public enum Carrier: Sendable, Hashable { case cookie, header }
    public var carrier: Carrier
    public var name: String
    public var absoluteTimeout: Duration?

    public init(carrier: Carrier, name: String) {
        self.carrier = carrier
        self.name = name
    }
}
