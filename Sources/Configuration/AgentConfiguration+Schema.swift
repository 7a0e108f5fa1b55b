import MeshCore

extension AgentConfiguration {
    /// Every key of the file: what it may hold, and when a change takes effect.
    static func schema(of role: Role) -> [ConfigurationKey<AgentConfiguration>] {
        let head = [
            Key("apiVersion", \.apiVersion, .text, .none),
            Key("kind", \.kind, .text, .none),
        ]
        switch role {
        case .agent:
            return head + self.kubeAPIKeys + self.commonKeys(of: role) + self.dnsKeys + self.proxyKeys + self.tunnelKeys
                + self.cniKeys + self.gatewayKeys
        case .gateway:
            return head + self.kubeAPIKeys + self.commonKeys(of: role) + self.gatewayKeys + self.tunnelKeys
        }
    }

    typealias Key = ConfigurationKey<AgentConfiguration>

    private static var kubeAPIKeys: [ConfigurationKey<AgentConfiguration>] {
        let url = ValueForm<String>.text("a URL that starts with http:// or https://") {
            $0.hasPrefix("http://") || $0.hasPrefix("https://")
        }
        return [
            Key("kubeAPIConfig.master", \.kubeAPIConfig.master, .text, .restart),
            Key("kubeAPIConfig.contentType", \.kubeAPIConfig.contentType, .text, .none),
            Key("kubeAPIConfig.qps", \.kubeAPIConfig.qps, .integer(1...100_000), .restart),
            Key("kubeAPIConfig.burst", \.kubeAPIConfig.burst, .integer(1...100_000), .restart),
            Key("kubeAPIConfig.kubeConfig", \.kubeAPIConfig.kubeConfig, .optionalPath, .restart),
            Key("kubeAPIConfig.mode", \.kubeAPIConfig.mode, .choice, .restart),
            Key("kubeAPIConfig.metaServer.server", \.kubeAPIConfig.metaServer.server, url, .restart),
            Key(
                "kubeAPIConfig.metaServer.security.requireAuthorization",
                \.kubeAPIConfig.metaServer.requireAuthorization,
                .flag,
                .restart
            ),
            Key(
                "kubeAPIConfig.metaServer.security.insecureSkipTLSVerify",
                \.kubeAPIConfig.metaServer.insecureSkipTLSVerify,
                .flag,
                .restart
            ),
            Key(
                "kubeAPIConfig.metaServer.security.tlsCaFile",
                \.kubeAPIConfig.metaServer.tlsCaFile,
                .optionalPath,
                .restart
            ),
            Key(
                "kubeAPIConfig.metaServer.security.tlsCertFile",
                \.kubeAPIConfig.metaServer.tlsCertFile,
                .optionalPath,
                .restart
            ),
            Key(
                "kubeAPIConfig.metaServer.security.tlsPrivateKeyFile",
                \.kubeAPIConfig.metaServer.tlsPrivateKeyFile,
                .optionalPath,
                .restart
            ),
            Key("kubeAPIConfig.deleteKubeConfig", \.kubeAPIConfig.deleteKubeConfig, .flag, .none),
        ]
    }

    private static func commonKeys(of role: Role) -> [ConfigurationKey<AgentConfiguration>] {
        let bridge = [
            Key("commonConfig.bridgeDeviceName", \.commonConfig.bridgeDeviceName, .interfaceName, .restart),
            Key("commonConfig.bridgeDeviceIP", \.commonConfig.bridgeDeviceIP, .ipv4, .restart),
            Key("commonConfig.bridgeDeviceIPv6", \.commonConfig.bridgeDeviceIPv6, .optionalIPv6, .restart),
        ]
        // The original has it elsewhere in the file of its gateway.
        let profiling = role == .agent ? "commonConfig.pprofConfig" : "pprofConfig"
        return [Key("commonConfig.nodeName", \.commonConfig.nodeName, .text, .restart)]
            + (role == .agent ? bridge : []) + [
                Key("commonConfig.stateDir", \.commonConfig.stateDir, .absolutePath, .restart),
                Key(
                    "commonConfig.adminSocket",
                    \.commonConfig.adminSocket,
                    // The size of sun_path, with its closing NUL.
                    .text("an absolute path of at most 107 bytes") { $0.hasPrefix("/") && $0.utf8.count <= 107 },
                    .restart
                ),
                Key("commonConfig.manifestsDir", \.commonConfig.manifestsDir, .optionalPath, .restart),
                Key("\(profiling).enableProfiling", \.commonConfig.pprof.enableProfiling, .flag, .none),
                Key("\(profiling).profilingAddress", \.commonConfig.pprof.profilingAddress, .text, .none),
                Key(
                    "\(profiling).profilingPort",
                    \.commonConfig.pprof.profilingPort,
                    .integer(0...65535),
                    .none
                ),
            ]
    }

