public import MeshCore

/// How the name server works. Everything can change while it runs.
public struct EdgeDNSSettings: Hashable, Sendable {
    /// The mode that replaces the cluster zone by a cache in front of the cluster's own DNS.
    public struct CacheDNS: Hashable, Sendable {
        /// Use the cluster IPs of the services `coredns`, `kube-dns` and those with the label `k8s-app: kube-dns`, all in
        /// `kube-system`.
        public var autoDetect = true
        public var upstreamServers: [TransportAddress] = []
        /// The longest time that an answer is kept, in seconds.
        public var cacheTTL: UInt32 = 30

        public init() {}
    }

    /// UDP and TCP sockets. An address that the node does not have yet is bound all the same; a wildcard stands for the
    /// addresses that the node has at the time.
    public var listenAddresses: [TransportAddress]
    /// Nil: taken from the search list of `resolvConfPath`, else `cluster.local`.
    public var clusterDomain: String?
    /// Nil: the cluster zone is served from the catalog.
    public var cacheDNS: CacheDNS?
    /// Where names outside the cluster are asked; nil: at the servers in `resolvConfPath`.
    public var upstreams: [TransportAddress]?
    public var resolvConfPath = "/etc/resolv.conf"

    /// TTL of cluster records, in seconds.
    public var clusterTTL: UInt32 = 30
    /// How long clients may keep "no such name" for cluster names, in seconds. Short, so that a new service is found soon.
    public var clusterNegativeTTL: UInt32 = 5

    /// The most answers kept per event loop: of upstreams, and of the cluster zone.
    public var cacheEntries = 4096
    public var clusterCacheEntries = 8192
    /// Bounds on the TTLs of upstreams, in seconds.
    public var maximumTTL: UInt32 = 3600
    public var maximumNegativeTTL: UInt32 = 300
    /// How long past its time an upstream answer may serve while no upstream can be reached; zero: not at all.
    public var staleWindow: Duration = .seconds(86_400)

    /// The most questions per event loop that wait for upstreams; further ones get SERVFAIL.
    public var maximumOutstanding = 512
    /// The most clients that wait for one question.
    public var maximumWaitersPerQuestion = 256
    /// How long an upstream question may take in all.
    public var upstreamDeadline: Duration = .milliseconds(4500)

    /// The largest UDP reply, and the size announced by EDNS (DNS flag day 2020).
    public var udpPayloadLimit: UInt16 = 1232
    /// TCP connections per event loop, and queries that one of them may have waiting.
    public var maximumConnections = 256
    public var maximumQueriesPerConnection = 32
    public var connectionIdleTimeout: Duration = .seconds(10)

    /// UDP queries a second and in one burst from one source address that is not loopback; zero: no bound.
    /// A query over the bound is answered with TC alone or dropped, by turns.
    public var sourceRate: UInt32 = 5000
    public var sourceBurst: UInt32 = 10_000

    public init(listenAddresses: [TransportAddress]) {
        self.listenAddresses = listenAddresses
    }

    var cacheLimits: AnswerCache.Limits {
        var limits = AnswerCache.Limits()
        limits.entries = self.cacheEntries
        limits.maximumTTL = min(self.maximumTTL, self.cacheDNS?.cacheTTL ?? .max)
        limits.maximumNegativeTTL = self.maximumNegativeTTL
        limits.staleWindow = self.staleWindow
        return limits
    }

    var sourceLimits: SourceRateLimiter.Limits {
        var limits = SourceRateLimiter.Limits()
        limits.rate = self.sourceRate
        limits.burst = self.sourceBurst
        return limits
    }
}
