/// networking.istio.io Gateway.
public struct IstioGatewaySpec: Hashable, Sendable {
    public enum TLSMode: String, Hashable, Sendable, CaseIterable {
        case passthrough = "PASSTHROUGH"
        case simple = "SIMPLE"
        case mutual = "MUTUAL"
        case optionalMutual = "OPTIONAL_MUTUAL"
        case autoPassthrough = "AUTO_PASSTHROUGH"
        case istioMutual = "ISTIO_MUTUAL"
    }

    public struct TLS: Hashable, Sendable {
        public var httpsRedirect = false
        /// Nil if it is not written.
        public var mode: TLSMode?
        public var credentialNames: [String] = []
        /// `serverCertificate`, `privateKey` or `caCertificates`: files of the proxy's own machine.
        public var namesFiles = false
        public var subjectAltNames: [String] = []
        public var minimumVersion: String?
        public var maximumVersion: String?
        public var cipherSuites: [String] = []
    }

    public struct Server: Hashable, Sendable {
        public var name: String
        public var port: UInt16
        /// As written, such as `HTTP`.
        public var portProtocol: String
        public var bind: String?
        public var hosts: [String]
        public var tls: TLS?
    }

    public var selector: [String: String] = [:]
    public var servers: [Server] = []
}

/// networking.istio.io VirtualService.
public struct VirtualServiceSpec: Hashable, Sendable {
    public var hosts: [String]
    /// Empty for the mesh's own traffic, which no gateway serves.
    public var gateways: [String]
    /// Empty for every namespace.
    public var exportTo: [String]
    public var http: [HTTP]
    public var tls: [Stream]
    public var tcp: [Stream]

    public enum StringMatch: Hashable, Sendable {
        case exact(String)
        case prefix(String)
        case regex(String)
        /// An object without any of these: any value.
        case present
    }

    public struct Match: Hashable, Sendable {
        public var uri: StringMatch?
        public var ignoresUriCase = false
        public var scheme: StringMatch?
        public var method: StringMatch?
        public var authority: StringMatch?
        /// In order of their names.
        public var headers: [Named<StringMatch>] = []
        public var withoutHeaders: [Named<StringMatch>] = []
        public var queryParams: [Named<StringMatch>] = []
        public var port: UInt16?
        public var gateways: [String] = []
        /// `sourceLabels` or `sourceNamespace`, which nothing from outside has.
        public var asksForSource = false
    }

    public struct Named<Value: Hashable & Sendable>: Hashable, Sendable {
        public var name: String
        public var value: Value
    }

    public struct Destination: Hashable, Sendable {
        public var host: String
        public var subset: String?
        public var port: UInt16?
    }

    public struct WeightedDestination: Hashable, Sendable {
        public var destination: Destination
        public var weight: UInt32?
        public var headers: Headers
    }

    public struct HeaderOperations: Hashable, Sendable {
        public var set: [Named<String>] = []
        public var add: [Named<String>] = []
        public var remove: [String] = []
    }

    public struct Headers: Hashable, Sendable {
        public var request = HeaderOperations()
        public var response = HeaderOperations()
    }

    public struct Redirect: Hashable, Sendable {
        public var uri: String?
        public var authority: String?
        public var scheme: String?
        public var port: UInt16?
        /// `FROM_REQUEST_PORT` or `FROM_PROTOCOL_DEFAULT`.
        public var derivePort: String?
        public var code: UInt16?
    }

    public struct DirectResponse: Hashable, Sendable {
        public var status: UInt16
        public var body: String
    }

    public struct Rewrite: Hashable, Sendable {
        public var uri: String?
        public var authority: String?
        public var regexMatch: String?
        public var regexRewrite: String?
    }

    public struct Retries: Hashable, Sendable {
        public var attempts: Int
        public var perTryTimeout: Duration?
        public var conditions: [String]
        public var backoff: Duration?
    }

    public struct Fault: Hashable, Sendable {
        public var delay: Duration?
        /// In percent.
        public var delayPercentage: Double?
        public var abortStatus: UInt16?
        /// `grpcStatus` or another form that is no HTTP status.
        public var abortsOtherwise = false
        public var abortPercentage: Double?
    }

    public struct Mirror: Hashable, Sendable {
        public var destination: Destination
        /// In percent.
        public var percentage: Double?
    }

    public struct CORS: Hashable, Sendable {
        public var origins: [StringMatch] = []
        public var methods: [String] = []
        public var headers: [String] = []
        public var exposedHeaders: [String] = []
        public var maximumAge: Duration?
        public var allowsCredentials = false
    }

    public struct HTTP: Hashable, Sendable {
        public var name: String
        public var matches: [Match] = []
        public var route: [WeightedDestination] = []
        public var redirect: Redirect?
        public var directResponse: DirectResponse?
        public var delegate: String?
        public var rewrite: Rewrite?
        public var timeout: Duration?
        public var retries: Retries?
        public var fault: Fault?
        public var mirrors: [Mirror] = []
        public var cors: CORS?
        public var headers = Headers()
    }

    public struct StreamMatch: Hashable, Sendable {
        public var sniHosts: [String] = []
        public var port: UInt16?
        public var gateways: [String] = []
        /// `sourceLabels`, `sourceNamespace` or subnets, which nothing from outside has or which are not looked at.
        public var asksForSource = false
    }

    /// A route of `tls` or `tcp`.
    public struct Stream: Hashable, Sendable {
        public var matches: [StreamMatch]
        public var route: [WeightedDestination]
    }
}
