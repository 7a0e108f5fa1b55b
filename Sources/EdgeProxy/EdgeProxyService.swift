import ByteStreams
public import LinuxNetwork
public import Logging
public import MeshCore
public import MeshInterfaces
public import NIOCore
public import ServiceLifecycle
import Synchronization

/// The service proxy of a node: programs the kernel for what it can balance itself, and carries the rest in user space.
///
/// It runs until it is shut down gracefully: then the kernel's rules go first, so that no new flow comes, open connections
/// may end within `ProxyLimits.drainTimeout`, and the rest is reset. If its task is cancelled, the rules stay: the kernel goes
/// on balancing and the next start adopts them.
public struct EdgeProxyService: Service, Sendable {
    public struct Configuration: Sendable {
        public var planner: ServicePlanner
        public var limits: ProxyLimits
        /// Addresses of the bridge; a port of zero lets the kernel choose.
        public var tcpV4: TransportAddress
        public var udpV4: TransportAddress
        /// Nil where the node has no IPv6.
        public var tcpV6: TransportAddress?
        public var udpV6: TransportAddress?

        public init(
            planner: ServicePlanner,
            limits: ProxyLimits = ProxyLimits(),
            tcpV4: TransportAddress,
            udpV4: TransportAddress,
            tcpV6: TransportAddress? = nil,
            udpV6: TransportAddress? = nil
        ) {
            self.planner = planner
            self.limits = limits
            self.tcpV4 = tcpV4
            self.udpV4 = udpV4
            self.tcpV6 = tcpV6
            self.udpV6 = udpV6
        }
    }

    private let configuration: Configuration
    private let catalog: any CatalogReading
    private let programming: any ServiceProgramming
    private let environment: ProxyWorker.Environment
    private let loops: [any EventLoop]
    private let logger: Logger
    private let programmer: KernelProgrammer
    private let dialer: EndpointDialer
    private let tunnel: (any NodeTunneling)?
    private let shared: Shared

    private struct Workers: Sendable {
        var handles: [WorkerHandle] = []
        var listeners: ProxyListeners?
        var limits: ProxyLimits
    }

    private final class Shared: Sendable {
        let workers: Mutex<Workers>

        init(_ limits: ProxyLimits) {
            self.workers = Mutex(Workers(limits: limits))
        }
    }

    /// - Parameters:
    ///   - loops: the data loops; each gets its own listeners. The tunnel's streams live on them, too.
    ///   - tunnel: the way to endpoints on other nodes; nil if they are dialled from here.
    ///   - tcpOriginalDestination: nil to ask the kernel, as only tests do not.
    ///   - udpOriginalDestination: the conntrack lookup.
    ///   - clearStaleFlows: deletes conntrack entries of flows that would go where nobody takes them.
    public init(
        configuration: Configuration,
        catalog: any CatalogReading,
        programming: any ServiceProgramming,
        loops: [any EventLoop],
        tunnel: (any NodeTunneling)? = nil,
        tcpOriginalDestination: TCPOriginalDestination? = nil,
        udpOriginalDestination: @escaping UDPOriginalDestination,
        clearStaleFlows: @escaping @Sendable ([StaleFlows]) async -> Void = { _ in },
        logger: Logger
    ) {
        let limits = Self.possible(configuration.limits)
        let dialer = EndpointDialer(reach: configuration.planner.reach, tunnel: tunnel)
        self.dialer = dialer
        self.tunnel = tunnel
        self.configuration = configuration
        self.catalog = catalog
        self.programming = programming
        self.loops = loops
        self.logger = logger
        self.environment = ProxyWorker.Environment(
            limits: limits,
            dialer: dialer,
            tcpOriginalDestination: tcpOriginalDestination ?? { OriginalDestination.read($0) },
            udpOriginalDestination: udpOriginalDestination,
            gauges: ProxyWorker.Gauges(),
            workers: WorkerDirectory(),
            logger: logger
        )
        let shared = Shared(limits)
        self.shared = shared
        self.programmer = KernelProgrammer(
            programming: programming,
            planner: configuration.planner,
            logger: logger,
            publish: { table, changed in
                for handle in shared.workers.withLock({ $0.handles }) { handle.post(table, changed: changed) }
            },
            clearStaleFlows: clearStaleFlows
        )
    }

    /// The addresses that the proxy listens on; nil before it does.
    public var listeners: ProxyListeners? { self.shared.workers.withLock { $0.listeners } }

    /// Takes over new limits and a new planner while open connections and sessions go on. Addresses stay: they are those of
    /// the sockets. Any thread.
    public func update(_ configuration: Configuration) {
        let limits = Self.possible(configuration.limits)
        self.shared.workers.withLock { workers in
            guard workers.limits != limits else { return }
            workers.limits = limits
            for handle in workers.handles { handle.post(limits) }
        }
        self.dialer.update(configuration.planner.reach)
        self.programmer.replacePlanner(configuration.planner)
    }

