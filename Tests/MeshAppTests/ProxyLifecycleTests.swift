import Configuration
import EdgeCNI
import KubeModel
import LinuxNetwork
import Logging
import MeshCore
import NIOPosix
import ServiceCatalog
import ServiceLifecycle
import Synchronization
import Testing

@testable import MeshApp

/// The rules of a former process when this one is stopped before it had anything to replace them by.
@Suite(.timeLimit(.minutes(1))) struct ProxyLifecycleTests {
    struct Broken: Error {}

    /// A kernel in which a former process left rules.
    private final class Kernel: ServiceProgramming {
        private let calls = Mutex<[String]>([])

        let backendName = "test"
        var log: [String] { self.calls.withLock { $0 } }

        func install(listeners: ProxyListeners, rules: [KernelFrontend: KernelRule]) async throws {
            self.calls.withLock { $0.append("install") }
        }

        func update(_ changes: [KernelFrontend: KernelRule?]) async throws {}

        func remove() async throws {
            self.calls.withLock { $0.append("remove") }
        }
    }

    private func proxy(_ kernel: Kernel, bridge: @escaping @Sendable () throws -> Void = {}) -> ProxyModule {
        let environment = ConfigurationEnvironment(variables: ["NODE_NAME": "n1"])
        var configuration = AgentConfiguration.defaults(environment)
        // An address that every machine has.
        configuration.commonConfig.bridgeDeviceIP = .loopback
        return ProxyModule(
            configuration: configuration,
            platform: NodePlatform(
                ensureBridge: { _, _ in try bridge() },
                makeProgramming: { _, _, _ in kernel },
                makePodNetwork: { PodNetworkPlatform.live(backend: $0, logger: $1) },
                udpOriginalDestination: { _, _ in nil },
                clearStaleFlows: { _ in }
            ),
            catalog: self.catalog,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: Logger(label: "test")
        )
    }

    private let catalog = ClusterCatalog()

    /// Runs the module as the agent does, until `isReached`, and stops it.
    private func run(_ proxy: ProxyModule, until state: ModuleBoard.State, gracefully: Bool = true) async throws {
        let board = ModuleBoard()
        let logger = Logger(label: "test")
        let module = SupervisedModule(name: Agent.proxyModule, board: board, logger: logger) { isUp in
            try await proxy.run(isUp: isUp)
        }
        let group = ServiceGroup(
            configuration: .init(services: [ProxyLifecycle(module: module, proxy: proxy)], logger: logger)
        )
        let running = Task { try await group.run() }
        while board.state(of: Agent.proxyModule) != state { await Task.yield() }
        if gracefully { await group.triggerGracefulShutdown() } else { running.cancel() }
        _ = await running.result
    }

    @Test func aStopBeforeAnyStateRemovesTheRulesOfAFormerProcess() async throws {
        let kernel = Kernel()
        try await self.run(self.proxy(kernel), until: .starting)
        #expect(kernel.log == ["remove"])
    }

    @Test func aStopWhileTheModuleCannotStartRemovesThemToo() async throws {
        let kernel = Kernel()
        self.catalog.apply([.status(.init(state: .synced, origin: "test"))], from: .api)
        try await self.run(self.proxy(kernel, bridge: { throw Broken() }), until: .failed)
        #expect(kernel.log == ["remove"])
    }

    @Test func aCancelledAgentLeavesThemToTheNext() async throws {
        let kernel = Kernel()
        try await self.run(self.proxy(kernel), until: .starting, gracefully: false)
        #expect(kernel.log == [])
    }

    @Test func aStopOfAServingProxyRemovesOnce() async throws {
        let kernel = Kernel()
        self.catalog.apply([.status(.init(state: .synced, origin: "test"))], from: .api)
        try await self.run(self.proxy(kernel), until: .running)
        #expect(kernel.log.filter { $0 == "remove" } == ["remove"])
    }
}
