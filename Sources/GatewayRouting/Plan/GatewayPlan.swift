public import MeshCore

/// What the gateway is to serve: made of the cluster's objects, carried out by its listeners. A value; equal objects make equal plans,
/// so that only what has changed is touched.
public struct GatewayPlan: Sendable, Hashable {
    /// By port, each key once.
    public var listeners: [ListenerPlan]

    public init(listeners: [ListenerPlan] = []) {
        self.listeners = listeners
    }
}

/// One port on one address, or on every address that the gateway is to use.
public struct ListenerPlan: Sendable, Hashable {
    public struct Key: Sendable, Hashable {
        public var transport: TransportProtocol
        /// Nil for every address of the selected interfaces.
        public var address: IPAddress?
        public var port: UInt16

        public init(transport: TransportProtocol, address: IPAddress? = nil, port: UInt16) {
            self.transport = transport
            self.address = address
            self.port = port
        }
    }

    public enum Service: Sendable, Hashable {
        /// HTTP/1.1 and HTTP/2 with prior knowledge, in the clear.
        case http(HTTPHosts)
        /// TLS: the first server whose hosts hold the name that the client asks for, most specific first.
        case tls([TLSServer])
        /// Bytes, or datagrams if the listener's transport is UDP.
        case stream(StreamRoute)
    }

    public var key: Key
    public var service: Service
    /// The objects that asked for it, for status: `Gateway default/web` and the like.
    public var origins: [String]

    public init(key: Key, service: Service, origins: [String]) {
        self.key = key
        self.service = service
        self.origins = origins
    }
}

/// What is behind one name on a TLS port.
public struct TLSServer: Sendable, Hashable {
    public enum Service: Sendable, Hashable {
        case http(HTTPHosts)
        case stream(StreamRoute)
    }

    public var hosts: [HostPattern]
    /// Nil passes the encrypted bytes on as they are; then `service` is a stream.
    public var termination: TLSTermination?
    public var service: Service

    public init(hosts: [HostPattern], termination: TLSTermination?, service: Service) {
        self.hosts = hosts
        self.termination = termination
        self.service = service
    }
}

/// How TLS ends at the gateway.
public struct TLSTermination: Sendable, Hashable {
    public enum Version: UInt8, Sendable, Hashable, Comparable {
        case tls10, tls11, tls12, tls13
        public static func < (lhs: Self, rhs: Self) -> Bool { lhs.rawValue < rhs.rawValue }
    }

    public enum ClientCertificates: Sendable, Hashable {
        case ignored
        /// Asked for, and any let in, or none.
        case unverified
        /// Verified if the client shows one.
        case optional
        case required
    }

    /// Secrets with `tls.crt` and `tls.key`; the one that fits the name asked for is shown, else the first.
    public var certificates: [ObjectName]
    public var clientCertificates: ClientCertificates
    /// Secrets and ConfigMaps with `ca.crt` or `cacert`, against which client certificates are verified; empty for `ca.crt` of `certificates`.
    public var authorities: [ObjectName]
    /// Names of which a client certificate must hold one; empty for any.
    public var subjectAltNames: [String]
    public var minimumVersion: Version
    public var maximumVersion: Version
    /// Names as OpenSSL writes them; empty for the library's choice.
    public var cipherSuites: [String]

    public init(certificates: [ObjectName]) {
        self.certificates = certificates
        self.clientCertificates = .ignored
        self.authorities = []
        self.subjectAltNames = []
        self.minimumVersion = .tls12
        self.maximumVersion = .tls13
        self.cipherSuites = []
    }
}

/// Where bytes or datagrams go: one of the backends, by weight.
public struct StreamRoute: Sendable, Hashable {
    public var backends: [WeightedBackend]
    public var idleTimeout: Duration?

    public init(backends: [WeightedBackend], idleTimeout: Duration? = nil) {
        self.backends = backends
        self.idleTimeout = idleTimeout
    }
}

/// A service port that a route leads to.
public struct Backend: Sendable, Hashable {
    public var service: ObjectName
    public var port: UInt16
    /// Of its DestinationRule, by name.
    public var subset: String?
    /// Nil speaks in the clear.
    public var tls: BackendTLS?
    /// What the backend speaks.
    public var application: ApplicationProtocol

    public init(service: ObjectName, port: UInt16) {
        self.service = service
        self.port = port
        self.application = .http1
    }
}

public enum ApplicationProtocol: String, Sendable, Hashable {
    case http1
    /// With prior knowledge, or by ALPN over TLS.
    case http2
}

/// How the gateway speaks TLS to a backend.
public struct BackendTLS: Sendable, Hashable {
    /// For SNI and for the certificate.
    public var name: String
    /// Nil trusts the system's authorities.
    public var authorities: [ObjectName]?

    public init(name: String, authorities: [ObjectName]?) {
        self.name = name
        self.authorities = authorities
    }
}

public struct WeightedBackend: Sendable, Hashable {
    /// Nil: a backend that does not exist or may not be used; its share of requests is answered with 500.
    public var backend: Backend?
    public var weight: UInt32
    /// Done to what goes to this backend alone.
    public var filters: HTTPFilters

    public init(backend: Backend?, weight: UInt32 = 1, filters: HTTPFilters = HTTPFilters()) {
        self.backend = backend
        self.weight = weight
        self.filters = filters
    }
}
