import Admin
import CLinux
import Configuration
import EdgeCNI
import EdgeDNS
import EdgeProxy
import EdgeTunnel
import HashTreeCollections
import KubeClient
import KubeModel
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import ServiceLifecycle
import Synchronization

/// The parts of an agent and how each is run. A part that cannot start is started again; the others do not notice.
final class AgentParts: Sendable {
    let catalog: ClusterCatalog
    let board = ModuleBoard()
    let store: OfflineStore
    let dns: EdgeDNSService?
    let proxy: ProxyModule?
    /// Nil if it is off.
    let socks5: SOCKS5Module?
    let tunnel: EdgeTunnelService?
    let cni: EdgeCNIService?
    let gateway: GatewayModule?

    private let configuration: AgentConfiguration
    private let platform: NodePlatform
    private let group: MultiThreadedEventLoopGroup
    private let logger: Logger

    init(
        configuration: AgentConfiguration,
        platform: NodePlatform,
        group: MultiThreadedEventLoopGroup,
        logger: Logger
    ) {
        self.configuration = configuration
        self.platform = platform
        self.group = group
        self.logger = logger
        let catalog = ClusterCatalog(
            settings: configuration.catalogSettings,
            authority: configuration.followsAPI ? .api : .manifests,
            followsManifests: !configuration.commonConfig.manifestsDir.isEmpty
        )
        self.catalog = catalog
        self.store = OfflineStore(directory: configuration.commonConfig.stateDir, logger: logger)
        let modules = configuration.modules
        self.dns =
            modules.edgeDNS.enable
            ? EdgeDNSService(settings: configuration.dnsSettings, catalog: catalog, group: group, logger: logger) : nil
        let tunnel =
            modules.edgeTunnel.enable
            ? TunnelModule.make(configuration, catalog: catalog, group: group, logger: logger) : nil
        self.tunnel = tunnel
        self.proxy =
            modules.edgeProxy.enable
            ? ProxyModule(
                configuration: configuration,
                platform: platform,
                catalog: catalog,
                tunnel: tunnel,
                group: group,
                logger: logger
            ) : nil
        self.socks5 = SOCKS5Module(
            configuration: configuration,
            platform: platform,
            catalog: catalog,
            tunnel: tunnel,
            group: group,
            logger: logger
        )
        self.cni = tunnel.flatMap { tunnel -> EdgeCNIService? in
            guard modules.edgeCNI.enable, configuration.role == .agent else { return nil }
            return EdgeCNIService(
                settings: configuration.cniSettings,
                catalog: catalog,
                tunnel: tunnel,
                platform: platform.makePodNetwork(modules.edgeProxy.kernelBackend.rawValue, logger),
                loops: Array(group.makeIterator()),
                logger: logger
            )
        }
        self.gateway =
            modules.edgeGateway.enable
            ? GatewayModule(
                configuration: configuration,
                catalog: catalog,
                tunnel: tunnel,
                group: group,
                logger: logger
            ) : nil
        let others = configuration.role == .agent ? [Agent.dnsModule, Agent.proxyModule, Agent.cniModule] : []
        for (name, isEnabled) in [
            (Agent.dnsModule, modules.edgeDNS.enable), (Agent.proxyModule, modules.edgeProxy.enable),
            (TunnelModule.name, modules.edgeTunnel.enable), (GatewayModule.name, modules.edgeGateway.enable),
            (Agent.cniModule, modules.edgeCNI.enable),
        ] where !isEnabled && (others + [TunnelModule.name, GatewayModule.name]).contains(name) {
            self.board.set(name, .disabled)
        }
    }

    /// Those that report to status and metrics.
    var reporters: [any StatusReporting] {
        let parts: [(any StatusReporting)?] = [
            self.dns, self.proxy, self.socks5, self.tunnel, self.cni, self.gateway,
        ]
        return parts.compactMap { $0 }
    }

