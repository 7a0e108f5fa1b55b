import ByteStreams
import HashTreeCollections
import LibP2P
import LibP2PDiscovery
import LibP2PRelay
import Logging
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import ServiceCatalog
import Synchronization

/// This node as a member of the mesh: a host, and all that runs upon it. Any thread.
///
/// Starting waits for nobody but this machine: relays, discovery and gateways are found in the background.
final class MeshNode: Sendable {
    /// What differs between a machine and a simulation of one.
    struct Surroundings: Sendable {
        var dialer = TargetDialer.sockets
        /// By which AutoNAT dials others back; none: it does not serve.
        var dialBackTransports: [any Transport] = []
        /// Nil: nobody is sought in the local network.
        var mdns: MDNSConfiguration?
        /// Nil: those who are revoked are forgotten at the end.
        var revocations: RevocationFile?
        var paths = PathTable.Configuration()
        /// Who takes packets of other nodes.
        var packets = PacketReception()
        var packetLimits = PacketLimits()
    }

    struct State {
        var settings: TunnelSettings
        var relayService: RelayService?
        var autoNATServer: AutoNATServer?
        var isReachable = false
        var listening: Set<Multiaddr> = []
        /// Relays are dialled from then on: from the port of the tunnel, or they could not tell how it looks from outside.
        var hasListened = false
        var subscription: CatalogSubscription?
        var observation: Observation?
        var heartbeat: RepeatedTask?
        var finder: RepeatedTask?
        var tasks: [Task<Void, Never>] = []
        var isStopped = false
    }

    /// For what is under way on streams that carry no flows.
    private static let farewell = TimeAmount.milliseconds(500)

    let host: Host
    let directory: PeerDirectory
    let interfaces: InterfaceSelection
    let relays: RelayBook
    let paths: PathTable
    let opener: FlowOpener
    let acceptor: FlowAcceptor
    let access: TargetAccess
    let packetChannels: PacketChannels
    /// Nil: packets take streams alone.
    let packetWays: PacketWays?
    let packetOpener: PacketOpener
    let packetAcceptor: PacketAcceptor
    let exchange: DiscoveryExchange
    let greeter: PeerGreeter
    let relayClient: RelayClient
    let puncher: HolePuncher?
    let mapper: PortMapper?
    let autoNAT: AutoNATClient
    let mdns: MDNSService?
    let dht: DualDHT
    let logger: Logger
    let state: Mutex<State>
    let loop: any EventLoop
    let observed: ObservedAddresses
    let surroundings: Surroundings
    /// What the host was made for.
    let maximumNodes: Int

    init(
        host: Host,
        settings: TunnelSettings,
        directory: PeerDirectory,
        interfaces: InterfaceSelection,
        unreachable: UnreachableNodes,
        surroundings: Surroundings = Surroundings(),
        logger: Logger
    ) {
        self.host = host
        self.directory = directory
        self.interfaces = interfaces
        self.surroundings = surroundings
        self.logger = logger
        self.loop = host.group.next()
        self.maximumNodes = settings.capacity.peers
        self.state = Mutex(State(settings: settings))
        let relays = RelayBook(ownPeer: host.peerID, naming: directory)
        let limits = settings.flowLimits
        let opener = FlowOpener(host: host, limits: limits.opener)
        let access = TargetAccess(nodeName: settings.nodeName, settings: settings.targets)
        let acceptor = FlowAcceptor(
            host: host,
            naming: directory,
            access: access,
            limits: limits.acceptor,
            dialer: surroundings.dialer,
            logger: logger
        )
        let packetChannels = PacketChannels(host: host, limits: surroundings.packetLimits)
        let observed = ObservedAddresses(host: host)
        let packetWays =
            settings.packetDatagrams == .never
            ? nil : PacketWays(host: host, use: settings.packetDatagrams, observed: observed, logger: logger)
        let packetOpener = PacketOpener(
            host: host,
            channels: packetChannels,
            limits: surroundings.packetLimits,
            ways: packetWays
        )
        let packetAcceptor = PacketAcceptor(
            host: host,
            naming: directory,
            channels: packetChannels,
            reception: surroundings.packets,
            limits: surroundings.packetLimits,
            ways: packetWays,
            logger: logger
        )
        let puncher = settings.holePunching ? HolePuncher(host: host, observed: observed) : nil
        var paths = surroundings.paths
        paths.liveness.interval = settings.livenessInterval
        paths.liveness.timeout = settings.livenessTimeout
        self.relays = relays
        self.opener = opener
        self.access = access
        self.acceptor = acceptor
        self.packetChannels = packetChannels
        self.packetWays = packetWays
        self.packetOpener = packetOpener
        self.packetAcceptor = packetAcceptor
        self.observed = observed
        self.puncher = puncher
        self.paths = PathTable(
            host: host,
            naming: directory,
            relays: relays,
            surroundings: PathTable.Surroundings(
                isPunched: { puncher?.isPunched($0) ?? false },
                flows: { peer in
                    (
                        opener.tally.flows(with: peer) + packetOpener.tally.flows(with: peer),
                        acceptor.tally.flows(with: peer) + packetAcceptor.tally.flows(with: peer)
                    )
                },
                pathChanged: { packetChannels.pathChanged(to: $0) }
            ),
            unreachable: unreachable,
            configuration: paths,
            logger: logger
        )
        self.exchange = DiscoveryExchange(host: host, nodeName: settings.nodeName, naming: directory)
        self.greeter = PeerGreeter(
            host: host,
            naming: directory,
            exchange: self.exchange,
            mustBeTold: settings.identity != .derived,
            logger: logger
        )
        var client = RelayClientConfiguration()
        client.maximumCandidates = max(settings.maximumRelays, settings.relays.count) + RelayBook.maximumVolunteers
        // What they gather before they are compared; "within two seconds of the start" includes it.
        client.selectionDelay = .milliseconds(500)
        client.retryMaximum = .seconds(5)
        client.acceptCircuit = { _, source in !directory.isRevoked(source) }
        self.relayClient = RelayClient(host: host, configuration: client, logger: logger)
        self.mapper = settings.portMapping ? PortMapper(host: host) : nil
        self.autoNAT = AutoNATClient(host: host, observed: observed)
        self.mdns = surroundings.mdns.map { MDNSService(host: host, configuration: $0) }
        self.dht = Self.makeDHT(host, settings, relays)
    }

