import LinuxNetwork
public import Logging
import MeshCore
public import MeshInterfaces
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// The network of pods on this node: packets for pods of other nodes go through the tunnel, whatever their protocol.
///
/// It may be run again after it has failed. Any thread.
public final class EdgeCNIService: Service {
    struct Running: Sendable {
        var device: any PodDevice
        var homes: NodeHomes
        var follower: RouteFollower
    }

    struct State: Sendable {
        var running: Running?
        /// What keeps packets from crossing this host as they are.
        var ruleProblems: [String] = []
    }

    /// The rules are looked at soon, as a firewall may start beside this agent, then now and then.
    private static let ruleIntervals = [Duration.seconds(5), .seconds(30)]
    private static let sweepInterval = Duration.seconds(30)

    let settings: EdgeCNISettings
    let state = Mutex(State())
    private let catalog: any CatalogReading
    private let packets: any PacketTunneling
    private let nodes: any NodeTunneling
    private let platform: PodNetworkPlatform
    private let loops: [any EventLoop]
    private let logger: Logger

    /// - Parameters:
    ///   - tunnel: carries packets, and knows the nodes at the other end.
    ///   - loops: those on which channels of the tunnel live. Each of the first ones gets a queue of the device.
    public init(
        settings: EdgeCNISettings,
        catalog: any CatalogReading,
        tunnel: any PacketTunneling & NodeTunneling,
        platform: PodNetworkPlatform,
        loops: [any EventLoop],
        logger: Logger
    ) {
        self.settings = settings
        self.catalog = catalog
        self.packets = tunnel
        self.nodes = tunnel
        self.platform = platform
        self.loops = loops
        self.logger = logger
    }

    // MARK: Life

    public func run() async throws { try await self.run {} }

    /// Runs until graceful shutdown. Throws `LinuxNetworkError` if the device cannot be made.
    /// - Parameter isUp: called when packets are carried.
    public func run(isUp: @escaping @Sendable () -> Void) async throws {
        let queues = min(self.loops.count, TunDevice.maximumQueues)
        let device = try self.platform.makeDevice(self.settings.device, queues, self.settings.mtu)
        let homes = NodeHomes()
        let follower = RouteFollower(
            settings: self.settings,
            platform: self.platform,
            device: device,
            logger: self.logger
        ) { findings in
            for handle in homes.handles {
                handle.run { $0.replaceRoutes(findings.routes) }
            }
        }
        var channels: [any Channel] = []
        do {
            homes.replaceHandles(try await self.makeWorkers(device, homes))
            for (index, handle) in homes.handles.prefix(queues).enumerated() {
                channels.append(try await device.open(queue: index, on: handle.loop, reader: handle).get())
            }
        } catch {
            await self.stop(homes, channels)
            throw error
        }
        self.state.withLock { $0.running = Running(device: device, homes: homes, follower: follower) }
        self.logger.info(
            "the network of pods is up",
            metadata: [
                "device": "\(device.name)", "queues": "\(queues)", "mtu": "\(self.settings.mtu)",
                "large-packets": "\(device.offloads.contains(.tcp))",
            ]
        )
        await self.serve(follower, homes, isUp)
        self.state.withLock { $0.running = nil }
        await self.stop(homes, channels)
        // A cancelled agent leaves its rules, as one that crashed does: they are of no effect without the device.
        if Task.isShuttingDownGracefully, !Task.isCancelled { await self.removeRules() }
    }

    private func makeWorkers(_ device: any PodDevice, _ homes: NodeHomes) async throws -> [PacketWorkerHandle] {
        var handles: [PacketWorkerHandle] = []
        for (index, loop) in self.loops.enumerated() {
            let queue = index % device.queueCount
            let environment = PacketWorker.Environment(
                mtu: self.settings.mtu,
                offloads: device.offloads,
                deliver: { device.write($0, $1, queue: queue) },
                tunnel: self.packets,
                eventLoop: { [nodes] in nodes.eventLoop(for: $0) },
                limits: self.settings.limits,
                homes: homes,
                logger: self.logger
            )
            handles.append(try await PacketWorkerHandle.make(on: loop, index: index, environment).get())
        }
        return handles
    }

    /// Until graceful shutdown, or until cancelled.
    private func serve(_ follower: RouteFollower, _ homes: NodeHomes, _ isUp: @escaping @Sendable () -> Void) async {
        self.packets.acceptPackets { homes.take($0, isOpened: false) }
        let observation = self.nodes.observeUnreachableNodes { nodes in
            for handle in homes.handles { handle.run { $0.replaceUnreachable(nodes) } }
        }
        let endOfMonitor = self.platform.observe(self.loops[0]) { follower.networksChanged() }
        defer {
            self.packets.acceptPackets(nil)
            observation.cancel()
            endOfMonitor()
        }
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask { await follower.run(catalog: self.catalog) }
            tasks.addTask { await self.keepRules() }
            tasks.addTask {
                while (try? await Task.sleep(for: Self.sweepInterval)) != nil {
                    for handle in homes.handles { handle.run { $0.sweep() } }
                }
            }
            isUp()
            try? await gracefulShutdown()
            tasks.cancelAll()
        }
    }

    private func stop(_ homes: NodeHomes, _ channels: [any Channel]) async {
        for channel in channels { try? await channel.close() }
        for handle in homes.handles { try? await handle.ask { $0.stop() }.get() }
        homes.replaceHandles([])
    }

    // MARK: What goes on beside packets

    private func keepRules() async {
        var intervals = Self.ruleIntervals[...]
        var reported: [String] = []
        while !Task.isCancelled {
            let problems = await self.platform.rules.ensure()
            self.state.withLock { $0.ruleProblems = problems }
            // Once, not at each look.
            for problem in problems where !reported.contains(problem) {
                self.logger.warning("\(problem): see edgemesh check")
            }
            reported = problems
            let interval = intervals.count > 1 ? intervals.removeFirst() : Self.ruleIntervals[1]
            try? await Task.sleep(for: interval)
        }
    }

    private func removeRules() async {
        do {
            try await self.platform.rules.remove()
        } catch {
            self.logger.warning(
                "rules of the network of pods may be left: run `edgemesh cleanup`",
                metadata: ["error": "\(error)"]
            )
        }
    }
}
