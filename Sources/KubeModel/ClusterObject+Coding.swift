public import Documents
public import MeshCore

extension ClusterObject {
    /// Reads an object by its `apiVersion` and `kind`, or every object of a list kind, and stops at the first error.
    ///
    /// A kind that the mesh does not read throws `.unsupportedKind`, which callers skip. An object that means nothing to
    /// the mesh, such as an EndpointSlice of no service, gives none.
    public static func decode(
        _ document: Document,
        defaultNamespace: String = "default"
    ) throws(ObjectError) -> [ClusterObject] {
        var objects: [ClusterObject] = []
        for result in self.decodeEach(document, defaultNamespace: defaultNamespace) {
            objects.append(try result.get())
        }
        return objects
    }

    /// As `decode`, with a result for each object of a list, so that a bad one does not hide the others.
    public static func decodeEach(
        _ document: Document,
        defaultNamespace: String = "default"
    ) -> [Result<ClusterObject, ObjectError>] {
        do throws(ObjectError) {
            let reader = FieldReader(document)
            let kind = try reader["kind"].require(reader["kind"].string(), "the kind of the object")
            guard kind.hasSuffix("List") else {
                let kind = try self.kind(of: reader)
                return try self.decodeItem(kind: kind, document: document, defaultNamespace: defaultNamespace)
                    .map { [.success($0)] } ?? []
            }
            let items = try reader["items"].elements().compactMap(\.document)
            // The items of a ServiceList need not repeat their kind, those of a List do.
            guard kind == "List" else {
                let kind = try self.kind(of: reader, suffix: "List")
                return items.compactMap { self.result(kind: kind, $0, defaultNamespace: defaultNamespace) }
            }
            return items.flatMap { item in
                // A list inside a list is no item: refused, so that hostile nesting is not followed.
                do throws(ObjectError) {
                    let kind = try self.kind(of: FieldReader(item))
                    return self.result(kind: kind, item, defaultNamespace: defaultNamespace).map { [$0] } ?? []
                } catch {
                    return [.failure(error)]
                }
            }
        } catch {
            return [.failure(error)]
        }
    }

    /// Reads an object whose kind is known, such as an item of an API list; nil if it means nothing to the mesh.
    public static func decodeItem(
        kind: ObjectKind,
        document: Document,
        defaultNamespace: String = "default"
    ) throws(ObjectError) -> ClusterObject? {
        let reader = FieldReader(document)
        var name = document.objectName
        do throws(ObjectError) {
            let decoded = try ObjectName(reader["metadata"], kind: kind, defaultNamespace: defaultNamespace)
            name = decoded
            switch kind {
            case .service: return .service(try ServiceObject(reader, name: decoded))
            case .endpoints: return .endpoints(try EndpointsObject(reader, name: decoded))
            case .endpointSlice: return try EndpointSliceObject(reader, name: decoded).map { .endpointSlice($0) }
            case .node: return .node(try NodeObject(reader, name: decoded.name))
            case .namespace:
                var namespace = NamespaceObject(name: decoded.name)
                namespace.labels = try reader["metadata"]["labels"].stringMap()
                return .namespace(namespace)
            case .pod: return .pod(try PodObject(reader, name: decoded))
            case .destinationRule: return .destinationRule(try DestinationRuleObject(reader, name: decoded))
            case .secret, .configMap:
                return .credentials(try CredentialObject(reader, kind: kind, name: decoded))
            case .manifest: return nil
            default: return try GatewayResource(reader, kind: kind, name: decoded).map { .gateway($0) }
            }
        } catch {
            var error = error
            error.kind = kind
            error.name = name
            throw error
        }
    }

    private static func result(
        kind: ObjectKind,
        _ document: Document,
        defaultNamespace: String
    ) -> Result<ClusterObject, ObjectError>? {
        do throws(ObjectError) {
            return try self.decodeItem(kind: kind, document: document, defaultNamespace: defaultNamespace)
                .map { .success($0) }
        } catch {
            return .failure(error)
        }
    }

    /// The kind that `apiVersion` and `kind` name together; `suffix` is taken off the kind.
    private static func kind(of reader: FieldReader, suffix: String = "") throws(ObjectError) -> ObjectKind {
        let version = try reader["apiVersion"].require(reader["apiVersion"].string(), "the API version, such as v1")
        let text = try reader["kind"].require(reader["kind"].string(), "the kind of the object")
        let name = text.dropLast(suffix.utf8.count)
        guard let kind = ObjectKind.allCases.first(where: { $0.apiKind == name && $0.apiVersions.contains(version) })
        else {
            throw try reader["kind"].error(.unsupportedKind, "\(version) \(text) is no kind that the mesh reads")
        }
        return kind
    }