    private static func makeDHT(_ host: Host, _ settings: TunnelSettings, _ relays: RelayBook) -> DualDHT {
        relays.configure(settings)
        let bootstrap = relays.relays.flatMap { relay in relay.addresses.map { $0.appending(.p2p(relay.peer)) } }
        var wan = KademliaConfiguration.wan()
        var lan = KademliaConfiguration.lan()
        wan.bootstrapPeers = bootstrap
        // In a cluster without public addresses the other one stays empty.
        lan.bootstrapPeers = bootstrap
        return DualDHT(
            wan: KademliaDHT(host: host, configuration: wan),
            lan: KademliaDHT(host: host, configuration: lan)
        )
    }

    var settings: TunnelSettings { self.state.withLock { $0.settings } }

    // MARK: Life

    /// Listens and begins. Throws if this node cannot listen.
    func start(catalog: any CatalogReading) async throws {
        let observation = self.host.observe { [weak self] in self?.observe($0) }
        let subscription = catalog.subscribe { [weak self] update in
            guard let self else { return }
            self.access.apply(update)
            self.loop.execute { self.nodesChanged(update.snapshot) }
        }
        let heartbeat = self.loop.scheduleRepeatedTask(
            initialDelay: .seconds(10),
            delay: self.settings.heartbeat
        ) { [weak self] _ in self?.measureRelays() }
        let period = self.settings.finderPeriod
        let finder = self.loop.scheduleRepeatedTask(initialDelay: period, delay: period) { [weak self] _ in
            self?.findRelays()
        }
        self.state.withLock { state in
            state.finder = finder
            state.observation = observation
            state.subscription = subscription
            state.heartbeat = heartbeat
        }
        // What other agents are told by the first identify must be there before the first connection.
        self.paths.start()
        if self.settings.acceptsFlows { self.acceptor.start() }
        self.packetAcceptor.start()
        self.exchange.start()
        self.greeter.start()
        self.host.setPeerRouting(self.dht)
        self.relayClient.start()
        self.puncher?.start()
        self.observed.start()
        self.autoNAT.start()
        await self.packetWays?.start(self.settings.listenPort)
        try await self.listen()
        try await self.host.start()
        self.state.withLock { $0.hasListened = true }
        self.offerRelays()
        self.followRole()
        self.mapper?.start()
        self.run { [weak self] in await self?.discover() }
    }

