import Configuration
import EdgeCNI
import EdgeDNS
import EdgeProxy
import KubeClient
import LoadBalancing
import MeshCore
import NIOCore
import ServiceCatalog

// The configuration file in the words of each module.
extension AgentConfiguration {
    var bridgeAddresses: [IPAddress] {
        [.v4(self.commonConfig.bridgeDeviceIP)] + (self.commonConfig.bridgeDeviceIPv6.map { [.v6($0)] } ?? [])
    }

    var catalogSettings: CatalogSettings {
        let (dns, gateway) = (self.modules.edgeDNS, self.modules.edgeGateway)
        // An agent's gateway shares its catalog.
        let ring = self.role == .agent ? self.modules.edgeProxy.loadBalancer : gateway.loadBalancer
        let domain = dns.clusterDomain.isEmpty ? gateway.clusterDomain : dns.clusterDomain
        return CatalogSettings(
            filterMode: ServiceCatalog.ServiceFilterMode(rawValue: self.modules.edgeProxy.serviceFilterMode.rawValue)
                ?? .filterIfLabelExists,
            clusterDomain: domain.isEmpty ? "cluster.local" : domain,
            ringLoadFactor: ring.load,
            ringSize: min(ring.partitionCount * ring.replicationFactor, ConsistentHashPolicy.ringSizes.upperBound),
            keepsPodNames: gateway.enable
        )
    }

    var dnsSettings: EdgeDNSSettings {
        let dns = self.modules.edgeDNS
        var settings = EdgeDNSSettings(
            listenAddresses: self.bridgeAddresses.map { TransportAddress($0, dns.listenPort) }
        )
        settings.clusterDomain = dns.clusterDomain.isEmpty ? nil : dns.clusterDomain
        settings.upstreams = dns.upstreamServers.isEmpty ? nil : dns.upstreamServers
        settings.sourceRate = UInt32(clamping: dns.queriesPerSecondPerSource)
        settings.sourceBurst = UInt32(clamping: dns.queriesPerSecondPerSource * 2)
        settings.cacheEntries = dns.cacheSize
        if dns.cacheDNS.enable {
            var cache = EdgeDNSSettings.CacheDNS()
            cache.autoDetect = dns.cacheDNS.autoDetect
            cache.upstreamServers = dns.cacheDNS.upstreamServers
            cache.cacheTTL = UInt32(clamping: dns.cacheDNS.cacheTTL)
            settings.cacheDNS = cache
        }
        return settings
    }

    var proxyConfiguration: EdgeProxyService.Configuration {
        let proxy = self.modules.edgeProxy
        var limits = ProxyLimits()
        limits.dialTimeout = TimeAmount(proxy.dialTimeout)
        limits.lingerTimeout = TimeAmount(proxy.lingerTimeout)
        limits.assuredTimeout = TimeAmount(proxy.udpIdleTimeout)
        limits.maximumConnections = proxy.maxConnections
        limits.maximumSplices = proxy.maxSplicedConnections
        limits.maximumSessions = proxy.maxUDPSessions
        let v4 = TransportAddress(.v4(self.commonConfig.bridgeDeviceIP), 0)
        let v6 = self.commonConfig.bridgeDeviceIPv6.map { TransportAddress(.v6($0), 0) }
        return EdgeProxyService.Configuration(
            planner: ServicePlanner(
                nodeName: self.commonConfig.nodeName,
                routableCIDRs: proxy.routableCIDRs,
                hasIPv6: v6 != nil
            ),
            limits: limits,
            tcpV4: v4,
            udpV4: v4,
            tcpV6: v6,
            udpV6: v6
        )
    }

    /// The SOCKS5 proxy on the bridge address. Throws if its password cannot be read.
    func socks5Settings() throws -> Socks5Server.Settings {
        let proxy = self.modules.edgeProxy
        let user = proxy.socks5Proxy.username
        return Socks5Server.Settings(
            address: TransportAddress(.v4(self.commonConfig.bridgeDeviceIP), proxy.socks5Proxy.listenPort),
            reach: self.proxyConfiguration.planner.reach,
            clusterDomain: self.catalogSettings.clusterDomain,
            user: user.isEmpty ? nil : user,
            password: user.isEmpty ? "" : try Self.secret(proxy.socks5Proxy.passwordFile)
        )
    }

    var cniSettings: EdgeCNISettings {
        let cni = self.modules.edgeCNI
        return EdgeCNISettings(nodeName: self.commonConfig.nodeName, mesh: cni.cloudCIDR + cni.edgeCIDR)
    }

    /// The first line of a file that holds a secret.
    private static func secret(_ path: String) throws -> String {
        let bytes = try ConfigSource.readFile(path, advice: "set modules.edgeProxy.socks5Proxy.passwordFile")
        let text = String(decoding: bytes, as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
    }

    var sourceOptions: KubernetesSource.Options {
        var options = KubernetesSource.Options()
        options.requestsPerSecond = Double(self.kubeAPIConfig.qps)
        options.burst = Double(self.kubeAPIConfig.burst)
        options.followsGateway = self.modules.edgeGateway.enable
        options.version = Version.number
        return options
    }

    /// A MetaServer hands changes on to the cloud with rights of its own, or not at all: nothing is written there.
    var writesGatewayStatus: Bool {
        self.followsAPI && self.kubeAPIConfig.mode != .edge && self.modules.edgeGateway.updateStatus
    }

    /// Whether a Kubernetes API is followed. A folder of manifests stands alone unless an API is named or the agent runs
    /// in a cluster.
    var followsAPI: Bool {
        self.commonConfig.manifestsDir.isEmpty || self.kubeAPIConfig.mode != .edge
    }

    /// The API server and how to speak with it. No kubeconfig file is written, unlike in the original: nothing on the
    /// node needs one.
    func kubeConfiguration(variable: (String) -> String?) throws(KubeError) -> KubeConfiguration {
        let api = self.kubeAPIConfig
        switch api.mode {
        case .manual where !api.kubeConfig.isEmpty:
            return try .kubeconfig(path: api.kubeConfig, server: api.master.isEmpty ? nil : api.master)
        case .manual:
            return try .master(api.master)
        case .edge:
            var security = KubeConfiguration.MetaServerSecurity()
            security.requiresAuthorization = api.metaServer.requireAuthorization
            security.skipsTLSVerification = api.metaServer.insecureSkipTLSVerify
            security.caFile = api.metaServer.tlsCaFile
            security.certificateFile = api.metaServer.tlsCertFile
            security.keyFile = api.metaServer.tlsPrivateKeyFile
            return try .metaServer(api.metaServer.server, security: security)
        case .cloud:
            return try .inCluster(environment: variable)
        }
    }
}
