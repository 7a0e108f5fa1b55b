public import MeshCore

/// gateway.networking.k8s.io GatewayClass.
public struct GatewayClassSpec: Hashable, Sendable {
    public var controllerName: String
    public var hasParameters: Bool
}

/// An object that another names: its API group (empty for the core), its kind, its name.
public struct ObjectReference: Hashable, Sendable {
    public var group: String
    public var kind: String
    /// Nil for the namespace of the object that names it.
    public var namespace: String?
    public var name: String
}

/// gateway.networking.k8s.io Gateway.
public struct GatewaySpec: Hashable, Sendable {
    public enum From: String, Hashable, Sendable, CaseIterable {
        case all = "All"
        case same = "Same"
        case selector = "Selector"
        case none = "None"
    }

    public struct RouteKind: Hashable, Sendable {
        public var group: String
        public var kind: String
    }

    /// `matchLabels` and `matchExpressions`.
    public struct Selector: Hashable, Sendable {
        public struct Requirement: Hashable, Sendable {
            public enum Operator: String, Hashable, Sendable, CaseIterable {
                case isIn = "In"
                case notIn = "NotIn"
                case exists = "Exists"
                case doesNotExist = "DoesNotExist"
            }

            public var key: String
            public var operation: Operator
            public var values: [String]
        }

        public var labels: [String: String] = [:]
        public var requirements: [Requirement] = []

        public func matches(_ labels: [String: String]) -> Bool {
            self.labels.allSatisfy { labels[$0.key] == $0.value }
                && self.requirements.allSatisfy { requirement in
                    let value = labels[requirement.key]
                    switch requirement.operation {
                    case .isIn: return value.map(requirement.values.contains) ?? false
                    case .notIn: return !(value.map(requirement.values.contains) ?? false)
                    case .exists: return value != nil
                    case .doesNotExist: return value == nil
                    }
                }
        }
    }

    public struct TLS: Hashable, Sendable {
        public enum Mode: String, Hashable, Sendable, CaseIterable {
            case terminate = "Terminate"
            case passthrough = "Passthrough"
        }

        public var mode: Mode = .terminate
        public var certificates: [ObjectReference] = []
        public var options: [String: String] = [:]
    }

    /// How clients show who they are (`tls.frontend`, and `frontendValidation` of a listener).
    public struct ClientValidation: Hashable, Sendable {
        public var authorities: [ObjectReference]
        /// `AllowInsecureFallback`: a client without a good certificate is let in too.
        public var allowsInsecure: Bool
    }

    public struct Listener: Hashable, Sendable {
        public var name: String
        public var port: UInt16
        /// As written, such as `HTTPS`.
        public var portProtocol: String
        public var hostname: String?
        public var tls: TLS?
        public var clientValidation: ClientValidation?
        public var from: From = .same
        public var selector = Selector()
        /// Empty for those that the protocol has.
        public var kinds: [RouteKind] = []
    }

    public var className: String
    public var listeners: [Listener] = []
    /// Of type IPAddress; nil for one that is of another type or no address.
    public var addresses: [IPAddress?] = []
    /// For every HTTPS listener that `clientValidationByPort` does not name.
    public var clientValidation: ClientValidation?
    public var clientValidationByPort: [UInt16: ClientValidation] = [:]
    /// Whether `infrastructure.parametersRef` names an object.
    public var hasParameters = false

    /// Whether a client without a good certificate is let in somewhere.
    public var allowsInsecureClients: Bool {
        let validations = [self.clientValidation] + self.listeners.map(\.clientValidation)
        return (validations.compactMap(\.self) + self.clientValidationByPort.values).contains(where: \.allowsInsecure)
    }
}

/// Which part of which parent a route wants to be attached to.
public struct ParentReference: Hashable, Sendable {
    public var target: ObjectReference
    public var sectionName: String?
    public var port: UInt16?
}

public struct BackendReference: Hashable, Sendable {
    public var target: ObjectReference
    public var port: UInt16?
    public var weight: UInt32
    public var filters: [RouteFilter]
}

