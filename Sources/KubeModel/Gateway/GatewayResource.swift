import Documents
public import MeshCore

/// An object of the edge gateway: Istio's or of the Gateway API, cut down to the fields that the gateway uses.
public struct GatewayResource: Hashable, Sendable {
    public enum Content: Hashable, Sendable {
        case istioGateway(IstioGatewaySpec)
        case virtualService(VirtualServiceSpec)
        case gatewayClass(GatewayClassSpec)
        case gateway(GatewaySpec)
        /// HTTPRoute and GRPCRoute.
        case route(RouteSpec)
        /// TLSRoute, TCPRoute and UDPRoute.
        case streamRoute(StreamRouteSpec)
        case referenceGrant(ReferenceGrantSpec)
        case backendTLSPolicy(BackendTLSPolicySpec)
    }

    public var kind: ObjectKind
    public var name: ObjectName
    public var generation: Int64
    /// `metadata.creationTimestamp`, which orders as text; empty if unknown. The older of two that conflict is in force.
    public var created: String
    public var content: Content
    /// `spec` as it was read, for the last good state on disk.
    let spec: Document

    /// Reads an object of one of `ObjectKind.gatewayKinds`; nil for any other kind.
    init?(_ object: FieldReader, kind: ObjectKind, name: ObjectName) throws(ObjectError) {
        let spec = try object["spec"]
        switch kind {
        case .istioGateway: self.content = .istioGateway(try IstioGatewaySpec(spec))
        case .virtualService: self.content = .virtualService(try VirtualServiceSpec(spec))
        case .gatewayClass: self.content = .gatewayClass(try GatewayClassSpec(spec))
        case .gateway: self.content = .gateway(try GatewaySpec(spec))
        case .httpRoute, .grpcRoute: self.content = .route(try RouteSpec(spec, isGRPC: kind == .grpcRoute))
        case .tlsRoute, .tcpRoute, .udpRoute: self.content = .streamRoute(try StreamRouteSpec(spec))
        case .referenceGrant: self.content = .referenceGrant(try ReferenceGrantSpec(spec))
        case .backendTLSPolicy: self.content = .backendTLSPolicy(try BackendTLSPolicySpec(spec))
        default: return nil
        }
        self.kind = kind
        self.name = name
        let metadata = try object["metadata"]
        self.generation = try metadata["generation"].integer(in: 0...Int64.max) ?? 0
        self.created = try metadata["creationTimestamp"].string() ?? ""
        self.spec = spec.document?.withoutPositions ?? .object([])
    }

    var fields: KubeFields {
        var fields = KubeFields()
        fields.set("spec", self.spec)
        return fields
    }

    /// Whether this one is in force where two conflict.
    public static func isOlder(_ first: GatewayResource, than second: GatewayResource) -> Bool {
        (first.created, first.name, first.kind.rawValue) < (second.created, second.name, second.kind.rawValue)
    }
}

extension ObjectKind {
    /// What is watched only where the edge gateway is enabled.
    public static let gatewayKinds: [ObjectKind] = [
        .istioGateway, .virtualService, .gatewayClass, .gateway, .httpRoute, .grpcRoute, .tlsRoute, .tcpRoute,
        .udpRoute,
        .referenceGrant, .backendTLSPolicy,
    ]
}
