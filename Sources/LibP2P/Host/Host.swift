import LibP2PSecurity
public import Logging
public import Multiformats
public import NIOCore
public import PeerIdentity
import Synchronization
import Yamux

/// A libp2p host: it listens, dials, and gives streams to peers whose identity is proven.
///
/// May be used from any thread or task. Each connection lives on one event loop of `group`; futures that give a stream or
/// a connection complete on its loop. Shared tables lie under one mutex, and nothing is called while it is held.
/// Whoever starts a host shuts it down.
public final class Host: Sendable {
    public let identity: KeyPair
    public let peerID: PeerID
    public let configuration: HostConfiguration
    public let group: any EventLoopGroup
    public let peers: PeerStore
    public let connectionManager: ConnectionManager
    public let logger: Logger

    /// Gives the time, and runs what belongs to no connection.
    let clock: any EventLoop
    let upgrade: ConnectionUpgrade.Configuration
    /// Shared by the sessions of all connections.
    let unreadBudget: YamuxByteBudget
    let unsentBudget: YamuxByteBudget
    let state: Mutex<HostState>
    let resources: Mutex<ResourceUsage>

    /// Makes a host that does nothing yet. Fails if the identity cannot make the keys of the security protocols.
    public init(
        identity: KeyPair,
        configuration: HostConfiguration,
        group: any EventLoopGroup,
        logger: Logger
    ) throws {
        let clock = group.next()
        var yamux = configuration.yamux
        let unread = YamuxByteBudget(.unread, maximumBytes: configuration.limits.unreadBytes)
        let unsent = YamuxByteBudget(.unsent, maximumBytes: configuration.limits.unsentBytes)
        (yamux.unreadBudget, yamux.unsentBudget) = (unread, unsent)
        (self.unreadBudget, self.unsentBudget) = (unread, unsent)
        self.identity = identity
        self.peerID = identity.peerID
        self.configuration = configuration
        self.group = group
        self.logger = logger
        self.clock = clock
        self.upgrade = ConnectionUpgrade.Configuration(
            security: try configuration.security.map { security in
                switch security {
                case .tls: try TLSSecurity(identity: identity)
                case .noise: try NoiseSecurity(identity: identity)
                }
            },
            preSharedKey: configuration.preSharedKey,
            yamux: yamux
        )
        self.peers = PeerStore(configuration: configuration.peerStore, now: { clock.now })
        self.connectionManager = ConnectionManager(configuration: configuration.connectionManager)
        self.state = Mutex(HostState(configuration: configuration, now: clock.now))
        self.resources = Mutex(ResourceUsage(limits: configuration.limits))
        self.handleIdentify()
        self.handlePing()
    }

    // MARK: Life

    /// Listens on the configured addresses and begins to take care of connections.
    public func start() async throws {
        for address in self.configuration.listenAddresses {
            try await self.listen(on: address)
        }
        let task = self.clock.scheduleRepeatedTask(
            initialDelay: self.configuration.connectionManager.interval,
            delay: self.configuration.connectionManager.interval
        ) { [weak self] _ in self?.maintain() }
        self.state.withLock { $0.maintenance = task }
    }

    /// Stops listening, refuses new streams, waits for open ones until `deadline`, then closes what is left.
    public func shutdown(deadline: NIODeadline) async {
        let (listeners, dials, handshakes, connections, maintenance) = self.state.withLock { state in
            // All in the order in which they began, so that simulated runs are the same.
            let all = (
                state.listeners,
                state.allDials.sorted { $0.key < $1.key }.map(\.value),
                state.handshakes.sorted { $0.key < $1.key }.map(\.value),
                state.connections.all,
                state.maintenance
            )
            state.phase = .stopping
            state.listeners = []
            state.maintenance = nil
            return all
        }
        maintenance?.cancel()
        var closings = listeners.map { $0.listener.close() }
        for dial in dials {
            dial.loop.execute {
                dial.dial.value?.cancel(LibP2PError(code: .shutDown, message: "the host is shutting down"))
            }
        }
        for channel in handshakes {
            channel.close(promise: nil)
            closings.append(channel.closeFuture)
        }
        for connection in connections {
            connection.close(drainUntil: deadline)
            closings.append(connection.closeFuture)
        }
        let force = self.clock.scheduleTask(deadline: deadline) {
            for connection in connections { connection.channel.close(promise: nil) }
        }
        try? await EventLoopFuture.andAllComplete(closings, on: self.clock).get()
        force.cancel()
        let streams = self.state.withLock { state in
            state.phase = .stopped
            state.observers = [:]
            defer { state.streams = [:] }
            return Array(state.streams.values)
        }
        for stream in streams { stream.finish() }
    }

