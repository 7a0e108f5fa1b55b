public import MeshCore

/// The configuration of the agent or of the gateway: the whole schemas `agent.edgemesh.config.kubeedge.io/v1alpha1` and
/// `gateway.edgemesh.config.kubeedge.io/v1alpha1`, with our additions.
///
/// The properties are named as the keys; docs/configuration.md says what each means.
public struct AgentConfiguration: Sendable, Hashable {
    /// What the process is, and so which keys its file has.
    public enum Role: String, Sendable, Hashable, CaseIterable {
        case agent
        case gateway

        public var apiVersion: String { "\(self.rawValue).edgemesh.config.kubeedge.io/v1alpha1" }
        public var kind: String { self == .agent ? "EdgeMeshAgent" : "EdgeMeshGateway" }
        /// What the program is called, and its file after it.
        public var program: String { "edgemesh-\(self.rawValue)" }
    }

    public let role: Role
    var apiVersion: String
    var kind: String
    public var kubeAPIConfig = KubeAPI()
    public var commonConfig = Common()
    public var modules = Modules()

    public init(role: Role = .agent) {
        self.role = role
        self.apiVersion = role.apiVersion
        self.kind = role.kind
        guard role == .gateway else { return }
        // Beside the agent of its node.
        self.commonConfig.stateDir = "/var/lib/edgemesh-gateway"
        self.commonConfig.adminSocket = "/run/edgemesh/gateway.sock"
    }

    /// Where the Kubernetes API is found.
    public enum RunningMode: String, Sendable, Hashable, CaseIterable {
        /// In the cluster, by the service account.
        case cloud = "CloudMode"
        /// KubeEdge's MetaServer on this node.
        case edge = "EdgeMode"
        /// By `kubeAPIConfig.master` or `kubeAPIConfig.kubeConfig`.
        case manual = "ManualMode"
    }

    public struct KubeAPI: Sendable, Hashable {
        public var master = ""
        public var contentType = "application/vnd.kubernetes.protobuf"
        public var qps = 100
        public var burst = 200
        public var kubeConfig = ""
        /// Settled by `load`: never `.cloud` or `.edge` if `master` or `kubeConfig` is set.
        public var mode = RunningMode.cloud
        public var metaServer = MetaServer()
        public var deleteKubeConfig = false
    }

    public struct MetaServer: Sendable, Hashable {
        /// As written; with `requireAuthorization` the scheme is to be https.
        public var server = "http://127.0.0.1:10550"
        public var requireAuthorization = false
        public var insecureSkipTLSVerify = false
        public var tlsCaFile = "/etc/edgemesh/metaserver/rootCA.crt"
        public var tlsCertFile = "/etc/edgemesh/metaserver/server.crt"
        public var tlsPrivateKeyFile = "/etc/edgemesh/metaserver/server.key"
    }

    public struct Common: Sendable, Hashable {
        /// Settled by `load`: from here or from `NODE_NAME`; never empty in a usable configuration.
        public var nodeName = ""
        public var bridgeDeviceName = "edgemesh0"
        public var bridgeDeviceIP = IPv4Address(169, 254, 96, 16)
        public var bridgeDeviceIPv6: IPv6Address?
        public var stateDir = "/var/lib/edgemesh"
        public var adminSocket = "/run/edgemesh/admin.sock"
        /// Empty: no manifests are read.
        public var manifestsDir = ""
        public var pprof = Profiling()
    }

    public struct Profiling: Sendable, Hashable {
        public var enableProfiling = false
        public var profilingAddress = ""
        public var profilingPort = 0
    }

    public struct Modules: Sendable, Hashable {
        public var edgeDNS = EdgeDNS()
        public var edgeProxy = EdgeProxy()
        public var edgeTunnel = EdgeTunnel()
        public var edgeCNI = EdgeCNI()
        public var edgeGateway = EdgeGateway()
    }

    public struct EdgeDNS: Sendable, Hashable {
        public var enable = false
        public var listenPort: UInt16 = 53
        public var cacheDNS = CacheDNS()
        /// Empty: found from the node's resolv.conf, else `cluster.local`.
        public var clusterDomain = ""
        /// For names outside of the cluster; empty: those of the node's resolv.conf.
        public var upstreamServers: [TransportAddress] = []
        /// 0: no bound.
        public var queriesPerSecondPerSource = 5000
        /// Entries; 0: no cache.
        public var cacheSize = 4096
    }

    public struct CacheDNS: Sendable, Hashable {
        public var enable = false
        public var autoDetect = true
        public var upstreamServers: [TransportAddress] = []
        /// Seconds.
        public var cacheTTL = 30
    }

    public enum ServiceFilterMode: String, Sendable, Hashable, CaseIterable {
        case ifLabelExists = "FilterIfLabelExists"
        case ifLabelDoesNotExist = "FilterIfLabelDoesNotExists"
    }

    public enum KernelBackend: String, Sendable, Hashable, CaseIterable {
        case auto
        case nftables
        case iptables
        case none
    }

    public struct EdgeProxy: Sendable, Hashable {
        public var enable = false
        public var socks5Proxy = Socks5Proxy()
        public var loadBalancer = LoadBalancer()
        public var serviceFilterMode = ServiceFilterMode.ifLabelExists
        public var routableCIDRs: [CIDR] = []
        public var kernelBackend = KernelBackend.auto
        public var dialTimeout = Duration.seconds(5)
        public var lingerTimeout = Duration.seconds(120)
        public var udpIdleTimeout = Duration.seconds(180)
        public var maxConnections = 20_000
        public var maxSplicedConnections = 256
        public var maxUDPSessions = 16_384
    }

