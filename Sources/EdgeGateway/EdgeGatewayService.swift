public import GatewayRouting
public import KubeModel
import LinuxNetwork
public import LoadBalancing
public import Logging
public import MeshCore
public import MeshInterfaces
public import NIOCore
import ServiceCatalog
public import ServiceLifecycle
import Synchronization

/// The gateway at the edge: serves what a plan says, on the addresses that its settings select.
///
/// It runs until it is shut down gracefully: then nothing more is accepted, idle connections end at once, busy ones when their
/// requests are done, and the rest is reset after `GatewayLimits.drainTimeout`.
public struct EdgeGatewayService: ServiceLifecycle.Service, Sendable {
    public struct Configuration: Sendable {
        public var settings: GatewaySettings
        public var limits: GatewayLimits
        /// For services whose DestinationRule names none.
        public var defaultPolicy: LoadBalancingPolicy
        /// Every how many requests one is logged; 0 for none.
        public var accessLogInterval: Int
        /// Answers of the gateway's own tell their reason in the field `x-edgemesh-reason`, too.
        public var showsReasons: Bool

        public init(settings: GatewaySettings = GatewaySettings(), limits: GatewayLimits = GatewayLimits()) {
            self.settings = settings
            self.limits = limits
            self.defaultPolicy = .roundRobin
            self.accessLogInterval = 0
            self.showsReasons = false
        }
    }

    /// How often what could not be served is tried again: a port that somebody else has, a certificate that is missing.
    static let retryInterval = Duration.seconds(2)

    private let configuration: Configuration
    private let catalog: any CatalogReading
    private let plans: AsyncStream<GatewayPlan>
    private let environment: GatewayWorker.Environment
    private let loops: [any EventLoop]
    private let logger: Logger
    private let shared: Shared

    private final class Shared: Sendable {
        let parts = Mutex<(handles: [WorkerHandle], listeners: GatewayListeners?)>(([], nil))
        /// What was told last, also before there is anything to tell.
        let wanted: Mutex<(settings: GatewaySettings, limits: GatewayLimits)>

        init(_ configuration: Configuration) {
            self.wanted = Mutex((configuration.settings, configuration.limits))
        }
    }

    /// - Parameters:
    ///   - plans: each takes the place of the one before. Make the stream with `bufferingNewest(1)`.
    ///   - certificates: see `CertificateLookup`.
    ///   - loops: the data loops; each has its own listeners and its own connections to backends.
    public init(
        configuration: Configuration,
        plans: AsyncStream<GatewayPlan>,
        certificates: @escaping CertificateLookup,
        catalog: any CatalogReading,
        dialer: any EndpointDialing,
        loops: [any EventLoop],
        logger: Logger
    ) {
        self.configuration = configuration
        self.shared = Shared(configuration)
        self.plans = plans
        self.catalog = catalog
        self.loops = loops
        self.logger = logger
        self.environment = GatewayWorker.Environment(
            limits: configuration.limits,
            dialer: dialer,
            certificates: CertificateStore(certificates),
            backends: BackendDirectory(defaultPolicy: configuration.defaultPolicy, seed: .random(in: 0 ... .max)),
            accessLogInterval: configuration.accessLogInterval,
            showsReasons: configuration.showsReasons,
            logger: logger
        )
    }

    public func run() async throws {
        var handles: [WorkerHandle] = []
        for loop in self.loops {
            handles.append(try await WorkerHandle.make(on: loop, self.environment, seed: .random(in: 0 ... .max)).get())
        }
        let listeners = GatewayListeners(
            handles: handles,
            certificates: self.environment.certificates,
            settings: self.configuration.settings,
            logger: self.logger,
            machine: { (try RouteNetlink.links(), try RouteNetlink.addresses()) }
        )
        // The kernel tells of addresses that come and go.
        let (changes, changed) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let monitor = self.loops.first.map { NetworkMonitor(on: $0, logger: self.logger) { changed.yield() } }
        monitor?.start()
        defer { monitor?.stop() }
        let made = handles
        self.shared.parts.withLock { $0 = (made, listeners) }
        let wanted = self.shared.wanted.withLock { $0 }
        await self.reconfigure(wanted.settings, wanted.limits)
        let subscription = self.catalog.subscribe { [backends = self.environment.backends] in backends.update($0) }
        defer { subscription.cancel() }
        let isGraceful = await withTaskGroup(of: Void.self) { group in
            group.addTask {
                for await plan in self.plans { await listeners.replace(plan) }
            }
            group.addTask {
                for await _ in changes { await listeners.reconcile() }
            }
            group.addTask {
                while !Task.isCancelled {
                    try? await Task.sleep(for: Self.retryInterval)
                    if await listeners.hasProblems { await listeners.reconcile() }
                }
            }
            let isGraceful = (try? await gracefulShutdown()) != nil
            await listeners.stop()
            group.cancelAll()
            return isGraceful
        }
        await self.drain(made, isGraceful ? self.configuration.limits.drainTimeout : .zero)
    }

    private func drain(_ handles: [WorkerHandle], _ timeout: TimeAmount) async {
        let deadline = NIODeadline.now() + timeout
        let drains = handles.map { $0.drain(until: deadline) }
        var cut = 0
        for drain in drains { cut += (try? await drain.get()) ?? 0 }
        if cut > 0 {
            self.logger.notice("connections were cut at the end of the drain", metadata: ["connections": "\(cut)"])
        }
    }

    /// Looks at once at certificates and addresses again, as after a change of a Secret.
    public func refresh() async {
        await self.shared.parts.withLock { $0.listeners }?.reconcile()
    }

    /// Leaves endpoints out that cannot be reached, as long as their service has others. Any thread; must not block.
    public func avoid(_ isUnreachable: @escaping @Sendable (Endpoint) -> Bool) {
        self.environment.backends.avoid(isUnreachable)
    }

    /// Takes over settings while open connections go on.
    public func reconfigure(_ settings: GatewaySettings, _ limits: GatewayLimits) async {
        self.shared.wanted.withLock { $0 = (settings, limits) }
        let (handles, listeners) = self.shared.parts.withLock { $0 }
        for handle in handles { handle.post(limits) }
        await listeners?.replace(settings)
    }

    var listenEntries: [GatewayListeners.Entry] {
        get async { await self.shared.parts.withLock { $0.listeners }?.entries ?? [] }
    }

    /// Where it listens now, by the objects that asked for it, named as in `ListenerPlan.origins`.
    public var openAddresses: [String: [IPAddress]] {
        get async {
            var addresses: [String: [IPAddress]] = [:]
            for entry in await self.listenEntries where entry.problem == nil {
                for origin in entry.origins { addresses[origin, default: []].append(entry.address.address.address) }
            }
            return addresses
        }
    }

    var brokenCertificates: [String] {
        get async { await self.shared.parts.withLock { $0.listeners }?.brokenCertificates ?? [] }
    }

    func reports() async -> [GatewayCounters] {
        let reports = self.shared.parts.withLock { $0.handles }.map { $0.report() }
        var counters: [GatewayCounters] = []
        for report in reports {
            if let counted = try? await report.get() { counters.append(counted) }
        }
        return counters
    }
}