    /// What the command lines ask of the tunnel; nil if it is off.
    var tunnelQueries: TunnelQueries? {
        self.tunnel.map { tunnel in
            TunnelQueries(
                ping: { node async throws(TunnelError) in try await tunnel.ping(node: node) },
                tunnelNode: { [proxy] in proxy?.reach.tunnelNode(of: $0) }
            )
        }
    }

    /// Takes over what can change live; all else stays as the process was started.
    func apply(_ read: AgentConfiguration) async {
        let new = self.configuration.takingLiveValues(of: read)
        self.catalog.update(settings: new.catalogSettings)
        self.dns?.update(new.dnsSettings)
        self.proxy?.update(new)
        self.tunnel?.update(new.tunnelSettings)
        await self.gateway?.update(new)
    }

    /// In the order of starting; they are stopped in reverse, so that new flows end before names, and names before state.
    func services(admin: [any ServiceLifecycle.Service]) -> [any ServiceLifecycle.Service] {
        var services = admin
        services.append(StoreService(store: self.store, catalog: self.catalog))
        if !self.configuration.commonConfig.manifestsDir.isEmpty { services.append(self.manifests()) }
        if self.configuration.followsAPI { services.append(self.api()) }
        if self.dns != nil || self.proxy != nil { services.append(self.bridge()) }
        if let dns = self.dns {
            services.append(
                self.supervised(Agent.dnsModule) { [platform, configuration] isUp in
                    // Its first try to bind would come before the address, and the next a while later.
                    try? await platform.ensureBridge(
                        configuration.commonConfig.bridgeDeviceName,
                        configuration.bridgeAddresses
                    )
                    isUp()
                    try await dns.run()
                }
            )
        }
        // Before the proxy, so that it goes on while the flows through it are drained.
        if let tunnel = self.tunnel {
            services.append(self.supervised(TunnelModule.name) { isUp in try await tunnel.run(isUp: isUp) })
        }
        if let cni = self.cni {
            services.append(self.supervised(Agent.cniModule) { isUp in try await cni.run(isUp: isUp) })
        }
        if let proxy = self.proxy {
            let module = self.supervised(Agent.proxyModule) { isUp in try await proxy.run(isUp: isUp) }
            services.append(ProxyLifecycle(module: module, proxy: proxy))
        }
        if let socks5 = self.socks5 {
            services.append(self.supervised(SOCKS5Module.name) { isUp in try await socks5.run(isUp: isUp) })
        }
        if let gateway = self.gateway {
            if self.configuration.followsAPI {
                services.append(self.credentials(of: gateway))
                services.append(self.podLabels(of: gateway))
            }
            if self.configuration.writesGatewayStatus { services.append(self.status(of: gateway)) }
            services.append(self.supervised(GatewayModule.name) { isUp in try await gateway.run(isUp: isUp) })
        }
        services.append(MemoryTrimService(catalog: self.catalog))
        return services
    }

    func supervised(
        _ name: String,
        _ body: @escaping @Sendable (_ isUp: @escaping @Sendable () -> Void) async throws -> Void
    ) -> SupervisedModule {
        SupervisedModule(name: name, board: self.board, logger: self.logger, body: body)
    }

    private func manifests() -> any ServiceLifecycle.Service {
        let folder = self.configuration.commonConfig.manifestsDir
        return self.supervised(Agent.manifestsModule) { [catalog, vault = self.gateway?.vault, logger] isUp in
            isUp()
            let source = ManifestSource(folder: folder, logger: logger, readsCredentials: vault != nil)
            try await cancelWhenGracefulShutdown {
                try await source.run { catalog.apply(vault?.take($0) ?? $0, from: .manifests) }
            }
        }
    }

    private func api() -> any ServiceLifecycle.Service {
        self.supervised(Agent.sourceModule) { [catalog] isUp in
            let source = try self.source(knownObjects: Self.knownObjects(catalog.snapshot))
            isUp()
            try await cancelWhenGracefulShutdown {
                try await source.run { catalog.apply($0, from: .api) }
            }
        }
    }

