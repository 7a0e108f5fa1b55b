public import MeshCore

/// The kinds of cluster object that the mesh reads.
public enum ObjectKind: String, Hashable, Sendable, CaseIterable {
    case service = "Service"
    case endpoints = "Endpoints"
    case endpointSlice = "EndpointSlice"
    case node = "Node"
    case namespace = "Namespace"
    case pod = "Pod"
    case destinationRule = "DestinationRule"
    // Of the edge gateway, see `GatewayResource`. The kind is named as in the API but for Istio's `Gateway`.
    case istioGateway = "IstioGateway"
    case virtualService = "VirtualService"
    case gatewayClass = "GatewayClass"
    case gateway = "Gateway"
    case httpRoute = "HTTPRoute"
    case grpcRoute = "GRPCRoute"
    case tlsRoute = "TLSRoute"
    case tcpRoute = "TCPRoute"
    case udpRoute = "UDPRoute"
    case referenceGrant = "ReferenceGrant"
    case backendTLSPolicy = "BackendTLSPolicy"
    // What a gateway proves itself by, see `CredentialObject`. Read by name alone, and never kept in the catalog.
    case secret = "Secret"
    case configMap = "ConfigMap"
    /// A file of manifests, or a document in it, that no object can be told from: only ever rejected or deleted.
    case manifest = "Manifest"
}

/// A decoded cluster object, cut down to the fields that the mesh uses.
public enum ClusterObject: Hashable, Sendable {
    case service(ServiceObject)
    case endpoints(EndpointsObject)
    case endpointSlice(EndpointSliceObject)
    case node(NodeObject)
    case namespace(NamespaceObject)
    case pod(PodObject)
    case destinationRule(DestinationRuleObject)
    case gateway(GatewayResource)
    case credentials(CredentialObject)

    public var kind: ObjectKind {
        switch self {
        case .service: .service
        case .endpoints: .endpoints
        case .endpointSlice: .endpointSlice
        case .node: .node
        case .namespace: .namespace
        case .pod: .pod
        case .destinationRule: .destinationRule
        case .gateway(let resource): resource.kind
        case .credentials(let object): object.kind
        }
    }

    public var name: ObjectName {
        switch self {
        case .service(let object): object.name
        case .endpoints(let object): object.name
        case .endpointSlice(let object): object.name
        case .node(let object): ObjectName(namespace: "", name: object.name)
        case .namespace(let object): ObjectName(namespace: "", name: object.name)
        case .pod(let object): object.name
        case .destinationRule(let object): object.name
        case .gateway(let resource): resource.name
        case .credentials(let object): object.name
        }
    }
}

/// An object that was refused, and why: shown by `edgemesh status` until its next good version or its deletion.
public struct RejectedObject: Hashable, Sendable {
    public var kind: ObjectKind
    public var name: ObjectName
    /// The path of the field at fault, such as `spec.ports[0].port`; empty if it is the whole object.
    public var field: String
    /// What is wrong and how to mend it, for an operator.
    public var reason: String

    public init(kind: ObjectKind, name: ObjectName, field: String, reason: String) {
        self.kind = kind
        self.name = name
        self.field = field
        self.reason = reason
    }
}

/// What a source of cluster objects tells the catalog. Events of one kind arrive in order.
public enum SourceEvent: Hashable, Sendable {
    /// A full listing of this kind begins; what is known stays in force until `syncEnded`.
    case syncBegan(ObjectKind)
    /// A new or changed object (inside or outside a listing).
    case upsert(ClusterObject)
    case deleted(ObjectKind, ObjectName)
    /// An object could not be decoded; its last good version, if any, stays in force.
    case rejected(RejectedObject)
    /// The listing is complete: objects of this kind that it did not name are gone.
    case syncEnded(ObjectKind)
    /// The source reached its peer, or lost it.
    case status(SourceStatus)
}

/// How a source is doing, as shown to people and used for readiness.
public struct SourceStatus: Hashable, Sendable {
    public enum State: String, Hashable, Sendable {
        /// Trying; nothing has been listed yet.
        case connecting
        /// Every kind is listed and watched.
        case synced
        /// The last good state is served while the peer is away.
        case stale
    }

    public var state: State
    /// The source, for people: a URL, a folder, a file.
    public var origin: String
    /// The last failure; beside `synced`, what the peer withholds though the mesh works without it.
    public var message: String?

    public init(state: State, origin: String, message: String? = nil) {
        self.state = state
        self.origin = origin
        self.message = message
    }
}

/// A source of cluster objects: the Kubernetes API, a folder of manifests.
public protocol ClusterObjectSource: Sendable {
    /// Runs until cancelled and reports to `sink`, which applies back-pressure by suspending. Failures are retried
    /// inside and reported as `.status`; only cancellation ends it.
    func run(sink: @escaping @Sendable ([SourceEvent]) async -> Void) async throws
}
