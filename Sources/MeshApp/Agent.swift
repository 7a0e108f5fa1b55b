import Admin
import Configuration
import Documents
import Logging
import MeshCore
import NIOCore
import NIOPosix
import ServiceCatalog
import ServiceLifecycle
import UnixSignals

/// The agent as a whole: builds its parts, starts them in an order in which none waits for another, and drains them in
/// reverse.
struct Agent: Sendable {
    /// Open connections may go on for this long after a stop was asked for.
    static let shutdownDeadline = Duration.seconds(20)
    static let dnsModule = "edgeDNS"
    static let proxyModule = "edgeProxy"
    static let cniModule = "edgeCNI"
    static let bridgeModule = "bridge"
    static let sourceModule = "source"
    static let manifestsModule = "manifests"
    static let credentialsModule = "gatewaySecrets"
    static let subsetsModule = "gatewaySubsets"
    static let gatewayStatusModule = "gatewayStatus"
    static let adminModule = "admin"
    static let metricsModule = "metrics"

    let source: ConfigSource
    let reading: ConfigSource.Reading
    let platform: NodePlatform
    let logger: Logger

    private var configuration: AgentConfiguration { self.reading.configuration }

    /// Runs until SIGTERM or SIGINT, or until cancelled.
    func run() async throws {
        // One loop per core, at most two: an agent shares its node, and each thread costs memory.
        let group = MultiThreadedEventLoopGroup(numberOfThreads: min(2, Processors.usable()))
        do {
            try await self.run(on: group)
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
        try await group.shutdownGracefully()
    }

    private func run(on group: MultiThreadedEventLoopGroup) async throws {
        let parts = AgentParts(
            configuration: self.configuration,
            platform: self.platform,
            group: group,
            logger: self.logger
        )
        let reloader = ConfigReloader(source: self.source, started: self.reading, logger: self.logger) { new in
            await parts.apply(new)
        }
        let admin = self.admin(parts, reloader, on: group.next())
        // At once and before any source: a node that starts without its cloud, or without its manifests, serves what it knew.
        await parts.store.load(into: parts.catalog)
        let services = parts.services(admin: admin) + [ConfigWatchService(reloader: reloader)]
        var configuration = ServiceGroupConfiguration(
            services: services.map {
                // A part that ends early has said why; the others go on.
                ServiceGroupConfiguration.ServiceConfiguration(
                    service: $0,
                    successTerminationBehavior: .ignore,
                    failureTerminationBehavior: .ignore
                )
            } + [ServiceGroupConfiguration.ServiceConfiguration(service: UntilShutdown())],
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: self.quietLogger
        )
        configuration.maximumGracefulShutdownDuration = Self.shutdownDeadline
        self.logger.notice(
            "The \(self.configuration.role.rawValue) starts",
            metadata: ["version": "\(Version.number)", "node": "\(self.configuration.commonConfig.nodeName)"]
        )
        try await ServiceGroup(configuration: configuration).run()
        self.logger.notice("The \(self.configuration.role.rawValue) stopped")
    }

    /// The admin socket, and the collector's port where the original has it.
    private func admin(
        _ parts: AgentParts,
        _ reloader: ConfigReloader,
        on loop: any EventLoop
    ) -> [any ServiceLifecycle.Service] {
        let status = AgentStatus(
            configuration: self.configuration,
            parts: parts,
            reloader: reloader,
            started: .now()
        )
        let endpoints = AdminEndpoints(
            catalog: parts.catalog,
            reporters: parts.reporters,
            tunnel: parts.tunnelQueries,
            agent: { await status.document },
            readiness: { await status.notReady },
            reload: { await reloader.reload() }
        )
        let logger = self.logger
        let socket = AdminListener.unixSocket(path: self.configuration.commonConfig.adminSocket)
        var services: [any ServiceLifecycle.Service] = [
            parts.supervised(Self.adminModule) { isUp in
                isUp()
                try await AdminServer(
                    listener: socket,
                    eventLoop: loop,
                    logger: logger,
                    respond: { await endpoints.respond(to: $0) }
                ).run()
            }
        ]
        let metrics = self.configuration.modules.edgeTunnel.metricConfig
        if metrics.enable {
            let address = TransportAddress(.v4(.any), metrics.port)
            services.append(
                parts.supervised(Self.metricsModule) { isUp in
                    isUp()
                    try await AdminServer(
                        listener: .metrics(address),
                        eventLoop: loop,
                        logger: logger,
                        respond: { await endpoints.respondToCollector($0) }
                    ).run()
                }
            )
        }
        return services
    }

    /// The lifecycle library tells of each of its steps; only its warnings matter to an operator.
    private var quietLogger: Logger {
        var logger = self.logger
        if logger.logLevel == .info { logger.logLevel = .warning }
        return logger
    }
}

/// Keeps the group alive until it is told to stop, whatever becomes of its parts.
private struct UntilShutdown: ServiceLifecycle.Service {
    func run() async throws {
        try? await gracefulShutdown()
    }
}