    private func source(knownObjects: [ObjectKind: Int] = [:]) throws -> KubernetesSource {
        var options = self.configuration.sourceOptions
        options.knownObjects = knownObjects
        return KubernetesSource(
            try self.configuration.kubeConfiguration(variable: ProcessEnvironment.variable),
            options: options,
            group: self.group,
            logger: self.logger
        )
    }

    /// Secrets and ConfigMaps that the gateway's plan names, and nothing else of their kinds.
    private func credentials(of gateway: GatewayModule) -> any ServiceLifecycle.Service {
        self.supervised(Agent.credentialsModule) { [configuration, group, logger, vault = gateway.vault] isUp in
            let source = NamedObjectSource(
                try configuration.kubeConfiguration(variable: ProcessEnvironment.variable),
                options: configuration.sourceOptions,
                group: group,
                logger: logger
            )
            isUp()
            try await cancelWhenGracefulShutdown {
                try await source.run(vault.requests()) { vault.take($1, of: $0) }
            }
        }
    }

    /// Of the namespaces in which the gateway's plan has subsets, and of no others.
    private func podLabels(of gateway: GatewayModule) -> any ServiceLifecycle.Service {
        self.supervised(Agent.subsetsModule) { [pods = gateway.pods] isUp in
            let source = try self.source()
            isUp()
            try await cancelWhenGracefulShutdown {
                try await source.followPodLabels(pods.namespaces.requests()) { pods.take($0) }
            }
        }
    }

    private func status(of gateway: GatewayModule) -> any ServiceLifecycle.Service {
        self.supervised(Agent.gatewayStatusModule) { [configuration, group] isUp in
            let patcher = StatusPatcher(
                try configuration.kubeConfiguration(variable: ProcessEnvironment.variable),
                options: configuration.sourceOptions,
                group: group
            )
            isUp()
            try await cancelWhenGracefulShutdown { try await gateway.writeStatus(patcher) }
        }
    }

    /// What the last good state holds, by which a source knows an emptied cluster from an API that has not loaded yet.
    private static func knownObjects(_ snapshot: CatalogSnapshot) -> [ObjectKind: Int] {
        let services = snapshot.services.count
        return [
            .service: services, .endpoints: services, .endpointSlice: services, .node: snapshot.nodes.count,
            .namespace: snapshot.namespaces.count, .destinationRule: snapshot.destinationRules.count,
        ]
    }

    /// The bridge device is looked after: whoever deletes it takes DNS and the proxy off the node.
    private func bridge() -> any ServiceLifecycle.Service {
        let common = self.configuration.commonConfig
        let addresses = self.configuration.bridgeAddresses
        return self.supervised(Agent.bridgeModule) { [platform] isUp in
            try await cancelWhenGracefulShutdown {
                while true {
                    try await platform.ensureBridge(common.bridgeDeviceName, addresses)
                    isUp()
                    try await Task.sleep(for: .seconds(10))
                }
            }
        }
    }
}

/// Writes the last good state while the agent runs.
private struct StoreService: ServiceLifecycle.Service {
    let store: OfflineStore
    let catalog: ClusterCatalog

    func run() async throws {
        await cancelWhenGracefulShutdown {
            await self.store.run(catalog: self.catalog)
        }
    }
}

/// Gives memory back when a large listing has been taken in: starting and decoding need much, code too, that serving does
/// not.
private struct MemoryTrimService: ServiceLifecycle.Service {
    static let interval = Duration.seconds(3)

    let catalog: ClusterCatalog

    func run() async throws {
        var trimmed: UInt64 = 0
        var seen: UInt64 = 0
        while (try? await cancelWhenGracefulShutdown({ try await Task.sleep(for: Self.interval) })) != nil,
            !Task.isShuttingDownGracefully
        {
            let version = self.catalog.snapshot.version
            // Not while changes come in, and once after they did.
            if version == seen, version != trimmed {
                clinux_release_memory()
                trimmed = version
            }
            seen = version
        }
    }
}
