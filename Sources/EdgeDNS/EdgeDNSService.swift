import DNSWire
public import Logging
import MeshCore
public import MeshInterfaces
public import NIOCore
import ServiceCatalog
public import ServiceLifecycle
import Synchronization

/// The node's name server: cluster names from the catalog, all others from upstreams through a cache.
///
/// Each event loop of the group has its own sockets (SO_REUSEPORT), cache and view of the upstreams, so queries share
/// nothing. It serves as soon as an address can be bound and keeps trying for those that cannot; a missing catalog,
/// resolver configuration or upstream is a state that is reported, never a reason to stop.
public final class EdgeDNSService: ServiceLifecycle.Service, StatusReporting {
    public let statusName = "edgeDNS"

    /// How often files, sockets and upstreams are looked after.
    static let maintenanceInterval: Duration = .seconds(2)
    /// How long a stop waits for questions under way.
    static let drainTime: Duration = .seconds(2)
    static let defaultClusterDomain = "cluster.local"

    struct Worker: Sendable {
        let loop: any EventLoop
        let responder: NIOLoopBound<QueryResponder>
        let connections: NIOLoopBound<ConnectionCount>
    }

    /// What the workers were last told.
    struct Applied: Hashable, Sendable {
        var settings: EdgeDNSSettings
        var zone: ClusterZone?
        var plan: UpstreamPlan
    }

    struct State {
        var settings: EdgeDNSSettings
        var workers: [Worker] = []
        var wake: AsyncStream<Void>.Continuation?
        var applied: Applied?
        var loopGuard = LoopGuard()
        /// Listening sockets in service.
        var listening: [ListenerKey] = []
        /// Why sockets are missing.
        var bindErrors: [ListenerKey: String] = [:]
    }

    struct ListenerKey: Hashable, Comparable, Sendable, CustomStringConvertible {
        var address: TransportAddress
        var transport: TransportProtocol

        var description: String { "\(self.transport)://\(self.address)" }

        static func < (lhs: ListenerKey, rhs: ListenerKey) -> Bool {
            (lhs.address, lhs.transport.rawValue) < (rhs.address, rhs.transport.rawValue)
        }
    }

    private let catalog: any CatalogReading
    private let group: any EventLoopGroup
    private let logger: Logger
    let state: Mutex<State>

    public init(
        settings: EdgeDNSSettings,
        catalog: any CatalogReading,
        group: any EventLoopGroup,
        logger: Logger
    ) {
        self.catalog = catalog
        self.group = group
        self.logger = logger
        self.state = Mutex(State(settings: settings))
    }

    /// Puts new settings in force without a restart: sockets that stay are not touched, caches are emptied only if their
    /// own bounds change.
    public func update(_ settings: EdgeDNSSettings) {
        let wake = self.state.withLock { state in
            state.settings = settings
            return state.wake
        }
        wake?.yield()
    }

    /// Serves until graceful shutdown or cancellation.
    public func run() async throws {
        let workers = try await self.makeWorkers()
        let (wakeUps, wake) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        self.state.withLock { state in
            state.workers = workers
            state.wake = wake
        }
        let subscription = self.catalog.subscribe { [weak self] update in self?.received(update.snapshot, by: workers) }
        defer { subscription.cancel() }
        wake.yield()
        let ticker = Task {
            while !Task.isCancelled {
                try? await Task.sleep(for: EdgeDNSService.maintenanceInterval)
                wake.yield()
            }
        }
        defer { ticker.cancel() }
        var resolver = ResolverFile()
        var sockets: [ListenerKey: [any Channel]] = [:]
        for await _ in wakeUps.cancelOnGracefulShutdown() {
            self.maintainUpstreams(&resolver, workers)
            await self.maintainSockets(&sockets, workers)
            // Only now could a probe come back.
            self.probeForLoops(workers)
        }
        await self.stop(sockets, workers)
    }

