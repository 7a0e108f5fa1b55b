import Documents
import MeshCore

extension ServiceObject {
    /// Nil: any value counts.
    private static let knownLabels: [(label: FilterLabels, key: String, value: String?)] = [
        (.edgeMeshProxyName, "service.edgemesh.kubeedge.io/service-proxy-name", nil),
        (.headless, "service.kubernetes.io/headless", nil),
        (.clusterDNS, "k8s-app", "kube-dns"),
    ]

    init(_ object: FieldReader, name: ObjectName) throws(ObjectError) {
        self.init(name: name)
        let labels = try object["metadata"]["labels"].stringMap()
        for known in Self.knownLabels {
            guard let value = labels[known.key], known.value ?? value == value else { continue }
            self.filterLabels.insert(known.label)
        }
        let spec = try object["spec"]
        self.type = try spec["type"].choice([.clusterIP, .nodePort, .loadBalancer, .externalName]) ?? .clusterIP
        self.selector = try spec["selector"].stringMap()
        self.publishNotReadyAddresses = try spec["publishNotReadyAddresses"].bool() ?? false
        self.trafficDistribution = try spec["trafficDistribution"].nonEmptyString()
        if self.type == .externalName {
            let field = try spec["externalName"]
            self.externalName = try field.require(field.nonEmptyString(), "a domain name, or change spec.type")
        } else {
            try self.readClusterIPs(spec)
        }
        self.externalIPs = try spec["externalIPs"].addresses()
        self.loadBalancerSourceRanges = try spec["loadBalancerSourceRanges"].blocks()
        for ingress in try object["status"]["loadBalancer"]["ingress"].elements() {
            // The balancer wants to see the traffic itself.
            if try ingress["ipMode"].string() == "Proxy" { continue }
            if let address = try ingress["ip"].address() { self.loadBalancerIngress.append(address) }
        }
        self.internalTrafficPolicy = try spec["internalTrafficPolicy"].choice([.cluster, .local]) ?? .cluster
        self.externalTrafficPolicy = try spec["externalTrafficPolicy"].choice([.cluster, .local]) ?? .cluster
        try self.readAffinity(spec)
        try self.readPorts(spec["ports"])
    }

    private mutating func readClusterIPs(_ spec: FieldReader) throws(ObjectError) {
        var fields = try spec["clusterIPs"].elements()
        if fields.isEmpty { fields = [try spec["clusterIP"]] }
        for field in fields {
            if try field.string() == "None" {
                self.isHeadless = true
            } else if let address = try field.address() {
                self.clusterIPs.append(address)
            }
        }
        if self.isHeadless { self.clusterIPs = [] }
    }

    private mutating func readAffinity(_ spec: FieldReader) throws(ObjectError) {
        switch try spec["sessionAffinity"].nonEmptyString() {
        case nil, "None": break
        case "ClientIP":
            let timeout = try spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
            self.clientIPAffinitySeconds = try timeout.integer(in: 1...86400) ?? 10800
        default: throw try spec["sessionAffinity"].badValue("None, ClientIP")
        }
    }

    private mutating func readPorts(_ ports: FieldReader) throws(ObjectError) {
        let elements = try ports.elements()
        for (index, element) in elements.enumerated() {
            let number = try element["port"].require(element["port"].port(), "a whole number from 1 to 65535")
            let port = Port(
                name: try element["name"].string() ?? "",
                transport: try element["protocol"].transport() ?? .tcp,
                port: number,
                nodePort: try element["nodePort"].integer(in: 0...65535) ?? 0,
                targetPort: try Self.targetPort(element["targetPort"]),
                appProtocol: try element["appProtocol"].nonEmptyString()
            )
            if port.name.isEmpty, elements.count > 1 {
                throw try element["name"].error(
                    .missing,
                    "spec.ports[\(index)].name is missing; a service with several ports names each of them"
                )
            }
            if let other = self.ports.firstIndex(where: { $0.name == port.name }) {
                throw try element["name"].duplicate("spec.ports[\(other)].name")
            }
            if let other = self.ports.firstIndex(where: { $0.port == port.port && $0.transport == port.transport }) {
                throw try element["port"].duplicate("spec.ports[\(other)].port for the same protocol")
            }
            self.ports.append(port)
        }
    }

    /// A number, a number as text, or the name of a container port; nil, that is the service's port, if absent or 0.
    private static func targetPort(_ field: FieldReader) throws(ObjectError) -> TargetPort? {
        guard let text = field.document?.string else {
            guard let number: UInt16 = try field.integer(in: 0...65535), number > 0 else { return nil }
            return .number(number)
        }
        if text.isEmpty { return nil }
        guard text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else { return .name(text) }
        guard let number = UInt16(text), number > 0 else {
            throw field.badValue("a whole number from 1 to 65535, or the name of a container port")
        }
        return .number(number)
    }

    // MARK: Writing

    var labels: [String: String] {
        let held = Self.knownLabels.filter { self.filterLabels.contains($0.label) }
        return Dictionary(uniqueKeysWithValues: held.map { ($0.key, $0.value ?? "") })
    }

    var fields: KubeFields {
        var spec = KubeFields()
        spec.set("type", self.type.rawValue)
        spec.set("externalName", self.externalName)
        if self.isHeadless {
            spec.set("clusterIP", "None")
        } else {
            spec.set("clusterIPs", texts: self.clusterIPs)
        }
        spec.set("selector", self.selector)
        spec.set("ports", self.ports.map(\.document))
        spec.set("externalIPs", texts: self.externalIPs)
        spec.set("loadBalancerSourceRanges", texts: self.loadBalancerSourceRanges)
        if let seconds = self.clientIPAffinitySeconds {
            spec.set("sessionAffinity", "ClientIP")
            spec.set("sessionAffinityConfig", ["clientIP": ["timeoutSeconds": .integer(seconds)]] as Document)
        }
        if self.internalTrafficPolicy == .local { spec.set("internalTrafficPolicy", "Local") }
        if self.externalTrafficPolicy == .local { spec.set("externalTrafficPolicy", "Local") }
        if self.publishNotReadyAddresses { spec.set("publishNotReadyAddresses", true as Document) }
        spec.set("trafficDistribution", self.trafficDistribution)
        var object = KubeFields()
        object.set("spec", spec)
        if !self.loadBalancerIngress.isEmpty {
            let ingress = self.loadBalancerIngress.map { ["ip": .string($0.description)] as Document }
            object.set("status", ["loadBalancer": ["ingress": .array(ingress)]] as Document)
        }
        return object
    }
}

extension ServiceObject.Port {
    fileprivate var document: Document {
        var fields = KubeFields()
        fields.set("name", self.name)
        fields.set("protocol", self.transport.apiName)
        fields.set("port", self.port)
        switch self.targetPort {
        case .number(let number): fields.set("targetPort", number)
        case .name(let name): fields.set("targetPort", name)
        }
        fields.set("nodePort", self.nodePort == 0 ? nil : self.nodePort)
        fields.set("appProtocol", self.appProtocol)
        return fields.document
    }
}
