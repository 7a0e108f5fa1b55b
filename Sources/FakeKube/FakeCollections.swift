/// The collections that a fake cluster has, and where in the API they are.
struct FakeCollection: Hashable, Sendable {
    var group: String
    var kind: String
    /// As it stands in paths.
    var plural: String

    /// What objects and requests are filed under: Istio's gateways have a name of their own.
    var key: String { self.kind == "Gateway" && self.group == "networking.istio.io" ? "istiogateways" : self.plural }

    private static let kinds: [String: [String: String]] = [
        "": [
            "Service": "services", "Endpoints": "endpoints", "Node": "nodes", "Namespace": "namespaces", "Pod": "pods",
            "Secret": "secrets", "ConfigMap": "configmaps",
        ],
        "discovery.k8s.io": ["EndpointSlice": "endpointslices"],
        "networking.istio.io": [
            "DestinationRule": "destinationrules", "Gateway": "gateways", "VirtualService": "virtualservices",
        ],
        "gateway.networking.k8s.io": [
            "GatewayClass": "gatewayclasses", "Gateway": "gateways", "HTTPRoute": "httproutes",
            "GRPCRoute": "grpcroutes", "TLSRoute": "tlsroutes", "TCPRoute": "tcproutes", "UDPRoute": "udproutes",
            "ReferenceGrant": "referencegrants", "BackendTLSPolicy": "backendtlspolicies",
        ],
    ]

    private static let all: [FakeCollection] = Self.kinds.flatMap { group, kinds in
        kinds.map { FakeCollection(group: group, kind: $0.key, plural: $0.value) }
    }

    static func of(kind: String, apiVersion: String) -> FakeCollection? {
        let parts = apiVersion.split(separator: "/")
        let group = parts.count == 2 ? String(parts[0]) : ""
        return Self.all.first { $0.kind == kind && $0.group == group }
    }

    static func at(_ plural: String, group: String) -> FakeCollection? {
        Self.all.first { $0.plural == plural && $0.group == group }
    }

    /// Kinds whose list items come without their type.
    var isBuiltIn: Bool { self.group.isEmpty || self.group == "discovery.k8s.io" }
}

/// Where in the API a path leads.
struct FakePlace: Sendable {
    var collection: FakeCollection
    var version: String
    var namespace: String?
    var name: String?
    var isStatus = false

    var plural: String { self.collection.key }

    /// `kind` and `apiVersion` of the objects here.
    var type: (kind: String, version: String) {
        let group = self.collection.group
        return (self.collection.kind, group.isEmpty ? self.version : "\(group)/\(self.version)")
    }

    init?(_ path: String) {
        var words = path.split(separator: "/").map(String.init)[...]
        var group = ""
        switch words.popFirst() {
        case "api": break
        case "apis": group = words.popFirst() ?? ""
        default: return nil
        }
        guard let version = words.popFirst() else { return nil }
        self.version = version
        if words.count >= 3, words.first == "namespaces" {
            self.namespace = words.dropFirst().first
            words = words.dropFirst(2)
        }
        guard let plural = words.popFirst(), let collection = FakeCollection.at(plural, group: group) else {
            return nil
        }
        self.collection = collection
        self.name = words.popFirst()
        self.isStatus = words.popFirst() == "status"
        guard words.isEmpty else { return nil }
    }

    /// Whether an object is meant by a list or watch here.
    /// - Parameters:
    ///   - key: `namespace/name`.
    ///   - selector: the `fieldSelector` of the request.
    func holds(_ key: String, _ selector: String?) -> Bool {
        if let namespace = self.namespace, !key.hasPrefix("\(namespace)/") { return false }
        guard let name = selector.map({ $0.dropFirst("metadata.name=".count) }) else { return true }
        return key.hasSuffix("/\(name)")
    }
}
