public import Logging
public import Multiformats
public import NIOCore
public import PeerIdentity
import Synchronization

/// A libp2p host: it listens, dials, and gives streams to peers whose identity is proven.
///
/// May be used from any thread or task. Each connection lives on one event loop of `group`; futures that give a stream or
/// a connection complete on its loop. Shared tables lie under one mutex, and nothing is called while it is held.
/// Whoever makes a host shuts it down.
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
    let state: Mutex<HostState>
    let resources: Mutex<ResourceUsage>

    public init(
        identity: KeyPair,
        configuration: HostConfiguration,
        group: any EventLoopGroup,
        logger: Logger
    ) {
        let clock = group.next()
        self.identity = identity
        self.peerID = identity.peerID
        self.configuration = configuration
        self.group = group
        self.logger = logger
        self.clock = clock
        self.peers = PeerStore(configuration: configuration.peerStore, now: { clock.now })
        self.connectionManager = ConnectionManager(configuration: configuration.connectionManager)
        self.state = Mutex(HostState())
        self.resources = Mutex(ResourceUsage(limits: configuration.limits))
    }

    /// Listens on the configured addresses and begins to take care of connections.
    public func start() async throws {
        for address in self.configuration.listenAddresses {
            try await self.listen(on: address)
        }
    }

    /// Stops listening, says goodbye to peers, waits for open streams until `deadline`, then closes what is left.
    public func shutdown(deadline: NIODeadline) async {
    }

    // MARK: Transports

    /// Transports are asked in the order in which they were added.
    public func add(transport: any Transport) {
        self.state.withLock { $0.transports.append(transport) }
    }

    /// Listens on an address, too. A port of 0 is chosen by the system.
    public func listen(on address: Multiaddr) async throws {
    }

    // MARK: Connections

    /// Gives a connection to the peer: one that is open, or a new one, to `addresses` and those that are known.
    public func connect(
        to peer: PeerID,
        addresses: [Multiaddr] = [],
        options: DialOptions = DialOptions()
    ) -> EventLoopFuture<Connection> {
        self.clock.makeFailedFuture(LibP2PError(code: .shutDown, message: "the host is not running"))
    }

    public func connect(
        to peer: PeerID,
        addresses: [Multiaddr] = [],
        options: DialOptions = DialOptions()
    ) async throws -> Connection {
        let future: EventLoopFuture<Connection> = self.connect(to: peer, addresses: addresses, options: options)
        return try await future.get()
    }

    /// The open connections to a peer, best first.
    public func connections(to peer: PeerID) -> [Connection] {
        []
    }

    public var connections: [Connection] {
        []
    }

    /// Closes all connections to the peer, and the streams on them.
    public func disconnect(from peer: PeerID) {
    }

    /// Takes a connection that came about outside a listener, such as a circuit that a relay has announced. On the event
    /// loop of its channel, before it reads.
    public func accept(_ connection: RawConnection) {
    }

    // MARK: Streams

    /// Takes the streams of a protocol; a handler before it is replaced.
    public func handle(
        _ protocolID: ProtocolID,
        options: HandlerOptions = HandlerOptions(),
        _ handler: @escaping StreamHandler
    ) {
        self.state.withLock { $0.handlers[protocolID] = (options, handler) }
    }

    public func stopHandling(_ protocolID: ProtocolID) {
        self.state.withLock { $0.handlers[protocolID] = nil }
    }

    /// Opens a stream with the first of `protocols` that the peer has, over the best connection. The future completes on
    /// the event loop of the stream.
    public func openStream(
        to peer: PeerID,
        protocols: [ProtocolID],
        options: OpenStreamOptions = OpenStreamOptions()
    ) -> EventLoopFuture<NegotiatedStream> {
        self.clock.makeFailedFuture(LibP2PError(code: .shutDown, message: "the host is not running"))
    }

    public func openStream(
        to peer: PeerID,
        protocols: [ProtocolID],
        options: OpenStreamOptions = OpenStreamOptions()
    ) async throws -> NegotiatedStream {
        let future: EventLoopFuture<NegotiatedStream> = self.openStream(
            to: peer,
            protocols: protocols,
            options: options
        )
        return try await future.get()
    }

    // MARK: Addresses

    /// Where the host listens: wildcards expanded to the addresses of interfaces.
    public var listenAddresses: [Multiaddr] { [] }

    /// What the host tells others: listening and advertised addresses, after the configured filter.
    public var advertisedAddresses: [Multiaddr] { [] }

    /// Sets the addresses that one source adds to those that are advertised: observed ones, mapped ports, circuits of
    /// relays. An empty list takes the source away.
    public func advertise(_ addresses: [Multiaddr], source: String) {
    }

    // MARK: Services upon the host

    /// Asks for addresses of peers that none are known of, or that none of the known reaches.
    public func setPeerRouting(_ routing: (any PeerRouting)?) {
    }

    /// Tells observers and event streams something that a service has found out (reachability, reservations).
    public func emit(_ event: HostEvent) {
    }

    /// Calls `observer` with every event, on the thread where it happens, after the fact. It must not block.
    public func observe(_ observer: @escaping @Sendable (HostEvent) -> Void) -> Observation {
        Observation(cancel: {})
    }

    /// Events from now on. When `limit` of them wait, the oldest are dropped and counted.
    public func events(limit: Int = 256) -> AsyncStream<HostEvent> {
        AsyncStream { _ in }
    }

    /// Sends a ping; the answer is the round trip.
    public func ping(_ peer: PeerID, timeout: TimeAmount = .seconds(10)) -> EventLoopFuture<TimeAmount> {
        self.clock.makeFailedFuture(LibP2PError(code: .shutDown, message: "the host is not running"))
    }

    public var metrics: HostMetrics { HostMetrics() }
}

/// Keeps an observer registered until it is cancelled.
public struct Observation: Sendable {
    let cancellation: @Sendable () -> Void

    init(cancel: @escaping @Sendable () -> Void) {
        self.cancellation = cancel
    }

    public func cancel() { self.cancellation() }
}

struct HostState {
    var transports: [any Transport] = []
    var handlers: [ProtocolID: (HandlerOptions, StreamHandler)] = [:]
}