    private func makeWorkers() async throws -> [Worker] {
        var workers: [Worker] = []
        let settings = self.state.withLock { $0.settings }
        let snapshot = self.catalog.snapshot
        for loop in self.group.makeIterator() {
            let worker = try await loop.submit { [weak self, logger] in
                let responder = QueryResponder(loop: loop, settings: settings, logger: logger) {
                    self?.probeArrived($0)
                }
                responder.apply(snapshot)
                return Worker(
                    loop: loop,
                    responder: NIOLoopBound(responder, eventLoop: loop),
                    connections: NIOLoopBound(ConnectionCount(), eventLoop: loop)
                )
            }.get()
            workers.append(worker)
        }
        return workers
    }

    private func received(_ snapshot: CatalogSnapshot, by workers: [Worker]) {
        for worker in workers {
            worker.loop.execute { worker.responder.value.apply(snapshot) }
        }
        let wake = self.state.withLock { $0.settings.cacheDNS?.autoDetect == true ? $0.wake : nil }
        wake?.yield()
    }

    // MARK: Upstreams

    /// The resolver configuration as last read.
    struct ResolverFile {
        var file: WatchedFile?
        var content: ResolvConf?
    }

    private func maintainUpstreams(_ resolver: inout ResolverFile, _ workers: [Worker]) {
        var settings = self.state.withLock { $0.settings }
        settings.listenAddresses = ServerSockets.expand(settings.listenAddresses)
        self.read(&resolver, path: settings.resolvConfPath)
        let snapshot = self.catalog.snapshot
        var plan = UpstreamPlan(settings: settings, resolvConf: resolver.content, snapshot: snapshot)
        let zone = settings.cacheDNS == nil ? self.zone(settings, resolver.content, &plan.problems) : nil
        let wanted = Applied(settings: settings, zone: zone, plan: plan)
        let (previous, looping) = self.state.withLock { state in
            defer { state.applied = wanted }
            return (state.applied, state.loopGuard.looping)
        }
        if previous != wanted {
            for worker in workers {
                worker.loop.execute { [settings, upstreams = plan.upstreams] in
                    worker.responder.value.apply(settings, zone: zone)
                    worker.responder.value.forwarder.setUpstreams(upstreams, looping: looping)
                }
            }
        }
        for problem in plan.problems where previous?.plan.problems.contains(problem) != true {
            self.logger.error("DNS: \(problem)")
        }
        if let previous, previous.plan.upstreams != plan.upstreams {
            self.logger.notice("DNS upstreams changed", metadata: ["upstreams": "\(plan.upstreams)"])
        }
    }

    private func read(_ resolver: inout ResolverFile, path: String) {
        var file = resolver.file?.path == path ? resolver.file ?? WatchedFile(path: path) : WatchedFile(path: path)
        switch file.readIfChanged() {
        case nil: break
        case .text(let text): resolver.content = ResolvConf(parsing: text)
        case .missing: resolver.content = nil
        case .unreadable(let code):
            resolver.content = nil
            self.logger.error(
                "cannot read the resolver configuration",
                metadata: ["path": "\(path)", "errno": "\(code)"]
            )
        }
        resolver.file = file
    }

    private func zone(
        _ settings: EdgeDNSSettings,
        _ resolvConf: ResolvConf?,
        _ problems: inout [String]
    ) -> ClusterZone? {
        let text = settings.clusterDomain ?? resolvConf?.clusterDomain ?? EdgeDNSService.defaultClusterDomain
        guard let domain = try? DomainName(text), domain != .root else {
            problems.append(
                "clusterDomain '\(text)' is no domain name: no cluster names are answered until it is mended"
            )
            return nil
        }
        return ClusterZone(
            domain: domain.lowercased,
            ttl: settings.clusterTTL,
            negativeTTL: settings.clusterNegativeTTL,
            nameServers: settings.listenAddresses.map(\.address).filter { !$0.isUnspecified }
        )
    }

