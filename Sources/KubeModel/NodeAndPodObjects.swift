public import MeshCore

/// core/v1 Node.
public struct NodeObject: Hashable, Sendable {
    public var name: String
    public var internalIPs: [IPAddress] = []
    public var podCIDRs: [CIDR] = []
    /// `topology.kubernetes.io/zone` and `/region`.
    public var zone: String?
    public var region: String?
    /// The annotation `edgemesh.kubeedge.io/peer-id`: the libp2p peer that the node's agent says it is, by the cluster's own
    /// record. Not checked for its form here.
    public var peerID: String?

    public init(name: String) {
        self.name = name
    }
}

/// core/v1 Namespace.
public struct NamespaceObject: Hashable, Sendable {
    public var name: String
    /// Read for the edge gateway, whose listeners may choose namespaces by label.
    public var labels: [String: String] = [:]

    public init(name: String) {
        self.name = name
    }
}

/// core/v1 Pod: read from manifests, where ready pods that a selector matches become endpoints.
public struct PodObject: Hashable, Sendable {
    public struct ContainerPort: Hashable, Sendable {
        public var name: String
        public var transport: TransportProtocol
        public var port: UInt16

        public init(name: String, transport: TransportProtocol, port: UInt16) {
            self.name = name
            self.transport = transport
            self.port = port
        }
    }

    public var name: ObjectName
    public var labels: [String: String] = [:]
    public var podIPs: [IPAddress] = []
    public var nodeName: String?
    public var hostname: String?
    public var subdomain: String?
    public var isReady = true
    public var isTerminating = false
    public var containerPorts: [ContainerPort] = []

    public init(name: ObjectName) {
        self.name = name
    }
}