    /// The limits in force.
    var limits: ProxyLimits { self.shared.workers.withLock { $0.limits } }

    /// As many connections as the process may have descriptors for, besides the pipes and some for everything else.
    private static func possible(_ limits: ProxyLimits) -> ProxyLimits {
        var limits = limits
        let pipes = 4 * max(0, limits.maximumSplices)
        let descriptors = FileDescriptorLimit.raise(to: UInt64(max(limits.maximumConnections, 0) * 2 + pipes + 2_048))
        limits.maximumDescriptors = min(limits.maximumDescriptors, max(128, Int(clamping: descriptors) - pipes - 1_024))
        limits.maximumConnections = min(limits.maximumConnections, limits.maximumDescriptors)
        return limits
    }

    public func run() async throws {
        let listeners = try await self.listen()
        self.logger.info(
            "the proxy listens",
            metadata: [
                "tcp": "\(listeners.tcpV4)", "udp": "\(listeners.udpV4)", "loops": "\(self.loops.count)",
                "connections-max": "\(self.limits.maximumConnections)",
            ]
        )
        let programming = Task { [programmer, catalog] in
            await programmer.run(catalog: catalog, listeners: listeners)
        }
        let observation = self.tunnel?.observeUnreachableNodes { [programmer] in programmer.replaceUnreachableNodes($0)
        }
        defer { observation?.cancel() }
        let isGraceful: Bool
        do {
            try await gracefulShutdown()
            isGraceful = true
        } catch {
            isGraceful = false
        }
        programming.cancel()
        await programming.value
        if isGraceful {
            do {
                try await self.programmer.remove()
            } catch {
                self.logger.error(
                    "the service rules could not be removed: run `edgemesh cleanup`",
                    metadata: ["error": "\(error)"]
                )
            }
        }
        await self.drain(isGraceful ? self.limits.drainTimeout : .zero)
    }

    private func listen() async throws -> ProxyListeners {
        guard !self.loops.isEmpty else {
            throw ByteStreamsError(code: .listenFailed, message: "the proxy has no event loop to run on")
        }
        var handles: [WorkerHandle] = []
        for loop in self.loops { handles.append(try await WorkerHandle.make(on: loop, self.environment).get()) }
        for handle in handles { self.environment.workers.add(handle) }
        let made = handles
        self.shared.workers.withLock { workers in
            workers.handles = made
            // They may have changed since the environment was made.
            for handle in made { handle.post(workers.limits) }
        }
        func bindAll(
            _ address: TransportAddress,
            _ bind: (WorkerHandle, TransportAddress) -> EventLoopFuture<TransportAddress>
        ) async throws -> TransportAddress {
            do {
                var bound = address
                // The first socket settles the port, the others join it.
                for handle in handles { bound = try await bind(handle, bound).get() }
                return bound
            } catch {
                throw ByteStreamsError(
                    code: .listenFailed,
                    message:
                        "cannot listen on \(address): check that the bridge device has the address and the port is free",
                    cause: error
                )
            }
        }
        do {
            var listeners = ProxyListeners(
                tcpV4: try await bindAll(self.configuration.tcpV4) { $0.listenTCP($1) },
                udpV4: try await bindAll(self.configuration.udpV4) { $0.listenUDP($1) }
            )
            if let tcpV6 = self.configuration.tcpV6 {
                listeners.tcpV6 = try await bindAll(tcpV6) { $0.listenTCP($1) }
            }
            if let udpV6 = self.configuration.udpV6 {
                listeners.udpV6 = try await bindAll(udpV6) { $0.listenUDP($1) }
            }
            let settled = listeners
            self.shared.workers.withLock { $0.listeners = settled }
            return settled
        } catch {
            await self.drain(.zero)
            throw error
        }
    }

    private func drain(_ timeout: TimeAmount) async {
        let deadline = NIODeadline.now() + timeout
        let handles = self.shared.workers.withLock { $0.handles }
        let drains = handles.map { $0.drain(until: deadline) }
        var cut = 0
        for drain in drains { cut += (try? await drain.get()) ?? 0 }
        if cut > 0 {
            self.logger.notice("connections were cut at the end of the drain", metadata: ["connections": "\(cut)"])
        }
    }

    /// What all loops counted.
    func counters() async -> [ProxyCounters] {
        let handles = self.shared.workers.withLock { $0.handles }
        let reports = handles.map { $0.report() }
        var counters: [ProxyCounters] = []
        for report in reports {
            if let counted = try? await report.get() { counters.append(counted) }
        }
        return counters
    }

    var parts: (programmer: KernelProgrammer, backendName: String) { (self.programmer, self.programming.backendName) }
}