    /// Sends what the loop guard wants to know, and takes upstreams into use again that no longer loop.
    private func probeForLoops(_ workers: [Worker]) {
        let now = MonotonicTime.now()
        let upstreams = self.state.withLock { $0.listening.isEmpty ? nil : $0.applied?.plan.upstreams }
        guard let upstreams else { return }
        let (probes, cleared, looping) = self.state.withLock { state in
            var generator = SystemRandomNumberGenerator()
            let probes = state.loopGuard.takeProbes(for: upstreams, now: now, using: &generator)
            let cleared = state.loopGuard.takeCleared(now: now)
            return (probes, cleared, state.loopGuard.looping)
        }
        for upstream in cleared {
            self.logger.notice("DNS upstream no longer sends queries back", metadata: ["upstream": "\(upstream)"])
        }
        if !cleared.isEmpty { self.setLooping(looping, workers) }
        guard let prober = workers.first, !probes.isEmpty else { return }
        prober.loop.execute {
            for probe in probes {
                guard let name = try? DomainName("\(probe.label).\(LoopGuard.domain)") else { continue }
                prober.responder.value.forwarder.send(Question(name, .hinfo), to: probe.upstream)
            }
        }
    }

    private func setLooping(_ looping: Set<TransportAddress>, _ workers: [Worker]) {
        for worker in workers {
            worker.loop.execute { worker.responder.value.forwarder.setLooping(looping) }
        }
    }

    private func probeArrived(_ label: String) {
        let (upstream, looping, workers) = self.state.withLock { state in
            (state.loopGuard.arrived(label), state.loopGuard.looping, state.workers)
        }
        guard let upstream else { return }
        self.logger.error(
            "DNS upstream sends our queries back to us; it is not used until it stops: it must not forward to this server",
            metadata: ["upstream": "\(upstream)"]
        )
        self.setLooping(looping, workers)
    }

    // MARK: Sockets

    private func maintainSockets(_ sockets: inout [ListenerKey: [any Channel]], _ workers: [Worker]) async {
        let settings = self.state.withLock { $0.settings }
        let wanted = Set(
            ServerSockets.expand(settings.listenAddresses).flatMap { address in
                [TransportProtocol.udp, .tcp].map { ListenerKey(address: address, transport: $0) }
            }
        )
        for (key, channels) in sockets where !wanted.contains(key) || channels.contains(where: { !$0.isActive }) {
            sockets[key] = nil
            for channel in channels { try? await channel.close() }
        }
        var errors: [ListenerKey: String] = [:]
        for key in wanted.sorted() where sockets[key] == nil {
            do {
                sockets[key] = try await self.bind(key, workers)
                self.logger.info("DNS server listens", metadata: ["address": "\(key)"])
            } catch {
                errors[key] = "\(error)"
            }
        }
        let known = self.state.withLock { state in
            defer {
                state.bindErrors = errors
                state.listening = sockets.keys.sorted()
            }
            return state.bindErrors
        }
        for (key, error) in errors where known[key] != error {
            self.logger.error(
                "DNS server cannot listen, and tries again: see which process holds the port (ss -lnptu)",
                metadata: ["address": "\(key)", "error": "\(error)"]
            )
        }
    }

    private func bind(_ key: ListenerKey, _ workers: [Worker]) async throws -> [any Channel] {
        var channels: [any Channel] = []
        for worker in workers {
            let opening =
                switch key.transport {
                case .udp:
                    ServerSockets.bindDatagram(
                        key.address,
                        responder: worker.responder,
                        on: worker.loop,
                        isShared: workers.count > 1
                    )
                default:
                    ServerSockets.bindStream(
                        key.address,
                        responder: worker.responder,
                        connections: worker.connections,
                        on: worker.loop,
                        isShared: workers.count > 1,
                        logger: self.logger
                    )
                }
            do {
                channels.append(try await opening.get())
            } catch {
                for channel in channels { try? await channel.close() }
                throw error
            }
        }
        return channels
    }

    /// Lets questions under way end, then closes.
    private func stop(_ sockets: [ListenerKey: [any Channel]], _ workers: [Worker]) async {
        let deadline = MonotonicTime.now() + EdgeDNSService.drainTime
        // A cancelled task cannot sleep, so the wait is one of its own.
        await Task {
            while MonotonicTime.now() < deadline {
                var outstanding = 0
                for worker in workers {
                    let count = try? await worker.loop.submit { worker.responder.value.forwarder.outstanding }.get()
                    outstanding += count ?? 0
                }
                guard outstanding > 0 else { return }
                try? await Task.sleep(for: .milliseconds(20))
            }
        }.value
        for channel in sockets.values.joined() { try? await channel.close() }
        self.state.withLock { state in
            state.listening = []
            state.workers = []
            state.wake = nil
        }
    }
}