    public struct Socks5Proxy: Sendable, Hashable {
        public var enable = false
        public var listenPort: UInt16 = 10800
        /// Empty: everyone on the node may use the proxy.
        public var username = ""
        /// Its first line is the password.
        public var passwordFile = ""
    }

    public struct LoadBalancer: Sendable, Hashable {
        public var partitionCount = 100
        public var replicationFactor = 10
        public var load = 1.25
    }

    public enum TunnelTransport: String, Sendable, Hashable, CaseIterable {
        case tcp
        case ws
        case quic
    }

    /// Which key a node proves itself by.
    public enum TunnelIdentity: String, Sendable, Hashable, CaseIterable {
        case derived
        case node
    }

    public enum RelayServiceMode: String, Sendable, Hashable, CaseIterable {
        case configured
        case volunteer
        case off
    }

    public enum TargetsMode: String, Sendable, Hashable, CaseIterable {
        case known
        case any
    }

    /// What the agent dials for others.
    public struct TunnelTargets: Sendable, Hashable {
        public var mode = TargetsMode.known
        /// `BLOCK`, `BLOCK:PORT` or `BLOCK:FIRST-LAST`.
        public var allow: [String] = []
    }

    /// When packets of pods go by datagrams.
    public enum PacketDatagramsMode: String, Sendable, Hashable, CaseIterable {
        case auto
        case always
        case never
    }

    public struct EdgeTunnel: Sendable, Hashable {
        public var enable = false
        public var listenPort: UInt16 = 20006
        public var transport = TunnelTransport.tcp
        public var rendezvous = "EDGEMESH_PLAYGOUND"
        public var relayNodes: [RelayNode] = []
        public var maxCandidates = 15
        public var heartbeatPeriod = 120
        public var finderPeriod = 60
        public var psk = PSK()
        public var tunnelLimitConfig = TunnelLimits()
        public var listenInterfaces = "*"
        public var extraFilteredInterfaces = ""
        public var metricConfig = Metrics()
        public var identity = TunnelIdentity.derived
        /// Empty: `tunnel.key` in `stateDir`.
        public var identityFile = ""
        public var targets = TunnelTargets()
        public var relayService = RelayServiceMode.configured
        public var portMapping = true
        public var holePunching = true
        public var packetDatagrams = PacketDatagramsMode.auto
        public var livenessInterval = Duration.seconds(1)
        public var livenessTimeout = Duration.seconds(10)
        /// Zero: what a node of its role needs.
        public var maxNodes = 0
    }

    /// Where a relay is found.
    public enum RelayAddress: Sendable, Hashable {
        case address(IPAddress)
        /// Looked up anew for each connection.
        case name(String)
    }

    public struct RelayNode: Sendable, Hashable {
        public var nodeName: String
        public var advertiseAddress: [RelayAddress]

        public init(nodeName: String = "", advertiseAddress: [RelayAddress] = []) {
            self.nodeName = nodeName
            self.advertiseAddress = advertiseAddress
        }
    }

    public struct PSK: Sendable, Hashable {
        public var enable = true
        public var path = "/etc/edgemesh/psk"
    }

    public struct TunnelLimits: Sendable, Hashable {
        public var enable = true
        // The original's are 10240 and 1024, of which its library let about 600 to one node be reached.
        public var tunnelBaseStreamIn = 32768
        public var tunnelBaseStreamOut = 32768
        public var tunnelPeerBaseStreamIn = 16384
        public var tunnelPeerBaseStreamOut = 16384
    }

    public struct Metrics: Sendable, Hashable {
        public var enable = false
        public var port: UInt16 = 9999
    }

    public struct EdgeGateway: Sendable, Hashable {
        public static let defaultControllerName = "kubeedge.io/edgemesh-gateway"

        public var enable = false
        /// Names of interfaces with commas between them; `*` or empty: all.
        public var nic = "*"
        /// Addresses and blocks with commas between them; `*` or empty: all.
        public var includeIP = "*"
        /// The same; `*` or empty: none.
        public var excludeIP = "*"
        public var loadBalancer = LoadBalancer()
        public var controllerName = Self.defaultControllerName
        /// `KEY=VALUE`; empty: Gateways are served whatever their selector.
        public var selectorLabels: [String] = []
        /// Refuses to serve MUTUAL without a `ca.crt` to verify clients with.
        public var strictMutualTLS = false
        public var updateStatus = true
        /// Empty: that of `edgeDNS`, else `cluster.local`.
        public var clusterDomain = ""
        public var routableCIDRs: [CIDR] = []
        /// Every how many requests one is logged; 0: none.
        public var accessLogInterval = 0
        public var showReasons = false
        public var maxConnections = 20_000
        public var maxConnectionsPerClient = 2_000
        /// 0: no bound.
        public var maxBodyBytes = 0
        public var idleTimeout = Duration.seconds(300)
        public var dialTimeout = Duration.seconds(5)
        public var drainTimeout = Duration.seconds(10)
    }

    public struct EdgeCNI: Sendable, Hashable {
        public var enable = false
        public var cloudCIDR: [CIDR] = []
        public var edgeCIDR: [CIDR] = []
    }
}
