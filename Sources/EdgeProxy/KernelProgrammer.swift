import EndpointBalancing
import HashTreeCollections
import KubeModel
import LinuxNetwork
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import ServiceCatalog
import Synchronization

/// Keeps the kernel's rules and the routes of the user-space proxy equal to the catalog.
///
/// Updates that come while the kernel is being programmed are merged into the next transaction.
actor KernelProgrammer {
    struct Statistics: Sendable {
        var transactions: UInt64 = 0
        var installs: UInt64 = 0
        var failures: UInt64 = 0
        /// How often the rules vanished from the kernel without our doing.
        var losses: UInt64 = 0
        var lastError: String?
        /// From the moment the catalog told us of the oldest change in the last transaction to its commit.
        var lastLatency: Duration = .zero
        var maximumLatency: Duration = .zero
    }

    /// What the data path is told: the table, and the frontends whose route is different in it.
    typealias Publish = @Sendable (RouteTable, Set<KernelFrontend>) -> Void

    static let retirement = Duration.seconds(1)

    private let programming: any ServiceProgramming
    private var planner: ServicePlanner
    /// The nodes from which `regions` was made.
    private var placedNodes: TreeDictionary<String, NodeObject> = [:]
    private var regions: [String: String] = [:]
    private let publish: Publish
    private let clearStaleFlows: @Sendable ([StaleFlows]) async -> Void
    private let sleep: @Sendable (Duration) async throws -> Void
    private let logger: Logger
    private let inbox = Inbox()

    private var ledger = FrontendLedger()
    private var snapshot = CatalogSnapshot()
    private var table = RouteTable()
    private var routeBalancers: [ProxyRoute.Key: (balancer: RouteBalancer, uses: Int)] = [:]
    private var reported: Set<FrontendLedger.Conflict> = []
    private(set) var statistics = Statistics()
    private(set) var isInstalled = false
    private var generator = SystemRandomNumberGenerator()
    private var proxyAddresses: Set<TransportAddress> = []
    /// Waiting to be cleared; as many as there are frontends at most.
    private var staleFlows: [KernelFrontend: StaleFlows] = [:]
    private var sweeping: Task<Void, Never>?

    init(
        programming: any ServiceProgramming,
        planner: ServicePlanner,
        logger: Logger,
        publish: @escaping Publish,
        clearStaleFlows: @escaping @Sendable ([StaleFlows]) async -> Void = { _ in },
        sleep: @escaping @Sendable (Duration) async throws -> Void = { try await Task.sleep(for: $0) }
    ) {
        self.programming = programming
        self.planner = planner
        self.logger = logger
        self.publish = publish
        self.clearStaleFlows = clearStaleFlows
        self.sleep = sleep
    }

    /// Follows the catalog until the task is cancelled. The rules stay in the kernel then.
    func run(catalog: any CatalogReading, listeners: ProxyListeners) async {
        await self.follow(catalog, listeners)
        await self.sweeping?.value
    }

    private func follow(_ catalog: any CatalogReading, _ listeners: ProxyListeners) async {
        self.proxyAddresses = [listeners.udpV4]
        if let udpV6 = listeners.udpV6 { self.proxyAddresses.insert(udpV6) }
        let inbox = self.inbox
        let subscription = catalog.subscribe { inbox.put($0, at: .now()) }
        defer { subscription.cancel() }
        let watch = Task { await self.watchForLoss() }
        defer { watch.cancel() }
        var backoff = Backoff(base: .milliseconds(250), cap: .seconds(30))
        var needsInstall = true
        for await _ in inbox.signal {
            while !Task.isCancelled {
                if inbox.takeLoss() {
                    needsInstall = true
                    self.logger.notice(
                        "someone removed or changed the service rules, perhaps a firewall that restarted: programming them anew",
                        metadata: ["backend": "\(self.programming.backendName)"]
                    )
                }
                do {
                    if needsInstall {
                        try await self.install(listeners)
                        // There is nothing to install before the catalog has said something.
                        needsInstall = !self.isInstalled
                    } else {
                        try await self.applyPending()
                    }
                    if self.statistics.lastError != nil {
                        self.logger.notice("service rules are programmed again")
                        self.statistics.lastError = nil
                    }
                    backoff.reset()
                    break
                } catch {
                    needsInstall = true
                    self.noteFailure(error)
                    do { try await self.sleep(backoff.next()) } catch { return }
                }
            }
        }
    }

    /// Flows opened to each frontend, by the kernel's count; empty if it does not count.
    func flowCounters() async -> [KernelFrontend: FlowCounter] {
        (try? await self.programming.flowCounters()) ?? [:]
    }

    private func watchForLoss() async {
        while !Task.isCancelled {
            do {
                try await self.programming.waitForLoss()
                self.statistics.losses += 1
                self.inbox.putLoss()
            } catch {
                do { try await self.sleep(.seconds(5)) } catch { return }
            }
        }
    }

    /// Plans every service anew with the next transaction; nothing happens if `planner` is the one in force.
    nonisolated func replacePlanner(_ planner: ServicePlanner) {
        self.inbox.put(planner)
    }

    /// Plans services with endpoints on nodes that are newly unreachable, or reachable again, with the next transaction.
    nonisolated func replaceUnreachableNodes(_ nodes: Set<String>) {
        self.inbox.put(unreachable: nodes)
    }

    /// Takes over a new planner with what is known of nodes now. Returns the services that it may plan otherwise.
    private func takePlanner() -> Set<ObjectName> {
        var planner = self.inbox.takePlanner() ?? self.planner
        planner.zone = self.snapshot.nodes[planner.reach.nodeName]?.zone
        if self.snapshot.nodes != self.placedNodes {
            self.placedNodes = self.snapshot.nodes
            self.regions = Dictionary(
                self.placedNodes.values.compactMap { node in
                    node.zone.flatMap { zone in node.region.map { (zone, $0) } }
                },
                uniquingKeysWith: min
            )
        }
        planner.regions = self.regions
        let former = self.planner.unreachableNodes
        planner.unreachableNodes = self.inbox.unreachableNodes
        guard planner != self.planner else { return [] }
        let moved = planner.unreachableNodes.symmetricDifference(former)
        var same = planner
        same.unreachableNodes = former
        let isReplanned = same != self.planner
        self.planner = planner
        guard !isReplanned else { return Set(self.snapshot.services.keys) }
        return Set(
            self.snapshot.services.lazy.filter { _, service in
                service.groups.contains { $0.endpoints.contains { moved.contains($0.nodeName ?? "") } }
            }.map(\.key)
        )
    }

    /// Removes what is in the kernel. Called after `run` has ended.
    func remove() async throws {
        self.isInstalled = false
        try await self.programming.remove()
    }

    /// The plan in force for each service, for status.
    ///
    /// Made anew, beside the programming: for thousands of services that takes a while.
    @concurrent nonisolated func plans() async -> (services: [ServicePlan], conflicts: [FrontendLedger.Conflict]) {
        let (snapshot, planner, conflicts) = await self.inForce
        let plans = snapshot.services.keys.sorted().compactMap { name in
            snapshot.services[name].flatMap { planner.plan($0) }
        }
        return (plans, conflicts)
    }

    private var inForce: (CatalogSnapshot, ServicePlanner, [FrontendLedger.Conflict]) {
        (self.snapshot, self.planner, self.ledger.conflicts)
    }

    func balancer(for key: ProxyRoute.Key) -> RouteBalancer? { self.routeBalancers[key]?.balancer }

    var balancers: [RouteBalancer] { self.routeBalancers.values.map(\.balancer) }

    // MARK: Transactions

    private func install(_ listeners: ProxyListeners) async throws {
        guard let (update, since) = self.inbox.take() ?? self.lastState() else { return }
        self.snapshot = update.snapshot
        _ = self.takePlanner()
        self.isInstalled = false
        // A fresh ledger yields every frontend there is.
        self.ledger = FrontendLedger()
        let changes = self.ledger.update(self.snapshot.services.keys) { self.plan($0) }
        let former = self.table
        var rebuilt = RouteTable()
        self.routeBalancers = self.routeBalancers.mapValues { ($0.balancer, 0) }
        self.route(changes, into: &rebuilt)
        self.routeBalancers = self.routeBalancers.filter { $0.value.uses > 0 }
        var merged = rebuilt
        for (frontend, balancer) in former.routes where merged.routes[frontend] == nil {
            merged.routes[frontend] = balancer
        }
        self.publish(merged, [])
        self.table = merged
        try await self.programming.install(
            listeners: listeners,
            rules: changes.compactMapValues { $0.planned?.rule }
        )
        self.isInstalled = true
        self.statistics.installs += 1
        self.table = rebuilt
        self.publish(rebuilt, Set(former.routes.keys).union(rebuilt.routes.keys))
        self.finish(changes, since: since) { _ in nil }
    }

    private func applyPending() async throws {
        let (former, formerPlanner) = (self.snapshot, self.planner)
        let pending = self.inbox.take()
        if let snapshot = pending?.0.snapshot { self.snapshot = snapshot }
        let replanned = self.takePlanner()
        guard !replanned.isEmpty || pending != nil else { return }
        let since = pending?.1 ?? .now()
        let changed = (pending?.0.changedServices ?? []).union(replanned)
        let changes = self.ledger.update(changed) { self.plan($0) }
        guard !changes.isEmpty else { return }
        // Flows that the kernel begins to hand over find their route; those that it no longer will keep theirs until then.
        var final = self.table
        self.route(changes, into: &final)
        self.routeBalancers = self.routeBalancers.filter { $0.value.uses > 0 }
        var merged = final
        for frontend in changes.keys where merged.routes[frontend] == nil {
            merged.routes[frontend] = self.table.routes[frontend]
        }
        self.publish(merged, [])
        self.table = merged
        try await self.programming.update(changes.mapValues { $0.planned?.rule })
        self.table = final
        self.publish(self.withRetired(changes, of: merged), Set(changes.keys))
        self.finish(changes, since: since) { frontend in
            let owner = changes[frontend]?.formerOwner
            let plan = owner.flatMap { former.services[$0] }.flatMap { formerPlanner.plan($0) }
            return self.udpTargets(plan?.frontends.first { $0.frontend == frontend }?.rule.action)
        }
    }

    /// Where flows to a frontend with this action go.
    private func udpTargets(_ action: KernelAction?) -> Set<TransportAddress> {
        switch action {
        case .balance(let balancing): Set(balancing.backends)
        // Its own sessions end those whose endpoint is gone.
        case .proxy: self.proxyAddresses
        case .reject, .drop, nil: []
        }
    }

    /// The table, and for a while the routes of TCP frontends that the kernel balances now: connections that it handed over
    /// a moment ago are still to be accepted.
    private func withRetired(_ changes: [KernelFrontend: FrontendLedger.Change], of merged: RouteTable) -> RouteTable {
        var table = self.table
        for (frontend, change) in changes where frontend.transport == .tcp && table.routes[frontend] == nil {
            guard case .balance = change.planned?.rule.action else { continue }
            table.routes[frontend] = merged.routes[frontend]
        }
        if table.routes.count > self.table.routes.count {
            Task {
                try? await self.sleep(Self.retirement)
                self.publish(self.table, [])
            }
        }
        return table
    }

    private func finish(
        _ changes: [KernelFrontend: FrontendLedger.Change],
        since: MonotonicTime,
        formerTargets: (KernelFrontend) -> Set<TransportAddress>?
    ) {
        self.statistics.transactions += 1
        self.statistics.lastLatency = .now() - since
        self.statistics.maximumLatency = max(self.statistics.maximumLatency, self.statistics.lastLatency)
        let conflicts = Set(self.ledger.conflicts)
        for conflict in conflicts.subtracting(self.reported) {
            self.logger.warning(
                "two services claim one frontend: the first by name is served, give the other another address or port",
                metadata: [
                    "frontend": "\(conflict.frontend)", "served": "\(conflict.owner)", "ignored": "\(conflict.loser)",
                ]
            )
        }
        self.reported = conflicts
        self.sweep(
            changes.compactMap { frontend, change in
                switch frontend.transport {
                case .udp:
                    StaleFlows(
                        frontend: frontend,
                        remainingBackends: self.udpTargets(change.planned?.rule.action),
                        formerBackends: formerTargets(frontend)
                    )
                case .tcp: Self.begunTooEarly(frontend, change)
                case .sctp: nil
                }
            }
        )
    }

    /// Connections to a frontend that is served from now on. Those to a node port had the node itself to refuse them.
    private static func begunTooEarly(_ frontend: KernelFrontend, _ change: FrontendLedger.Change) -> StaleFlows? {
        guard change.planned != nil, change.formerOwner == nil, case .address = frontend.match else { return nil }
        return StaleFlows(frontend: frontend, remainingBackends: [])
    }

    /// Clears stale flows beside the programming: there may be many, and the next change does not wait for them. What comes
    /// meanwhile is merged, by frontend, into the next round.
    private func sweep(_ stale: [StaleFlows]) {
        for flows in stale {
            self.staleFlows[flows.frontend] = self.staleFlows[flows.frontend]?.merged(with: flows) ?? flows
        }
        guard self.sweeping == nil, !self.staleFlows.isEmpty else { return }
        self.sweeping = Task {
            while !self.staleFlows.isEmpty {
                let batch = Array(self.staleFlows.values)
                self.staleFlows = [:]
                await self.clearStaleFlows(batch)
            }
            self.sweeping = nil
        }
    }

    private func route(_ changes: [KernelFrontend: FrontendLedger.Change], into table: inout RouteTable) {
        for (frontend, change) in changes {
            if let former = table.routes.removeValue(forKey: frontend) {
                self.routeBalancers[former.key]?.uses -= 1
            }
            guard let route = change.planned?.route else { continue }
            let balancer: RouteBalancer
            if let known = self.routeBalancers[route.key] {
                balancer = known.balancer
                balancer.update(route)
                self.routeBalancers[route.key] = (balancer, known.uses + 1)
            } else {
                balancer = RouteBalancer(route, seed: self.generator.next())
                self.routeBalancers[route.key] = (balancer, 1)
            }
            table.routes[frontend] = balancer
        }
    }

    private func plan(_ service: ObjectName) -> ServicePlan? {
        self.snapshot.services[service].flatMap { self.planner.plan($0) }
    }

    /// After a failed transaction or a loss with nothing new: what was taken last.
    private func lastState() -> (CatalogUpdate, MonotonicTime)? {
        guard self.statistics.failures + self.statistics.losses > 0 else { return nil }
        return (CatalogUpdate(snapshot: self.snapshot, changedServices: []), .now())
    }

    private func noteFailure(_ error: any Error) {
        self.statistics.failures += 1
        if self.statistics.lastError == nil {
            self.logger.error(
                "the kernel refused the service rules; the last good ones stay, trying again",
                metadata: ["backend": "\(self.programming.backendName)", "error": "\(error)"]
            )
        }
        self.statistics.lastError = "\(error)"
    }
}

