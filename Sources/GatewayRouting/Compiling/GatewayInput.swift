public import KubeModel
public import MeshCore

/// What the compiler reads, besides its settings. Cheap to make of a snapshot of the catalog.
public struct GatewayInput: Sendable {
    public var resources: [GatewayResource]
    public var destinationRules: [DestinationRuleObject]
    /// By the namespace's name.
    public var namespaceLabels: [String: [String: String]]
    public var service: @Sendable (ObjectName) -> ServiceFacts?
    /// What is known of a Secret; nil if it does not exist, or is not known yet.
    public var secret: @Sendable (ObjectName) -> SecretFacts?
    /// Whether a ConfigMap exists that has a `ca.crt`.
    public var hasAuthority: @Sendable (ObjectName) -> Bool

    public init(
        resources: [GatewayResource],
        destinationRules: [DestinationRuleObject] = [],
        namespaceLabels: [String: [String: String]] = [:],
        service: @escaping @Sendable (ObjectName) -> ServiceFacts?,
        secret: @escaping @Sendable (ObjectName) -> SecretFacts? = { _ in nil },
        hasAuthority: @escaping @Sendable (ObjectName) -> Bool = { _ in false }
    ) {
        self.resources = resources
        self.destinationRules = destinationRules
        self.namespaceLabels = namespaceLabels
        self.service = service
        self.secret = secret
        self.hasAuthority = hasAuthority
    }
}

/// What of a service decides about plans.
public struct ServiceFacts: Sendable, Hashable {
    public var ports: [ServiceObject.Port]
    /// Those that the DestinationRules in force define.
    public var subsets: Set<String>

    public init(ports: [ServiceObject.Port], subsets: Set<String> = []) {
        self.ports = ports
        self.subsets = subsets
    }
}

/// What of a Secret decides about plans; never its bytes.
public struct SecretFacts: Sendable, Hashable {
    /// It holds a certificate and a key that can be read and fit each other.
    public var hasCertificate: Bool
    /// It holds `ca.crt` or `cacert`.
    public var hasAuthority: Bool

    public init(hasCertificate: Bool, hasAuthority: Bool) {
        self.hasCertificate = hasCertificate
        self.hasAuthority = hasAuthority
    }
}

/// What an operator may set of it.
public struct CompilerSettings: Sendable, Hashable {
    public static let defaultControllerName = "kubeedge.io/edgemesh-gateway"
    /// The most rules that one plan has.
    public static let maximumRules = 20_000

    public var clusterDomain: String
    /// The `controllerName` of the GatewayClasses that this gateway serves.
    public var controllerName: String
    /// What the `selector` of Istio's Gateways must fit; nil serves every Gateway, whatever its selector.
    public var podLabels: [String: String]?
    /// Serves Istio's MUTUAL where no Secret has a `ca.crt`, without asking clients for certificates: as EdgeMesh 1.17 did, whose
    /// own example relies on it. Otherwise such a server is not served, as Istio has it.
    public var servesMutualWithoutAuthority: Bool

    public init(
        clusterDomain: String = "cluster.local",
        controllerName: String = Self.defaultControllerName,
        podLabels: [String: String]? = nil,
        servesMutualWithoutAuthority: Bool = false
    ) {
        self.servesMutualWithoutAuthority = servesMutualWithoutAuthority
        self.clusterDomain = clusterDomain
        self.controllerName = controllerName
        self.podLabels = podLabels
    }
}

/// What became of the objects.
public struct GatewayCompilation: Sendable, Hashable {
    public var plan = GatewayPlan()
    /// In the order of the objects, which is that of their age.
    public var findings: [GatewayFinding] = []
    /// Of the objects of the Gateway API that this gateway answers for.
    public var statuses: [GatewayStatus] = []
    /// The Secrets and ConfigMaps that the plan, or what it lacks, names: to be watched.
    public var secrets: Set<ObjectName> = []
    public var configMaps: Set<ObjectName> = []
    /// The namespaces in which the plan's backends have subsets: the labels of pods there are needed.
    public var subsetNamespaces: Set<String> = []

    public init() {}
}

/// What an operator should know of an object, as `edgemesh analyze` shows it.
public struct GatewayFinding: Sendable, Hashable, CustomStringConvertible {
    public enum Severity: String, Sendable, Hashable {
        /// The part that is named is not served.
        case error
        /// It is served, but probably not as its author meant.
        case warning
        /// It is served in another way than EdgeMesh 1.17 did.
        case note
    }

    public var severity: Severity
    public var kind: ObjectKind
    public var name: ObjectName
    /// Such as `spec.http[0].match[1].uri`; empty for the whole object.
    public var field: String
    /// What is wrong and how to mend it.
    public var message: String

    public init(severity: Severity, kind: ObjectKind, name: ObjectName, field: String, message: String) {
        self.severity = severity
        self.kind = kind
        self.name = name
        self.field = field
        self.message = message
    }

    public var description: String {
        let place = self.field.isEmpty ? "" : "\(self.field): "
        return "\(self.severity.rawValue): \(self.kind.rawValue) \(self.name): \(place)\(self.message)"
    }
}

/// A condition as the Gateway API writes it.
public struct GatewayCondition: Sendable, Hashable {
    public var type: String
    public var isTrue: Bool
    public var reason: String
    public var message: String

    init(_ type: String, _ isTrue: Bool, _ reason: String, _ message: String = "") {
        self.type = type
        self.isTrue = isTrue
        self.reason = reason
        self.message = message
    }
}

/// The status that an object of the Gateway API is to have.
public struct GatewayStatus: Sendable, Hashable {
    /// The type of a condition that stands as long as some clients without a good certificate are let in, and else not at all.
    public static let insecureClients = "InsecureFrontendValidationMode"

    public struct Listener: Sendable, Hashable {
        public var name: String
        /// The kinds of route that it takes, all of the group `gateway.networking.k8s.io`.
        public var supportedKinds: [String]
        public var attachedRoutes: Int
        public var conditions: [GatewayCondition]
    }

    /// Of a route, by each of its references to a gateway of ours; of a policy, by each gateway that it has effect on.
    public struct Parent: Sendable, Hashable {
        public var reference: ParentReference
        public var conditions: [GatewayCondition]
    }

    public var kind: ObjectKind
    public var name: ObjectName
    /// For `observedGeneration` of all conditions.
    public var generation: Int64
    public var conditions: [GatewayCondition]
    public var listeners: [Listener]
    public var parents: [Parent]

    init(_ resource: GatewayResource) {
        self.kind = resource.kind
        self.name = resource.name
        self.generation = resource.generation
        self.conditions = []
        self.listeners = []
        self.parents = []
    }
}
