import ByteStreams
import LibP2P
import LibP2PDiscovery
import LibP2PSecurity
import LinuxNetwork
public import Logging
import MeshCore
public import MeshInterfaces
import Multiformats
public import NIOCore
import PeerIdentity
public import ServiceLifecycle
import Synchronization

/// The tunnel of this node: reaches other nodes directly, through NATs or by relays, and answers for this one.
///
/// It may be run again after it has failed; in between, and before it is up, flows fail with `notRunning` and no node is known.
/// Any thread.
public final class EdgeTunnelService: Service, NodeTunneling, PacketTunneling {
    struct State {
        var settings: TunnelSettings
        var running: MeshNode?
    }

    /// How long open flows may go on once the agent is told to stop.
    static let drainTimeout = TimeAmount.seconds(8)
    /// For a path to be made and the answer to come.
    static let pingTimeout = TimeAmount.seconds(10)
    /// A file longer than this is none that anybody meant to be a key.
    static let longestKeyFile = 1 << 20

    let state: Mutex<State>
    let unreachable: UnreachableNodes
    private let packets = PacketReception()
    private let catalog: any CatalogReading
    private let group: any EventLoopGroup
    private let annotator: (any NodeAnnotating)?
    private let logger: Logger

    /// - Parameter annotator: writes the cluster's record of this node, for the identity `node`; nil where there is no cluster to
    ///   write to.
    public init(
        settings: TunnelSettings,
        catalog: any CatalogReading,
        group: any EventLoopGroup,
        annotator: (any NodeAnnotating)? = nil,
        logger: Logger
    ) {
        self.state = Mutex(State(settings: settings))
        self.unreachable = UnreachableNodes(loop: group.next())
        self.catalog = catalog
        self.group = group
        self.annotator = annotator
        self.logger = logger
    }

    /// Takes over what can change live; all else waits for the next start.
    public func update(_ settings: TunnelSettings) {
        let running = self.state.withLock { state in
            state.settings = settings
            return state.running
        }
        running?.update(settings)
    }

    // MARK: Life

    public func run() async throws { try await self.run {} }

    /// Runs until graceful shutdown. Throws `EdgeTunnelError` if the tunnel cannot run as it is set up.
    /// - Parameter isUp: called when it listens.
    public func run(isUp: @escaping @Sendable () -> Void) async throws {
        let settings = self.state.withLock { $0.settings }
        let node = try self.makeNode(settings)
        let monitor = NetworkMonitor(on: node.loop, logger: self.logger) { [weak self, weak node] in
            guard let node else { return }
            self?.readUplinks(node.interfaces)
            node.networkChanged()
        }
        do {
            try await node.start(catalog: self.catalog)
        } catch {
            await node.stop(deadline: .now())
            throw error
        }
        let present = self.state.withLock { state in
            state.running = node
            return state.settings
        }
        // They may have changed meanwhile.
        if present != settings { node.update(present) }
        monitor.start()
        self.publishIdentity(of: node, settings)
        isUp()
        let isGraceful: Bool
        do {
            try await gracefulShutdown()
            isGraceful = true
        } catch {
            isGraceful = false
        }
        monitor.stop()
        self.state.withLock { $0.running = nil }
        await node.stop(deadline: .now() + (isGraceful ? Self.drainTimeout : .zero))
    }

    private func makeNode(_ settings: TunnelSettings) throws(EdgeTunnelError) -> MeshNode {
        let transport: any Transport
        let onShortage: AcceptShortage = { [logger] address, error in
            logger.error(
                "the tunnel accepts nothing for a while: descriptors or memory are short; raise LimitNOFILE",
                metadata: ["address": "\(address)", "error": "\(error)"]
            )
        }
        switch settings.transport {
        case .tcp: transport = TCPTransport(onShortage: onShortage)
        case .ws: transport = WebSocketTransport(onShortage: onShortage)
        case .quic:
            throw EdgeTunnelError(
                code: .transport,
                message:
                    "modules.edgeTunnel.transport is quic, which this agent does not speak: set it to tcp or ws on all nodes"
            )
        }
        let key = try Self.preSharedKey(settings)
        let identity = try Self.identity(settings)
        let interfaces = InterfaceSelection(named: settings.listenInterfaces, filtered: settings.filteredInterfaces)
        self.readUplinks(interfaces)
        let revocations = settings.revocationsFile.map { RevocationFile(path: $0, logger: self.logger) }
        let directory = PeerDirectory(
            ownName: settings.nodeName,
            ownPeer: identity.peerID,
            revoked: revocations?.read() ?? []
        )
        var configuration = HostConfiguration()
        settings.apply(to: &configuration, interfaces, directory)
        configuration.preSharedKey = key
        let host: Host
        do {
            host = try Host(identity: identity, configuration: configuration, group: self.group, logger: self.logger)
        } catch {
            throw EdgeTunnelError(code: .identity, message: "this node's key cannot be used", cause: error)
        }
        host.add(transport: transport)
        // Each flow to this node is a socket to its target.
        let capacity = settings.capacity
        _ = FileDescriptorLimit.raise(
            to: UInt64(clamping: settings.flowLimits.acceptor.maximumFlows + 2 * capacity.peers)
        )
        var mdns = MDNSConfiguration(serviceName: settings.rendezvous)
        mdns.interfaceFilter = { interfaces.admits($0) }
        self.logger.notice(
            "the tunnel starts",
            metadata: [
                "peer-id": "\(identity.peerID)", "transport": "\(settings.transport.rawValue)",
                "identity": "\(settings.identity == .derived ? "derived" : "node")", "psk": "\(key != nil)",
                "most-nodes": "\(capacity.peers)",
                "most-memory": "\((configuration.limits.memoryBytes + configuration.limits.unreadBytes) >> 20) MiB",
            ]
        )
        self.warn(settings)
        return MeshNode(
            host: host,
            settings: settings,
            directory: directory,
            interfaces: interfaces,
            unreachable: self.unreachable,
            surroundings: MeshNode.Surroundings(
                dialBackTransports: [transport],
                mdns: mdns,
                revocations: revocations,
                packets: self.packets
            ),
            logger: self.logger
        )
    }

