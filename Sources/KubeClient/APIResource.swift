public import KubeModel
import MeshCore

/// A collection of the API, such as `endpointslices.discovery.k8s.io` at version v1.
public struct APIResource: Hashable, Sendable, CustomStringConvertible {
    public var kind: ObjectKind
    /// Empty for the core group.
    public var group: String
    public var version: String
    public var plural: String
    /// The one object that is meant; nil for the whole collection.
    var object: ObjectName?
    /// The namespace whose part of the collection is meant.
    var namespace: String?
    /// Whether only names and labels are asked for. A server that does not know how sends the whole objects.
    var isMetadataOnly = false

    init(_ kind: ObjectKind, _ plural: String, group: String = "", version: String = "v1") {
        self.kind = kind
        self.plural = plural
        self.group = group
        self.version = version
    }

    var path: String {
        let root = self.group.isEmpty ? "/api/\(self.version)" : "/apis/\(self.group)/\(self.version)"
        let namespace = self.object?.namespace ?? self.namespace ?? ""
        return root + (namespace.isEmpty ? "" : "/namespaces/\(namespace)") + "/\(self.plural)"
    }

    /// What of the collection is meant, for lists and watches.
    var selector: [(String, String)] {
        self.object.map { [("fieldSelector", "metadata.name=\($0.name)")] } ?? []
    }

    /// Of lists, or of watches, whose events hold single objects.
    func accept(list isList: Bool) -> String {
        guard self.isMetadataOnly else { return "application/json" }
        let form = isList ? "PartialObjectMetadataList" : "PartialObjectMetadata"
        return "application/json;as=\(form);g=meta.k8s.io;v=v1,application/json"
    }

    /// The path of one of its objects.
    func path(of object: ObjectName) -> String {
        var resource = self
        resource.object = object
        return "\(resource.path)/\(object.name)"
    }

    /// The name that RBAC rules and people use.
    public var description: String { self.group.isEmpty ? self.plural : "\(self.plural).\(self.group)" }
}

/// What one reflector follows: the first of its candidates that the server has.
struct WatchedResource: Hashable, Sendable {
    var candidates: [APIResource]
    /// The mesh works without it: a server that has none of them counts as an empty list, one that forbids them is told
    /// of in the status.
    var isOptional = false
    /// Whether the candidates are versions of one resource, of which people know one name.
    var hasVersions: Bool { self.candidates.count > 1 && Set(self.candidates.map(\.description)).count == 1 }

    static let services = WatchedResource(candidates: [APIResource(.service, "services")])
    static let nodes = WatchedResource(candidates: [APIResource(.node, "nodes")], isOptional: true)
    static let namespaces = WatchedResource(
        candidates: [APIResource(.namespace, "namespaces")],
        isOptional: true
    )
    static let endpoints = WatchedResource(
        candidates: [
            APIResource(.endpointSlice, "endpointslices", group: "discovery.k8s.io"),
            APIResource(.endpoints, "endpoints"),
        ]
    )
    static let endpointsOnly = WatchedResource(candidates: [APIResource(.endpoints, "endpoints")])
    static let destinationRules = WatchedResource(
        candidates: ["v1", "v1beta1", "v1alpha3"].map {
            APIResource(.destinationRule, "destinationrules", group: "networking.istio.io", version: $0)
        },
        isOptional: true
    )

    /// The MetaServer answers a kind that it does not hold with an empty list instead of 404, so there the Endpoints,
    /// which KubeEdge has always carried to the edge, are the safe choice.
    static func all(isMetaServer: Bool, withGateway: Bool = false) -> [WatchedResource] {
        let always = [services, isMetaServer ? endpointsOnly : endpoints, nodes, namespaces, destinationRules]
        return withGateway ? always + self.gateway : always
    }

    /// One Secret or ConfigMap.
    static func named(_ kind: ObjectKind, _ name: ObjectName) -> WatchedResource {
        var resource = APIResource(kind, kind == .secret ? "secrets" : "configmaps")
        resource.object = name
        return WatchedResource(candidates: [resource])
    }

    /// The labels of the pods of one namespace.
    static func podLabels(in namespace: String) -> WatchedResource {
        var resource = APIResource(.pod, "pods")
        resource.namespace = namespace
        resource.isMetadataOnly = true
        return WatchedResource(candidates: [resource])
    }

    /// What the edge gateway reads; clusters have some of it, or none.
    static let gateway: [WatchedResource] = {
        let istio = ["v1", "v1beta1", "v1alpha3"]
        let kinds: [(ObjectKind, String, String, [String])] = [
            (.istioGateway, "gateways", "networking.istio.io", istio),
            (.virtualService, "virtualservices", "networking.istio.io", istio),
            (.gatewayClass, "gatewayclasses", "gateway.networking.k8s.io", ["v1", "v1beta1"]),
            (.gateway, "gateways", "gateway.networking.k8s.io", ["v1", "v1beta1"]),
            (.httpRoute, "httproutes", "gateway.networking.k8s.io", ["v1", "v1beta1"]),
            (.grpcRoute, "grpcroutes", "gateway.networking.k8s.io", ["v1", "v1alpha2"]),
            (.tlsRoute, "tlsroutes", "gateway.networking.k8s.io", ["v1", "v1alpha3", "v1alpha2"]),
            (.tcpRoute, "tcproutes", "gateway.networking.k8s.io", ["v1", "v1alpha2"]),
            (.udpRoute, "udproutes", "gateway.networking.k8s.io", ["v1", "v1alpha2"]),
            (.referenceGrant, "referencegrants", "gateway.networking.k8s.io", ["v1", "v1beta1"]),
            (.backendTLSPolicy, "backendtlspolicies", "gateway.networking.k8s.io", ["v1", "v1alpha3"]),
        ]
        return kinds.map { kind, plural, group, versions in
            WatchedResource(
                candidates: versions.map { APIResource(kind, plural, group: group, version: $0) },
                isOptional: true
            )
        }
    }()
}
