public import NIOCore

/// How peers of the local network are found (libp2p/specs, discovery/mdns; RFC 6762).
public struct MDNSConfiguration: Sendable {
    /// Before `.local`. EdgeMesh v1.17 uses its rendezvous string.
    public var serviceName = "_p2p._udp"
    /// Interfaces by name. Those of containers lead to no other node.
    public var interfaceFilter: @Sendable (String) -> Bool = { name in
        !MDNSConfiguration.virtualInterfaces.contains { name.hasPrefix($0) }
    }
    /// Prefixes of the names of interfaces that container runtimes, bridges for them and EdgeMesh itself make.
    public static let virtualInterfaces = [
        "docker", "br-", "veth", "cni", "flannel", "cali", "cilium", "lxc", "tunl", "kube-ipvs", "virbr", "edgemesh",
        "nodelocaldns", "dummy",
    ]
    public var usesIPv6 = true
    /// Seconds for which others keep what is announced; of its addresses `hostLifetime`.
    public var recordLifetime: UInt32 = 3200
    public var hostLifetime: UInt32 = 120
    /// Queries are asked at growing intervals, from one second to this.
    public var maximumQueryInterval: TimeAmount = .seconds(60)
    /// How often the interfaces are looked at.
    public var interfaceInterval: TimeAmount = .seconds(5)
    public var maximumInterfaces = 16
    /// Announcements of peers that are kept for each interface.
    public var maximumInstances = 1024
    /// Addresses that are taken of one peer.
    public var maximumAddressesPerPeer = 16
    public var interfaces: any MulticastInterfaceLister = SystemMulticastInterfaces()
    public var sockets: any MulticastSockets = SystemMulticastSockets()

    public init(serviceName: String = "_p2p._udp") {
        self.serviceName = serviceName
    }
}

/// What mDNS has done since it was started.
public struct MDNSMetrics: Sendable, Hashable {
    public var interfaces = 0
    public var messagesReceived: UInt64 = 0
    public var messagesSent: UInt64 = 0
    /// Messages that are no DNS or against RFC 6762.
    public var messagesMalformed: UInt64 = 0
    public var peersFound: UInt64 = 0
    /// Announcements that gave way to newer ones for want of room.
    public var instancesDropped: UInt64 = 0

    public init() {}
}
