public import MeshCore

public enum ServiceType: String, Hashable, Sendable {
    case clusterIP = "ClusterIP"
    case nodePort = "NodePort"
    case loadBalancer = "LoadBalancer"
    case externalName = "ExternalName"
}

/// Which endpoints may answer: all, or those on the node that the traffic reached.
public enum TrafficPolicy: String, Hashable, Sendable {
    case cluster = "Cluster"
    case local = "Local"
}

/// core/v1 Service.
public struct ServiceObject: Hashable, Sendable {
    public struct Port: Hashable, Sendable {
        /// Empty if the service has one unnamed port.
        public var name: String
        public var transport: TransportProtocol
        public var port: UInt16
        /// Zero if the service has none.
        public var nodePort: UInt16
        /// A number or the name of a container port; used only to make endpoints from pods in manifests.
        public var targetPort: TargetPort
        public var appProtocol: String?

        public init(
            name: String = "",
            transport: TransportProtocol = .tcp,
            port: UInt16,
            nodePort: UInt16 = 0,
            targetPort: TargetPort? = nil,
            appProtocol: String? = nil
        ) {
            self.name = name
            self.transport = transport
            self.port = port
            self.nodePort = nodePort
            self.targetPort = targetPort ?? .number(port)
            self.appProtocol = appProtocol
        }
    }

    public enum TargetPort: Hashable, Sendable {
        case number(UInt16)
        case name(String)
    }

    /// The labels that mean something to the mesh; a service's others are not kept.
    public struct FilterLabels: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        /// `service.edgemesh.kubeedge.io/service-proxy-name`, with any value: see `serviceFilterMode`.
        public static let edgeMeshProxyName = FilterLabels(rawValue: 1)
        /// `service.kubernetes.io/headless`, with any value: the proxy leaves the service alone.
        public static let headless = FilterLabels(rawValue: 2)
        /// `k8s-app: kube-dns`: the cluster's own DNS, whatever the service's name.
        public static let clusterDNS = FilterLabels(rawValue: 4)

        public init(rawValue: UInt8) { self.rawValue = rawValue }
    }

    public var name: ObjectName
    public var type: ServiceType = .clusterIP
    /// Empty for a headless or ExternalName service.
    public var clusterIPs: [IPAddress] = []
    /// `clusterIP: None`.
    public var isHeadless = false
    public var externalName: String?
    public var ports: [Port] = []
    public var selector: [String: String] = [:]
    public var externalIPs: [IPAddress] = []
    public var loadBalancerIngress: [IPAddress] = []
    public var loadBalancerSourceRanges: [CIDR] = []
    /// Nil: no affinity. Otherwise ClientIP affinity lasts this many seconds.
    public var clientIPAffinitySeconds: Int?
    public var internalTrafficPolicy: TrafficPolicy = .cluster
    public var externalTrafficPolicy: TrafficPolicy = .cluster
    public var publishNotReadyAddresses = false
    /// `PreferClose`, `PreferSameZone`, `PreferSameNode` or nil.
    public var trafficDistribution: String?
    public var filterLabels: FilterLabels = []

    public init(name: ObjectName) {
        self.name = name
    }
}