    private func readUplinks(_ interfaces: InterfaceSelection) {
        do {
            interfaces.setUplinks(try RouteNetlink.defaultRouteDevices())
        } catch {
            self.logger.debug("the default routes cannot be read", metadata: ["error": "\(error)"])
        }
    }

    // MARK: Keys

    static func preSharedKey(_ settings: TunnelSettings) throws(EdgeTunnelError) -> PreSharedKey? {
        guard let path = settings.preSharedKeyFile else { return nil }
        let bytes: [UInt8]
        do {
            bytes = try WholeFile.read(path, atMost: Self.longestKeyFile)
        } catch {
            throw EdgeTunnelError(
                code: .preSharedKey,
                message:
                    "the pre-shared key \(path) \(error): put the cluster's key there, the same on all nodes, or set modules.edgeTunnel.psk.enable: false if all who reach this node may join"
            )
        }
        guard !bytes.isEmpty, bytes.count <= Self.longestKeyFile else {
            throw EdgeTunnelError(
                code: .preSharedKey,
                message:
                    "the pre-shared key \(path) is \(bytes.isEmpty ? "empty" : "too long"): put the cluster's key there"
            )
        }
        return PreSharedKey(originalFileBytes: bytes)
    }

    static func identity(_ settings: TunnelSettings) throws(EdgeTunnelError) -> KeyPair {
        do {
            switch settings.identity {
            case .derived: return try KeyPair.derived(nodeName: settings.nodeName)
            case .node(let file): return try KeyPair.loadOrCreate(path: file)
            }
        } catch {
            throw EdgeTunnelError(code: .identity, message: "this node has no identity", cause: error)
        }
    }

    /// What this mode of identity cannot promise; docs/threat-model.md has the whole.
    private func warn(_ settings: TunnelSettings) {
        switch (settings.identity, settings.preSharedKeyFile) {
        case (.derived, nil):
            self.logger.warning(
                "nobody is kept out: keys of nodes follow from their names, and there is no pre-shared key; set modules.edgeTunnel.psk, or identity: node on all nodes"
            )
        case (.derived, .some):
            self.logger.warning(
                "keys of nodes follow from their names (identity: derived): whoever holds the pre-shared key can pass for any node; identity: node mends that"
            )
        case (.node, nil):
            self.logger.warning(
                "there is no pre-shared key: everyone who reaches this node may connect, though not as a node of the cluster"
            )
        case (.node, .some): break
        }
    }

    private func publishIdentity(of node: MeshNode, _ settings: TunnelSettings) {
        guard case .node = settings.identity else { return }
        guard let annotator = self.annotator else {
            self.logger.notice(
                "this agent has no cluster to write to: others know it by the annotation of its Node object in their manifests",
                metadata: ["peer-id": "\(node.host.peerID)"]
            )
            return
        }
        let publisher = NodeRecordPublisher(
            nodeName: settings.nodeName,
            peer: node.host.peerID,
            catalog: self.catalog,
            annotator: annotator,
            loop: node.loop,
            logger: self.logger
        )
        node.run { await publisher.run() }
    }

    // MARK: Tunnelling

    public func openStream(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel> {
        self.open(target, .tcp, on: loop, deadline: deadline, early: early)
    }

    public func openDatagrams(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        self.open(target, .udp, on: loop, deadline: deadline)
    }

    public func eventLoop(for node: String) -> (any EventLoop)? {
        self.state.withLock { $0.running }?.connection(to: node)?.eventLoop
    }

    private func open(
        _ target: TunnelTarget,
        _ transport: TransportProtocol,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart? = nil
    ) -> EventLoopFuture<any Channel> {
        guard let node = self.state.withLock({ $0.running }) else {
            return loop.makeFailedFuture(Self.notRunning(target.node))
        }
        return node.open(target, transport, on: loop, deadline: deadline, early: early)
    }

    public func openPackets(
        to node: String,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<PacketChannel> {
        guard let running = self.state.withLock({ $0.running }) else {
            return loop.makeFailedFuture(Self.notRunning(node))
        }
        return running.openPackets(to: node, on: loop, deadline: deadline)
    }

    public func acceptPackets(_ accept: (@Sendable (PacketChannel) -> Void)?) { self.packets.set(accept) }

    /// Measures one round trip to a node by the best path there is, which is made if there is none. Throws `TunnelError` within
    /// `pingTimeout`.
    public func ping(node name: String) async throws(TunnelError) -> (path: NodePath, roundTrip: Duration) {
        guard let node = self.state.withLock({ $0.running }) else { throw Self.notRunning(name) }
        return try await node.ping(name, timeout: Self.pingTimeout)
    }

    private static func notRunning(_ node: String) -> TunnelError {
        TunnelError(code: .notRunning, message: "the tunnel of this agent is not up: none to node \(node)")
    }

    public var paths: [String: NodePath] { self.state.withLock { $0.running }?.paths.paths ?? [:] }

    public func observeUnreachableNodes(_ receive: @escaping @Sendable (Set<String>) -> Void) -> TunnelObservation {
        self.unreachable.observe(receive)
    }
}