    static var domain: ValueForm<String> {
        .text("a domain name such as cluster.local, or \"\"") { name in
            name.utf8.count <= 253 && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F } && !name.hasPrefix(".")
                && !name.contains("..") && name.split(separator: ".").allSatisfy { $0.utf8.count <= 63 }
        }
    }

    private static var dnsKeys: [ConfigurationKey<AgentConfiguration>] {
        [
            Key("modules.edgeDNS.enable", \.modules.edgeDNS.enable, .flag, .restart),
            Key(ignored: "modules.edgeDNS.kubeAPIConfig"),
            Key(ignored: "modules.edgeDNS.listenInterface"),
            Key("modules.edgeDNS.listenPort", \.modules.edgeDNS.listenPort, .port, .live),
            Key("modules.edgeDNS.cacheDNS.enable", \.modules.edgeDNS.cacheDNS.enable, .flag, .live),
            Key("modules.edgeDNS.cacheDNS.autoDetect", \.modules.edgeDNS.cacheDNS.autoDetect, .flag, .live),
            Key(
                "modules.edgeDNS.cacheDNS.upstreamServers",
                \.modules.edgeDNS.cacheDNS.upstreamServers,
                .list(of: .dnsServer),
                .live
            ),
            Key("modules.edgeDNS.cacheDNS.cacheTTL", \.modules.edgeDNS.cacheDNS.cacheTTL, .integer(0...86400), .live),
            Key("modules.edgeDNS.clusterDomain", \.modules.edgeDNS.clusterDomain, self.domain, .live),
            Key("modules.edgeDNS.upstreamServers", \.modules.edgeDNS.upstreamServers, .list(of: .dnsServer), .live),
            Key(
                "modules.edgeDNS.queriesPerSecondPerSource",
                \.modules.edgeDNS.queriesPerSecondPerSource,
                .integer(0...10_000_000),
                .live
            ),
            Key("modules.edgeDNS.cacheSize", \.modules.edgeDNS.cacheSize, .integer(0...10_000_000), .live),
        ]
    }

    private static var proxyKeys: [ConfigurationKey<AgentConfiguration>] {
        [
            Key("modules.edgeProxy.enable", \.modules.edgeProxy.enable, .flag, .restart),
            Key(ignored: "modules.edgeProxy.listenInterface"),
            Key("modules.edgeProxy.socks5Proxy.enable", \.modules.edgeProxy.socks5Proxy.enable, .flag, .restart),
            Key(
                "modules.edgeProxy.socks5Proxy.listenPort",
                \.modules.edgeProxy.socks5Proxy.listenPort,
                .port,
                .restart
            ),
            Key(ignored: "modules.edgeProxy.socks5Proxy.nodeName"),
            Key(ignored: "modules.edgeProxy.socks5Proxy.namespace"),
            Key("modules.edgeProxy.socks5Proxy.username", \.modules.edgeProxy.socks5Proxy.username, .text, .restart),
            Key(
                "modules.edgeProxy.socks5Proxy.passwordFile",
                \.modules.edgeProxy.socks5Proxy.passwordFile,
                .optionalPath,
                .restart
            ),
        ] + self.ringKeys("modules.edgeProxy", \.modules.edgeProxy.loadBalancer) + [
            Key("modules.edgeProxy.serviceFilterMode", \.modules.edgeProxy.serviceFilterMode, .choice, .live),
            Key("modules.edgeProxy.routableCIDRs", \.modules.edgeProxy.routableCIDRs, .list(of: .block), .live),
            Key("modules.edgeProxy.kernelBackend", \.modules.edgeProxy.kernelBackend, .choice, .restart),
            Key("modules.edgeProxy.dialTimeout", \.modules.edgeProxy.dialTimeout, .seconds(0.05...300), .live),
            Key("modules.edgeProxy.lingerTimeout", \.modules.edgeProxy.lingerTimeout, .seconds(0.05...86400), .live),
            Key("modules.edgeProxy.udpIdleTimeout", \.modules.edgeProxy.udpIdleTimeout, .seconds(1...86400), .live),
            Key(
                "modules.edgeProxy.maxConnections",
                \.modules.edgeProxy.maxConnections,
                .integer(1...10_000_000),
                .live
            ),
            Key(
                "modules.edgeProxy.maxSplicedConnections",
                \.modules.edgeProxy.maxSplicedConnections,
                .integer(0...100_000),
                .live
            ),
            Key(
                "modules.edgeProxy.maxUDPSessions",
                \.modules.edgeProxy.maxUDPSessions,
                .integer(1...10_000_000),
                .live
            ),
        ]
    }

    /// The keys of the hash ring of a module.
    static func ringKeys(_ module: String, _ ring: WritableKeyPath<AgentConfiguration, LoadBalancer>) -> [Key] {
        let root = "\(module).loadBalancer"
        return [
            Key(ignored: "\(root).caller"),
            Key(ignored: "\(root).nodeName"),
            Key(
                "\(root).consistentHash.partitionCount",
                ring.appending(path: \.partitionCount),
                .integer(1...1_000_000),
                .live
            ),
            Key(
                "\(root).consistentHash.replicationFactor",
                ring.appending(path: \.replicationFactor),
                .integer(1...10_000),
                .live
            ),
            Key("\(root).consistentHash.load", ring.appending(path: \.load), .decimal(1...100), .live),
        ]
    }

    private static var tunnelKeys: [ConfigurationKey<AgentConfiguration>] {
        let relay = ValueForm<RelayNode>.object(
            [
                ConfigurationKey("nodeName", \.nodeName, .text("the name of a node") { !$0.isEmpty }, .live),
                ConfigurationKey("advertiseAddress", \.advertiseAddress, .list(of: .relayAddress), .live),
            ],
            required: "nodeName",
            empty: { RelayNode() }
        )
        let streams = ValueForm<Int>.integer(0...10_000_000)
        let seconds = ValueForm<Int>.integer(1...86400)
        return [
            Key("modules.edgeTunnel.enable", \.modules.edgeTunnel.enable, .flag, .restart),
            Key(ignored: "modules.edgeTunnel.mode"),
            Key(ignored: "modules.edgeTunnel.nodeName"),
            Key("modules.edgeTunnel.listenPort", \.modules.edgeTunnel.listenPort, .port, .restart),
            Key("modules.edgeTunnel.transport", \.modules.edgeTunnel.transport, .choice, .restart),
            Key("modules.edgeTunnel.rendezvous", \.modules.edgeTunnel.rendezvous, .text, .restart),
            Key("modules.edgeTunnel.relayNodes", \.modules.edgeTunnel.relayNodes, .list(of: relay), .live),
            Key(ignored: "modules.edgeTunnel.enableIpfsLog"),
            Key("modules.edgeTunnel.maxCandidates", \.modules.edgeTunnel.maxCandidates, .integer(1...1000), .restart),
            Key("modules.edgeTunnel.heartbeatPeriod", \.modules.edgeTunnel.heartbeatPeriod, seconds, .restart),
            Key("modules.edgeTunnel.finderPeriod", \.modules.edgeTunnel.finderPeriod, seconds, .restart),
            Key("modules.edgeTunnel.psk.enable", \.modules.edgeTunnel.psk.enable, .flag, .restart),
            Key("modules.edgeTunnel.psk.path", \.modules.edgeTunnel.psk.path, .absolutePath, .restart),
            Key(
                "modules.edgeTunnel.tunnelLimitConfig.enable",
                \.modules.edgeTunnel.tunnelLimitConfig.enable,
                .flag,
                .restart
            ),
            Key(
                "modules.edgeTunnel.tunnelLimitConfig.tunnelBaseStreamIn",
                \.modules.edgeTunnel.tunnelLimitConfig.tunnelBaseStreamIn,
                streams,
                .restart
            ),
            Key(
                "modules.edgeTunnel.tunnelLimitConfig.tunnelBaseStreamOut",
                \.modules.edgeTunnel.tunnelLimitConfig.tunnelBaseStreamOut,
                streams,
                .restart
            ),
            Key(
                "modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn",
                \.modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn,
                streams,
                .restart
            ),
            Key(
                "modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamOut",
                \.modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamOut,
                streams,
                .restart
            ),
            Key(ignored: "modules.edgeTunnel.configPath"),
            Key("modules.edgeTunnel.listenInterfaces", \.modules.edgeTunnel.listenInterfaces, .text, .restart),
            Key(
                "modules.edgeTunnel.extraFilteredInterfaces",
                \.modules.edgeTunnel.extraFilteredInterfaces,
                .text,
                .restart
            ),
            Key("modules.edgeTunnel.metricConfig.enable", \.modules.edgeTunnel.metricConfig.enable, .flag, .restart),
            Key("modules.edgeTunnel.metricConfig.port", \.modules.edgeTunnel.metricConfig.port, .port, .restart),
        ] + self.ownTunnelKeys
    }

    /// Those that the original does not have.
    private static var ownTunnelKeys: [ConfigurationKey<AgentConfiguration>] {
        let target = ValueForm<String>.text(
            "a block such as 10.0.0.0/8, or an address or a block with :PORT or :FIRST-LAST behind it",
            Self.isTarget
        )
        return [
            Key("modules.edgeTunnel.identity", \.modules.edgeTunnel.identity, .choice, .restart),
            Key("modules.edgeTunnel.identityFile", \.modules.edgeTunnel.identityFile, .optionalPath, .restart),
            Key("modules.edgeTunnel.targets.mode", \.modules.edgeTunnel.targets.mode, .choice, .live),
            Key("modules.edgeTunnel.targets.allow", \.modules.edgeTunnel.targets.allow, .list(of: target), .live),
            Key("modules.edgeTunnel.relayService", \.modules.edgeTunnel.relayService, .choice, .live),
            Key("modules.edgeTunnel.portMapping", \.modules.edgeTunnel.portMapping, .flag, .restart),
            Key("modules.edgeTunnel.holePunching", \.modules.edgeTunnel.holePunching, .flag, .restart),
            Key("modules.edgeTunnel.packetDatagrams", \.modules.edgeTunnel.packetDatagrams, .choice, .restart),
            Key(
                "modules.edgeTunnel.livenessInterval",
                \.modules.edgeTunnel.livenessInterval,
                .seconds(0.5...3600),
                .live
            ),
            Key(
                "modules.edgeTunnel.livenessTimeout",
                \.modules.edgeTunnel.livenessTimeout,
                .seconds(1...3600),
                .live
            ),
            Key("modules.edgeTunnel.maxNodes", \.modules.edgeTunnel.maxNodes, .integer(0...100_000), .restart),
        ]
    }

    private static func isTarget(_ text: String) -> Bool {
        if CIDR(text) != nil { return true }
        guard let colon = text.lastIndex(of: ":") else { return false }
        let host = text[..<colon]
        let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
        guard CIDR(isBracketed ? host.dropFirst().dropLast() : host) != nil else { return false }
        let ports = text[text.index(after: colon)...].split(separator: "-", omittingEmptySubsequences: false)
        let numbers = ports.compactMap { UInt16($0) }
        return ports.count <= 2 && numbers.count == ports.count && numbers[0] > 0
            && numbers[0] <= numbers[numbers.count - 1]
            && (isBracketed || !host.contains(":") || host.contains("/"))
    }

    private static var cniKeys: [ConfigurationKey<AgentConfiguration>] {
        [
            Key("modules.edgeCNI.enable", \.modules.edgeCNI.enable, .flag, .restart),
            Key(ignored: "modules.edgeCNI.encapsulationIP"),
            Key(ignored: "modules.edgeCNI.tunMode"),
            Key("modules.edgeCNI.meshCIDRConfig.cloudCIDR", \.modules.edgeCNI.cloudCIDR, .list(of: .block), .restart),
            Key("modules.edgeCNI.meshCIDRConfig.edgeCIDR", \.modules.edgeCNI.edgeCIDR, .list(of: .block), .restart),
        ]
    }
}