    /// Takes no new flows, waits for open ones until `deadline`, and ends.
    func stop(deadline: NIODeadline) async {
        let (before, service, server) = self.state.withLock { state in
            state.isStopped = true
            defer { (state.relayService, state.autoNATServer, state.tasks) = (nil, nil, []) }
            state.heartbeat?.cancel()
            state.finder?.cancel()
            return (state, state.relayService, state.autoNATServer)
        }
        before.observation?.cancel()
        before.subscription?.cancel()
        for task in before.tasks { task.cancel() }
        self.paths.stop()
        self.greeter.stop()
        self.exchange.stop()
        self.autoNAT.stop()
        self.observed.stop()
        self.puncher?.stop()
        self.relayClient.stop()
        service?.stop()
        await self.mdns?.stop()
        await self.dht.stop()
        await server?.stop()
        await self.mapper?.stop()
        await self.surroundings.revocations?.finish()
        self.packetAcceptor.stop()
        self.packetChannels.closeAll()
        await self.packetWays?.stop()
        let cut = await self.acceptor.stop(deadline: deadline)
        if cut > 0 { self.logger.notice("flows of other nodes were cut", metadata: ["flows": "\(cut)"]) }
        // Whoever opened flows from here has ended them before. What is left is questions to peers and the circuits of a relay: they
        // may take longer than any deadline, and until this node is gone nobody reaches it.
        await self.host.shutdown(deadline: min(deadline, self.loop.now + Self.farewell))
    }

    /// A task of this node, on one of its loops, which ends with it.
    func run(_ body: @escaping @Sendable () async -> Void) {
        let task = Task(executorPreference: LoopTaskExecutor(self.loop)) { await body() }
        let isStopped = self.state.withLock { state in
            state.tasks.append(task)
            return state.isStopped
        }
        if isStopped { task.cancel() }
    }

    private func discover() async {
        do { try await self.mdns?.start() } catch {
            self.logger.warning("nodes of the local network are not found", metadata: ["error": "\(error)"])
        }
        do { try await self.dht.start() } catch {
            self.logger.warning("the DHT does not run", metadata: ["error": "\(error)"])
        }
        await Rendezvous(dht: self.dht, name: self.settings.rendezvous, loop: self.loop, logger: self.logger).run()
    }

    // MARK: Flows

    func open(
        _ target: TunnelTarget,
        _ transport: TransportProtocol,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart? = nil
    ) -> EventLoopFuture<any Channel> {
        let peer: PeerID
        do throws(TunnelError) { peer = try self.peer(of: target.node) } catch { return loop.makeFailedFuture(error) }
        return self.paths.connection(to: target.node, peer, on: loop, deadline: deadline).flatMap { connection in
            self.opener.open(
                target,
                transport: transport,
                peer: peer,
                on: connection.eventLoop,
                deadline: deadline,
                early: early
            )
        }
    }

    func openPackets(
        to node: String,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<PacketChannel> {
        let peer: PeerID
        do throws(TunnelError) { peer = try self.peer(of: node) } catch { return loop.makeFailedFuture(error) }
        return self.paths.connection(to: node, peer, on: loop, deadline: deadline).flatMap { connection in
            self.packetOpener.open(node, over: connection, deadline: deadline)
        }
    }

    /// The connection that a flow to a node takes; nil if there is none.
    func connection(to node: String) -> Connection? {
        self.directory.peer(of: node).flatMap { self.host.bestConnection(to: $0) }
    }

    /// Measures the round trip by the best path to a node, which is dialled if need be.
    func ping(_ node: String, timeout: TimeAmount) async throws(TunnelError) -> (NodePath, Duration) {
        // A name that was mistyped has a peer, too: its key would be derived, and sought in vain.
        if let complaint = self.directory.complaint(about: node) {
            throw TunnelError(code: .unknownNode, message: complaint)
        }
        let peer = try self.peer(of: node)
        let deadline = self.loop.now + timeout
        do {
            let connection = try await self.paths.connection(to: node, peer, on: self.loop, deadline: deadline).get()
            let rest = max(.milliseconds(1), deadline - self.loop.now)
            let time = try await connection.ping(timeout: rest).get()
            return (self.paths.path(over: connection), .nanoseconds(time.nanoseconds))
        } catch {
            throw error as? TunnelError
                ?? TunnelError(code: .timedOut, message: "node \(node) did not answer the ping: \(error)")
        }
    }

    private func peer(of node: String) throws(TunnelError) -> PeerID {
        guard let peer = self.directory.peer(of: node) else {
            throw TunnelError(
                code: .unknownNode,
                message: "nothing tells which peer node \(node) is; does its record in the cluster hold a valid one?"
            )
        }
        guard peer != self.host.peerID else {
            throw TunnelError(code: .noPath, message: "\(node) is this node: no tunnel leads to it")
        }
        return peer
    }
}
