import ByteStreams
import Configuration
import Documents
import EdgeGateway
import EdgeProxy
import GatewayRouting
import HashTreeCollections
import KubeClient
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
    let pods: SubsetPods
    let planner: GatewayPlanner
    private let state: Mutex<State>
    private let statusSignal = Mutex<AsyncStream<Void>.Continuation?>(nil)
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
        self.pods = SubsetPods(catalog: catalog)
        self.planner = GatewayPlanner(
            settings: configuration.compilerSettings,
            vault: self.vault,
            subsetNamespaces: self.pods.namespaces,
            logger: logger
        )
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
                    self.statusSignal.withLock { _ = $0?.yield() }
                } materialChanged: {
                    await gateway.refresh()
                }
            }
            defer { tasks.cancelAll() }
            try await gateway.run()
        }
    }

    // MARK: The cluster's status

    /// Between looks at whether something is to be written that could not be before.
    private static let statusInterval = Duration.seconds(5)

    /// Writes the status of Gateways and routes, until shutdown.
    func writeStatus(_ patcher: StatusPatcher) async throws {
        let (signals, signal) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        self.statusSignal.withLock { $0 = signal }
        let writer = GatewayStatusWriter(
            update: { try await patcher.update($0, $1, $2) },
            report: { await self.report() },
            logger: self.logger
        )
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                while true {
                    signal.yield()
                    try await Task.sleep(for: Self.statusInterval)
                }
            }
            defer { tasks.cancelAll() }
            try await writer.run(signals)
        }
    }

    /// What is to be said; nil while what is known of the cluster may not be all.
    func report() async -> GatewayStatusWriter.Report? {
        let (configuration, running) = self.state.withLock { ($0.configuration, $0.running) }
        guard let running, self.catalog.freshness.state == .synced, self.vault.isSettled,
            await self.planner.compilations > 0
        else { return nil }
        let compilation = await self.planner.compilation
        var report = GatewayStatusWriter.Report(
            statuses: compilation.statuses,
            controllerName: configuration.modules.edgeGateway.controllerName
        )
        let open = await running.openAddresses
        let node = self.catalog.snapshot.nodes[configuration.commonConfig.nodeName]
        for name in self.planner.gateways(of: self.catalog.snapshot) {
            let found = open["\(ObjectKind.gateway.rawValue) \(name)"] ?? []
            // Every address of the machine: the cluster knows it by those of its node.
            let isUnconfined = found.contains(where: \.isUnspecified)
            let all = found.filter { !$0.isUnspecified } + (isUnconfined ? node?.internalIPs ?? [] : [])
            report.addresses[name] = Set(all).sorted()
        }
        return report
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
            .init("subsetProblems", .array(self.pods.problems.map { .string($0) })),
        ]
        let served = (await running?.status().members ?? []).map { member in
            member.key == "listeners" ? .init(member.key, Self.named(member.value, by: compilation.plan)) : member
        }
        return .object(served + own)
    }

    /// Names the objects that asked for the listeners that are not open.
    private static func named(_ listeners: Document, by plan: GatewayPlan) -> Document {
        .array(
            (listeners.array ?? []).map { listener in
                guard listener["problem"] != nil, let text = listener["address"]?.string?.split(separator: "/").first,
                    let address = TransportAddress(text)
                else { return listener }
                let asked = plan.listeners.filter {
                    $0.key.port == address.port && [nil, address.address].contains($0.key.address)
                }
                let origins = asked.flatMap(\.origins).map { Document.string($0) }
                let others = (listener.members ?? []).filter { $0.key != "origins" }
                return .object(others + [.init("origins", .array(origins))])
            }
        )
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
            podLabels: labels.isEmpty ? nil : Dictionary(labels, uniquingKeysWith: { $1 }),
            servesMutualWithoutAuthority: !gateway.strictMutualTLS
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
