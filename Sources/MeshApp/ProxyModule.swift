import Configuration
import Documents
import EdgeProxy
import KubeModel
import LinuxNetwork
import Logging
import MeshCore
import MeshInterfaces
import NIOPosix
import ServiceCatalog
import ServiceLifecycle
import Synchronization

/// The service proxy with its kernel tables.
final class ProxyModule: StatusReporting {
    private struct State {
        var configuration: AgentConfiguration
        var running: EdgeProxyService?
        /// It was stopped in good order, and took its rules out of the kernel.
        var isRemoved = false
    }

    private let state: Mutex<State>
    private let platform: NodePlatform
    private let catalog: ClusterCatalog
    private let tunnel: (any NodeTunneling)?
    private let group: MultiThreadedEventLoopGroup
    private let logger: Logger

    let statusName = "edgeProxy"

    init(
        configuration: AgentConfiguration,
        platform: NodePlatform,
        catalog: ClusterCatalog,
        tunnel: (any NodeTunneling)? = nil,
        group: MultiThreadedEventLoopGroup,
        logger: Logger
    ) {
        self.state = Mutex(State(configuration: configuration))
        self.platform = platform
        self.catalog = catalog
        self.tunnel = tunnel
        self.group = group
        self.logger = logger
    }

    /// Which endpoints it reaches without the tunnel.
    var reach: EndpointReach {
        let configuration = self.state.withLock { $0.configuration }
        return EndpointReach(
            nodeName: configuration.commonConfig.nodeName,
            routableCIDRs: configuration.modules.edgeProxy.routableCIDRs
        )
    }

    /// Takes over what changed, without a new socket: open connections go on.
    func update(_ new: AgentConfiguration) {
        let running = self.state.withLock { state in
            state.configuration = new
            return state.running
        }
        running?.update(new.proxyConfiguration)
    }

    /// Serves until shutdown. Throws if the tables or sockets cannot be opened.
    func run(isUp: @escaping @Sendable () -> Void) async throws {
        // Rules that a former process left go on serving until there is something to replace them by: the kernel is not
        // programmed with an empty catalog.
        try await self.catalog.waitForState()
        let configuration = self.state.withLock { $0.configuration }
        let common = configuration.commonConfig
        try await self.platform.ensureBridge(common.bridgeDeviceName, configuration.bridgeAddresses)
        let proxy = EdgeProxyService(
            configuration: configuration.proxyConfiguration,
            catalog: self.catalog,
            programming: try await self.platform.makeProgramming(
                configuration.modules.edgeProxy.kernelBackend.rawValue,
                .v4(common.bridgeDeviceIP),
                self.logger
            ),
            loops: Array(self.group.makeIterator()),
            tunnel: self.tunnel,
            udpOriginalDestination: self.platform.udpOriginalDestination,
            clearStaleFlows: self.platform.clearStaleFlows,
            logger: self.logger
        )
        let present = self.state.withLock { state in
            state.running = proxy
            return state.configuration
        }
        defer { self.state.withLock { $0.running = nil } }
        // It may have changed while the tables were opened.
        proxy.update(present.proxyConfiguration)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                while proxy.listeners == nil { try await Task.sleep(for: .milliseconds(5)) }
                isUp()
            }
            defer { tasks.cancelAll() }
            try await proxy.run()
            if Task.isShuttingDownGracefully { self.state.withLock { $0.isRemoved = true } }
        }
    }

    /// A stop takes the rules of a former process out of the kernel too, if it comes before this one took them over: without
    /// an agent to follow the cluster they would lead ever more flows astray.
    func removeRules() async {
        let (configuration, isRemoved) = self.state.withLock { ($0.configuration, $0.isRemoved) }
        guard !isRemoved else { return }
        do {
            let programming = try await self.platform.makeProgramming(
                configuration.modules.edgeProxy.kernelBackend.rawValue,
                .v4(configuration.commonConfig.bridgeDeviceIP),
                self.logger
            )
            try await programming.remove()
        } catch {
            self.logger.error(
                "service rules of an earlier agent may be left: run `edgemesh cleanup`",
                metadata: ["error": "\(error)"]
            )
        }
    }

    func status() async -> Document {
        guard let running = self.state.withLock({ $0.running }) else { return ["kernel": ["installed": false]] }
        return await running.status()
    }

    func metrics() async -> [MetricSample] {
        await self.state.withLock { $0.running }?.metrics() ?? []
    }
}

/// The supervised proxy, and what is left to do in the kernel when it is stopped before it served.
struct ProxyLifecycle: ServiceLifecycle.Service {
    let module: SupervisedModule
    let proxy: ProxyModule

    func run() async throws {
        try await self.module.run()
        // A cancelled agent leaves its rules, as one that crashed does: the next adopts them.
        if Task.isShuttingDownGracefully, !Task.isCancelled { await self.proxy.removeRules() }
    }
}
