import ByteStreams
import Configuration
import Documents
import EdgeGateway
import EdgeProxy
import GatewayRouting
import KubeModel
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization

/// The edge gateway, made of the configuration: of a process of its own, or of an agent.
final class GatewayModule: StatusReporting {
    static let name = "edgeGateway"

    private struct State {
        var configuration: AgentConfiguration
        var running: EdgeGatewayService?
    }

    let statusName = GatewayModule.name
    let vault: CredentialVault
    let planner: GatewayPlanner
    private let state: Mutex<State>
    private let catalog: ClusterCatalog
    private let tunnel: (any NodeTunneling)?
    private let group: MultiThreadedEventLoopGroup
    private let logger: Logger

    /// Findings in the status; the others are counted.
    private static let mostFindings = 500

    init(
        configuration: AgentConfiguration,
        catalog: ClusterCatalog,
        tunnel: (any NodeTunneling)?,
        group: MultiThreadedEventLoopGroup,
        logger: Logger
    ) {
        self.state = Mutex(State(configuration: configuration))
        self.vault = CredentialVault(followsCluster: configuration.followsAPI)
        self.planner = GatewayPlanner(settings: configuration.compilerSettings, vault: self.vault, logger: logger)
        self.catalog = catalog
        self.tunnel = tunnel
        self.group = group
        self.logger = logger
    }

    /// Takes over what changed while open connections go on.
    func update(_ new: AgentConfiguration) async {
        let running = self.state.withLock { state in
            state.configuration = new
            return state.running
        }
        self.planner.update(new.compilerSettings)
        await running?.reconfigure(new.gatewaySettings, new.gatewayLimits)
    }

    /// Serves until shutdown.
    func run(isUp: @escaping @Sendable () -> Void) async throws {
        try await self.catalog.waitForState()
        let configuration = self.state.withLock { $0.configuration }
        let limits = configuration.gatewayLimits
        _ = FileDescriptorLimit.raise(to: UInt64(limits.maximumConnections * 2 + limits.maximumSplices * 4 + 2_048))
        let (plans, plan) = AsyncStream.makeStream(of: GatewayPlan.self, bufferingPolicy: .bufferingNewest(1))
        let reach = configuration.gatewayReach
        var service = EdgeGatewayService.Configuration(settings: configuration.gatewaySettings, limits: limits)
        service.accessLogInterval = configuration.modules.edgeGateway.accessLogInterval
        service.showsReasons = configuration.modules.edgeGateway.showReasons
        let gateway = EdgeGatewayService(
            configuration: service,
            plans: plans,
            certificates: { [vault] in vault.material($0) },
            catalog: self.catalog,
            dialer: EndpointDialer(reach: reach, tunnel: self.tunnel),
            loops: Array(self.group.makeIterator()),
            logger: self.logger
        )
        let present = self.state.withLock { state in
            state.running = gateway
            return state.configuration
        }
        defer { self.state.withLock { $0.running = nil } }
        // It may have changed meanwhile.
        await gateway.reconfigure(present.gatewaySettings, present.gatewayLimits)
        let observation = self.tunnel?.observeUnreachableNodes { nodes in
            gateway.avoid { reach.tunnelNode(of: $0).map(nodes.contains) ?? false }
        }
        defer { observation?.cancel() }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                await self.planner.run(catalog: self.catalog) { compilation in
                    plan.yield(compilation.plan)
                    isUp()
                } materialChanged: {
                    await gateway.refresh()
                }
            }
            defer { tasks.cancelAll() }
            try await gateway.run()
        }
    }

    // MARK: Status

    func status() async -> Document {
        let running = self.state.withLock { $0.running }
        let compilation = await self.planner.compilation
        let findings = compilation.findings.sorted { $0.severity.rank < $1.severity.rank }
        let credentials = self.vault.counts
        let own: [Document.Member] = [
            .init("compilations", .integer(await self.planner.compilations)),
            .init("findings", .array(findings.prefix(Self.mostFindings).map(\.document))),
            .init("findingsOmitted", .integer(max(0, findings.count - Self.mostFindings))),
            .init("credentials", ["named": .integer(credentials.wanted), "present": .integer(credentials.present)]),
            .init("credentialProblems", .array(self.vault.problems.map { .string($0) })),
        ]
        return .object((await running?.status().members ?? []) + own)
    }

    func metrics() async -> [MetricSample] {
        await self.state.withLock { $0.running }?.metrics() ?? []
    }
}

extension GatewayFinding.Severity {
    /// What is worse comes first.
    var rank: Int {
        switch self {
        case .error: 0
        case .warning: 1
        case .note: 2
        }
    }
}

extension GatewayFinding {
    var document: Document {
        [
            "severity": .string(self.severity.rawValue), "kind": .string(self.kind.rawValue),
            "name": .string(self.name.description), "field": .string(self.field), "message": .string(self.message),
        ]
    }
}

// The configuration in the gateway's words.
extension AgentConfiguration {
    var gatewaySettings: GatewaySettings {
        let gateway = self.modules.edgeGateway
        var settings = GatewaySettings()
        settings.interfaces = Self.names(gateway.nic)
        settings.includedBlocks = Self.blocks(gateway.includeIP) ?? []
        settings.excludedBlocks = Self.blocks(gateway.excludeIP) ?? []
        return settings
    }

    var gatewayLimits: GatewayLimits {
        let gateway = self.modules.edgeGateway
        var limits = GatewayLimits()
        limits.maximumConnections = gateway.maxConnections
        limits.maximumConnectionsPerClient = gateway.maxConnectionsPerClient
        limits.bodyBytes = gateway.maxBodyBytes == 0 ? nil : UInt64(gateway.maxBodyBytes)
        limits.idleTimeout = TimeAmount(gateway.idleTimeout)
        limits.dialTimeout = TimeAmount(gateway.dialTimeout)
        limits.drainTimeout = TimeAmount(gateway.drainTimeout)
        return limits
    }

    var compilerSettings: CompilerSettings {
        let gateway = self.modules.edgeGateway
        let labels = gateway.selectorLabels.map { label in
            let parts = label.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            return (parts[0], parts.count > 1 ? parts[1] : "")
        }
        return CompilerSettings(
            clusterDomain: self.catalogSettings.clusterDomain,
            controllerName: gateway.controllerName,
            podLabels: labels.isEmpty ? nil : Dictionary(labels, uniquingKeysWith: { $1 })
        )
    }

    /// Unlike in the original, endpoints on the gateway's own node are dialled from here.
    var gatewayReach: EndpointReach {
        EndpointReach(
            nodeName: self.commonConfig.nodeName,
            routableCIDRs: self.modules.edgeGateway.routableCIDRs + self.modules.edgeProxy.routableCIDRs
        )
    }
}