    /// What is to be done now and then, on the clock's loop.
    private func maintain() {
        self.refreshAddresses()
        let (candidates, byID) = self.state.withLock { state in
            let candidates = state.connections.all.map {
                ConnectionManager.Candidate(id: $0.id, peer: $0.remotePeer, opened: $0.opened, streams: $0.streamCount)
            }
            return (candidates, state.connections.byID)
        }
        let surplus = self.connectionManager.surplus(of: candidates, now: self.clock.now)
        guard !surplus.isEmpty else { return }
        self.state.withLock { $0.metrics.connectionsTrimmed += UInt64(surplus.count) }
        self.logger.info("closing idle connections", metadata: ["count": "\(surplus.count)"])
        for id in surplus { byID[id]?.close() }
    }

    // MARK: Registries

    /// Transports are asked in the order in which they were added.
    public func add(transport: any Transport) {
        self.state.withLock { $0.transports.append(transport) }
    }

    /// Takes the streams of a protocol; a handler before it is replaced.
    public func handle(
        _ protocolID: ProtocolID,
        options: HandlerOptions = HandlerOptions(),
        _ handler: @escaping StreamHandler
    ) {
        self.state.withLock { $0.handlers[protocolID] = HostState.Handler(options: options, handler: handler) }
        self.resources.withLock { $0.bound(protocolID, to: options.bounds) }
        self.identityChanged()
    }

    public func stopHandling(_ protocolID: ProtocolID) {
        self.state.withLock { $0.handlers[protocolID] = nil }
        self.identityChanged()
    }

    /// The protocols that identify tells.
    public var protocols: [ProtocolID] {
        self.state.withLock { $0.advertisedProtocols }
    }

    /// Asks for addresses of peers of which none is known, or none that is known can be reached.
    public func setPeerRouting(_ routing: (any PeerRouting)?) {
        self.state.withLock { $0.routing = routing }
    }

    // MARK: Connections

    /// The open connections to a peer.
    public func connections(to peer: PeerID) -> [Connection] {
        self.state.withLock { $0.connections.to(peer) }
    }

    /// All open connections.
    public var connections: [Connection] {
        self.state.withLock { $0.connections.all }
    }

    /// The connection that a new stream to the peer takes; nil if there is none.
    public func bestConnection(to peer: PeerID) -> Connection? {
        self.state.withLock { $0.connections.best(to: peer, allowLimited: true, directOnly: false) }
    }

    /// Closes all connections to the peer, and the streams on them.
    public func disconnect(from peer: PeerID) {
        for connection in self.connections(to: peer) { connection.close() }
    }

    public var metrics: HostMetrics {
        var metrics = self.state.withLock { state in
            var metrics = state.metrics
            metrics.openDials = state.allDials.count
            metrics.inboundHandshakes = state.inboundHandshakes.count
            return metrics
        }
        self.resources.withLock { usage in
            metrics.openConnectionsInbound = usage.connections.inbound
            metrics.openConnectionsOutbound = usage.connections.outbound
            metrics.openStreamsInbound = usage.streams.inbound
            metrics.openStreamsOutbound = usage.streams.outbound
            metrics.streamsOpened = usage.opened.outbound
            metrics.streamsAccepted = usage.opened.inbound
            metrics.streamsRefused = usage.streamsRefused
        }
        let unread = self.unreadBudget.metrics
        metrics.unreadBytes = unread.bytes
        metrics.windowGrowthsDenied = unread.growthsDenied
        metrics.streamsRefusedUnread = unread.streamsRefused
        metrics.streamsResetUnread = unread.streamsReset
        let unsent = self.unsentBudget.metrics
        metrics.unsentBytes = unsent.bytes
        metrics.writesFailedUnsent = unsent.writesFailed
        metrics.streamsResetUnsent = unsent.streamsReset
        metrics.knownPeers = self.peers.count
        return metrics
    }
}
