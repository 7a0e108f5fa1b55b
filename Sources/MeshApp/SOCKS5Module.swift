import Configuration
import Documents
import EdgeProxy
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization

/// The SOCKS5 proxy of the node, made of the agent's configuration.
final class SOCKS5Module: StatusReporting {
    static let name = "socks5Proxy"

    let statusName = SOCKS5Module.name
    private let configuration: AgentConfiguration
    private let platform: NodePlatform
    private let catalog: ClusterCatalog
    private let tunnel: (any NodeTunneling)?
    private let group: MultiThreadedEventLoopGroup
    private let logger: Logger
    private let running = Mutex<Socks5Server?>(nil)

    /// Nil if the configuration does not ask for it.
    init?(
        configuration: AgentConfiguration,
        platform: NodePlatform,
        catalog: ClusterCatalog,
        tunnel: (any NodeTunneling)?,
        group: MultiThreadedEventLoopGroup,
        logger: Logger
    ) {
        guard configuration.modules.edgeProxy.enable, configuration.modules.edgeProxy.socks5Proxy.enable else {
            return nil
        }
        self.configuration = configuration
        self.platform = platform
        self.catalog = catalog
        self.tunnel = tunnel
        self.group = group
        self.logger = logger
    }

    /// Serves until shutdown. Throws if its password cannot be read or its port is taken.
    func run(isUp: @escaping @Sendable () -> Void) async throws {
        let common = self.configuration.commonConfig
        try await self.platform.ensureBridge(common.bridgeDeviceName, self.configuration.bridgeAddresses)
        let server = Socks5Server(
            settings: try self.configuration.socks5Settings(),
            catalog: self.catalog,
            tunnel: self.tunnel,
            group: self.group,
            logger: self.logger
        )
        self.running.withLock { $0 = server }
        defer { self.running.withLock { $0 = nil } }
        isUp()
        try await server.run()
    }

    func status() async -> Document {
        await self.running.withLock { $0 }?.status() ?? ["address": .init(.null)]
    }
}