    /// The object in the form that `decode` reads: all that the mesh knows of it.
    public var document: Document {
        let (fields, labels): (KubeFields, [String: String]) =
            switch self {
            case .service(let object): (object.fields, object.labels)
            case .endpoints(let object): (object.fields, [:])
            case .endpointSlice(let object): (object.fields, [EndpointSliceObject.serviceLabel: object.serviceName])
            case .node(let object): (object.fields, object.labels)
            case .namespace(let object): (KubeFields(), object.labels)
            case .pod(let object): (object.fields, object.labels)
            case .destinationRule(let object): (object.fields, [:])
            case .gateway(let resource): (resource.fields, [:])
            // Without its contents: what is written is read by others.
            case .credentials: (KubeFields(), [:])
            }
        var metadata = KubeFields()
        metadata.set("name", self.name.name)
        metadata.set("namespace", self.name.namespace)
        metadata.set("labels", labels)
        if case .node(let node) = self { metadata.set("annotations", node.annotations) }
        if case .pod(let pod) = self, pod.isTerminating {
            // Only its presence is read.
            metadata.set("deletionTimestamp", "1970-01-01T00:00:00Z")
        }
        if case .gateway(let resource) = self {
            metadata.set("generation", .integer(resource.generation))
            metadata.set("creationTimestamp", resource.created)
        }
        var object = KubeFields()
        object.set("apiVersion", self.kind.apiVersions[0])
        object.set("kind", self.kind.apiKind)
        object.set("metadata", metadata)
        return .object(object.members + fields.members)
    }
}

extension ObjectKind {
    /// The API versions that are read; the first is the one written.
    var apiVersions: [String] {
        switch self {
        case .service, .endpoints, .node, .namespace, .pod, .secret, .configMap: ["v1"]
        case .endpointSlice: ["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"]
        case .destinationRule, .istioGateway, .virtualService:
            ["networking.istio.io/v1alpha3", "networking.istio.io/v1beta1", "networking.istio.io/v1"]
        case .gatewayClass, .gateway, .httpRoute, .grpcRoute, .tlsRoute, .tcpRoute, .udpRoute, .referenceGrant,
            .backendTLSPolicy:
            ["v1", "v1beta1", "v1alpha3", "v1alpha2"].map { "gateway.networking.k8s.io/\($0)" }
        // No object of the API.
        case .manifest: []
        }
    }

    /// The kind's name in the API.
    var apiKind: String { self == .istioGateway ? Self.gateway.rawValue : self.rawValue }

    /// Nodes, namespaces and classes of gateways lie in no namespace.
    public var isNamespaced: Bool { self != .node && self != .namespace && self != .gatewayClass }
}

extension Document {
    /// `metadata.resourceVersion` of an API object or list.
    public var resourceVersion: String? { self["metadata"]?["resourceVersion"]?.string }

    /// `metadata.namespace` and `metadata.name` as written; nil without a name.
    public var objectName: ObjectName? {
        guard let metadata = self["metadata"], let name = metadata["name"]?.string else { return nil }
        return ObjectName(namespace: metadata["namespace"]?.string ?? "", name: name)
    }
}

extension ObjectName {
    fileprivate init(_ metadata: FieldReader, kind: ObjectKind, defaultNamespace: String) throws(ObjectError) {
        let allowed = "lower-case letters, digits, - and ., at most 253"
        let name = try metadata["name"].require(metadata["name"].nonEmptyString(), allowed)
        guard Self.isDomainName(name) else { throw try metadata["name"].badValue(allowed) }
        var namespace = ""
        if kind.isNamespaced {
            namespace = try metadata["namespace"].nonEmptyString() ?? defaultNamespace
            guard Self.isDomainName(namespace) else { throw try metadata["namespace"].badValue(allowed) }
        }
        self.init(namespace: namespace, name: name)
    }

    /// The rule of the API server (RFC 1123): names become DNS names, so no other name may reach the mesh.
    private static func isDomainName(_ text: String) -> Bool {
        guard text.utf8.count <= 253 else { return false }
        return text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy { label in
            guard let first = label.first, let last = label.last, first != UInt8(ascii: "-"), last != UInt8(ascii: "-")
            else { return false }
            return label.allSatisfy { byte in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                    || byte == UInt8(ascii: "-")
            }
        }
    }
}

/// The fields of an object being written; what is empty or nil is left out, as the API server does.
struct KubeFields {
    private(set) var members: [Document.Member] = []

    mutating func set(_ key: String, _ value: Document?) {
        if let value { self.members.append(Document.Member(key, value)) }
    }

    mutating func set(_ key: String, _ text: String?) {
        if let text, !text.isEmpty { self.set(key, .string(text)) }
    }

    mutating func set(_ key: String, _ number: UInt16?) {
        if let number { self.set(key, .integer(number)) }
    }

    mutating func set(_ key: String, _ elements: [Document]) {
        if !elements.isEmpty { self.set(key, .array(elements)) }
    }

    mutating func set(_ key: String, _ fields: KubeFields) {
        if !fields.members.isEmpty { self.set(key, .object(fields.members)) }
    }

    mutating func set(_ key: String, _ map: [String: String]) {
        let sorted = map.sorted { $0.key < $1.key }
        if !map.isEmpty { self.set(key, .object(sorted.map { Document.Member($0.key, .string($0.value)) })) }
    }

    mutating func set(_ key: String, texts: [some CustomStringConvertible]) {
        self.set(key, texts.map { Document.string($0.description) })
    }

    var document: Document { .object(self.members) }
}

extension TransportProtocol {
    /// The name in the API.
    var apiName: String { self.description.uppercased() }
}
