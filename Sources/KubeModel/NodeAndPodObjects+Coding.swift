import Documents
import MeshCore

extension NodeObject {
    static let zoneLabel = "topology.kubernetes.io/zone"
    private static let regionLabel = "topology.kubernetes.io/region"
    /// Where the cluster's record of a node says which libp2p peer its agent is.
    public static let peerIDAnnotation = "edgemesh.kubeedge.io/peer-id"

    init(_ object: FieldReader, name: String) throws(ObjectError) {
        self.init(name: name)
        let labels = try object["metadata"]["labels"]
        self.zone = try labels[Self.zoneLabel].nonEmptyString()
        self.region = try labels[Self.regionLabel].nonEmptyString()
        self.peerID = try object["metadata"]["annotations"][Self.peerIDAnnotation].nonEmptyString()
        self.podCIDRs = try object["spec"]["podCIDRs"].blocks()
        if self.podCIDRs.isEmpty, let text = try object["spec"]["podCIDR"].nonEmptyString() {
            guard let block = CIDR(text) else {
                throw try object["spec"]["podCIDR"].badValue("a block such as 10.0.0.0/8")
            }
            self.podCIDRs = [block]
        }
        for entry in try object["status"]["addresses"].elements() where try entry["type"].string() == "InternalIP" {
            if let address = try entry["address"].address() { self.internalIPs.append(address) }
        }
    }

    var labels: [String: String] {
        var labels: [String: String] = [:]
        labels[Self.zoneLabel] = self.zone
        labels[Self.regionLabel] = self.region
        return labels
    }

    var annotations: [String: String] { self.peerID.map { [Self.peerIDAnnotation: $0] } ?? [:] }

    var fields: KubeFields {
        var spec = KubeFields()
        spec.set("podCIDRs", texts: self.podCIDRs)
        var status = KubeFields()
        status.set(
            "addresses",
            self.internalIPs.map { ["type": "InternalIP", "address": .string($0.description)] as Document }
        )
        var object = KubeFields()
        object.set("spec", spec)
        object.set("status", status)
        return object
    }
}

extension PodObject {
    init(_ object: FieldReader, name: ObjectName) throws(ObjectError) {
        self.init(name: name)
        let spec = try object["spec"]
        let status = try object["status"]
        self.labels = try object["metadata"]["labels"].stringMap()
        self.nodeName = try spec["nodeName"].nonEmptyString()
        self.hostname = try spec["hostname"].nonEmptyString()
        self.subdomain = try spec["subdomain"].nonEmptyString()
        for entry in try status["podIPs"].elements() {
            if let address = try entry["ip"].address() { self.podIPs.append(address) }
        }
        if self.podIPs.isEmpty, let address = try status["podIP"].address() { self.podIPs = [address] }
        self.isTerminating = try object["metadata"]["deletionTimestamp"].isPresent
        self.isReady = try Self.isReady(status)
        for container in try spec["containers"].elements() {
            for port in try container["ports"].elements() {
                let number = try port["containerPort"].require(
                    port["containerPort"].port(),
                    "a whole number from 1 to 65535"
                )
                self.containerPorts.append(
                    ContainerPort(
                        name: try port["name"].string() ?? "",
                        transport: try port["protocol"].transport() ?? .tcp,
                        port: number
                    )
                )
            }
        }
    }

    /// By the Ready condition where there are conditions, else by the phase: a pod of a manifest has neither and counts
    /// as ready.
    private static func isReady(_ status: FieldReader) throws(ObjectError) -> Bool {
        let phase = try status["phase"].nonEmptyString()
        if phase == "Succeeded" || phase == "Failed" { return false }
        let conditions = try status["conditions"].elements()
        guard !conditions.isEmpty else { return phase == nil || phase == "Running" }
        for condition in conditions where try condition["type"].string() == "Ready" {
            return try condition["status"].string() == "True"
        }
        return false
    }

    var fields: KubeFields {
        var spec = KubeFields()
        spec.set("nodeName", self.nodeName)
        spec.set("hostname", self.hostname)
        spec.set("subdomain", self.subdomain)
        if !self.containerPorts.isEmpty {
            spec.set("containers", [["ports": .array(self.containerPorts.map(\.document))] as Document])
        }
        var status = KubeFields()
        status.set("podIPs", self.podIPs.map { ["ip": .string($0.description)] as Document })
        status.set("conditions", [["type": "Ready", "status": self.isReady ? "True" : "False"] as Document])
        var object = KubeFields()
        object.set("spec", spec)
        object.set("status", status)
        return object
    }
}

extension PodObject.ContainerPort {
    fileprivate var document: Document {
        var fields = KubeFields()
        fields.set("name", self.name)
        fields.set("protocol", self.transport.apiName)
        fields.set("containerPort", self.port)
        return fields.document
    }
}