/// What the catalog said since it was last asked, merged: one entry however many updates come.
private final class Inbox: Sendable {
    private let pending = Mutex<(update: CatalogUpdate, since: MonotonicTime)?>(nil)
    private let planner = Mutex<ServicePlanner?>(nil)
    private let unreachable = Mutex<Set<String>>([])
    private let isLost = Mutex(false)
    let signal: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation

    init() {
        (self.signal, self.continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    func put(_ update: CatalogUpdate, at now: MonotonicTime) {
        self.pending.withLock { pending in
            if let former = pending {
                let changed = former.update.changedServices.union(update.changedServices)
                pending = (CatalogUpdate(snapshot: update.snapshot, changedServices: changed), former.since)
            } else {
                pending = (update, now)
            }
        }
        self.continuation.yield()
    }

    func put(_ planner: ServicePlanner) {
        self.planner.withLock { $0 = planner }
        self.continuation.yield()
    }

    func put(unreachable nodes: Set<String>) {
        self.unreachable.withLock { $0 = nodes }
        self.continuation.yield()
    }

    var unreachableNodes: Set<String> { self.unreachable.withLock { $0 } }

    func takePlanner() -> ServicePlanner? {
        self.planner.withLock { planner in
            defer { planner = nil }
            return planner
        }
    }

    func putLoss() {
        self.isLost.withLock { $0 = true }
        self.continuation.yield()
    }

    func takeLoss() -> Bool {
        self.isLost.withLock { lost in
            defer { lost = false }
            return lost
        }
    }

    func take() -> (CatalogUpdate, MonotonicTime)? {
        self.pending.withLock { pending in
            defer { pending = nil }
            return pending.map { ($0.update, $0.since) }
        }
    }
}