public enum RouteFilter: Hashable, Sendable {
    public struct Header: Hashable, Sendable {
        public var name: String
        public var value: String
    }

    public struct HeaderModifier: Hashable, Sendable {
        public var set: [Header]
        public var add: [Header]
        public var remove: [String]
    }

    public enum PathModifier: Hashable, Sendable {
        case full(String)
        case prefix(String)
    }

    public struct Redirect: Hashable, Sendable {
        public var scheme: String?
        public var hostname: String?
        public var port: UInt16?
        public var path: PathModifier?
        public var status: UInt16
    }

    public struct Mirror: Hashable, Sendable {
        public var target: ObjectReference
        public var port: UInt16?
        /// Of a million.
        public var share: UInt32
    }

    public struct CORS: Hashable, Sendable {
        public var origins: [String]
        public var methods: [String]
        public var headers: [String]
        public var exposedHeaders: [String]
        public var maximumAge: Duration?
        public var allowsCredentials: Bool
    }

    case requestHeaders(HeaderModifier)
    case responseHeaders(HeaderModifier)
    case redirect(Redirect)
    case rewrite(hostname: String?, path: PathModifier?)
    case mirror(Mirror)
    case cors(CORS)
    /// `ExtensionRef`, or a type that is not known: said by its name.
    case unsupported(String)
}

/// HTTPRoute or GRPCRoute.
public struct RouteSpec: Hashable, Sendable {
    public enum PathMatch: Hashable, Sendable {
        case exact(String)
        case prefix(String)
        case regex(String)
    }

    public enum ValueMatch: Hashable, Sendable {
        case exact(String)
        case regex(String)
    }

    public struct Named: Hashable, Sendable {
        public var name: String
        public var value: ValueMatch
    }

    /// Of a GRPCRoute; one of the two is there.
    public struct GRPCMethod: Hashable, Sendable {
        public var service: String?
        public var method: String?
        public var isRegex: Bool
    }

    public struct Match: Hashable, Sendable {
        public var path: PathMatch?
        public var method: String?
        public var grpcMethod: GRPCMethod?
        public var headers: [Named] = []
        public var queryParams: [Named] = []

        public init() {}
    }

    public struct Retry: Hashable, Sendable {
        public var codes: [UInt16]
        public var attempts: Int
        public var backoff: Duration?
    }

    public struct Persistence: Hashable, Sendable {
        public var name: String?
        public var isHeader: Bool
        public var absoluteTimeout: Duration?
    }

    public struct Rule: Hashable, Sendable {
        public var name: String?
        public var matches: [Match]
        public var filters: [RouteFilter]
        public var backends: [BackendReference]
        public var requestTimeout: Duration?
        public var backendTimeout: Duration?
        public var retry: Retry?
        public var persistence: Persistence?
    }

    public var parents: [ParentReference]
    public var hostnames: [String]
    public var rules: [Rule]
    public var isGRPC: Bool
}

/// TLSRoute, TCPRoute or UDPRoute.
public struct StreamRouteSpec: Hashable, Sendable {
    public var parents: [ParentReference]
    /// Of a TLSRoute.
    public var hostnames: [String]
    public var rules: [[BackendReference]]
}

/// gateway.networking.k8s.io ReferenceGrant.
public struct ReferenceGrantSpec: Hashable, Sendable {
    public struct From: Hashable, Sendable {
        public var group: String
        public var kind: String
        public var namespace: String
    }

    public struct To: Hashable, Sendable {
        public var group: String
        public var kind: String
        /// Nil for every object of the kind.
        public var name: String?
    }

    public var from: [From]
    public var to: [To]
}

/// gateway.networking.k8s.io BackendTLSPolicy.
public struct BackendTLSPolicySpec: Hashable, Sendable {
    public struct Target: Hashable, Sendable {
        public var group: String
        public var kind: String
        public var name: String
        /// The name of a service port; nil for all.
        public var sectionName: String?
    }

    public var targets: [Target]
    public var hostname: String
    public var authorities: [ObjectReference]
    public var usesSystemAuthorities: Bool
    public var subjectAltNames: [String]
}
