import ByteStreams
import EndpointBalancing
import GatewayRouting
import LoadBalancing
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix

/// The gateway on one event loop: its listeners, connections to clients and to backends. Everything in it is confined to the
/// loop; other threads talk to it through `WorkerHandle`.
final class GatewayWorker {
    /// Shared by the workers of one gateway.
    struct Environment: Sendable {
        var limits: GatewayLimits
        var dialer: any EndpointDialing
        var certificates: CertificateStore
        var backends: BackendDirectory
        var ledger = ClientLedger()
        /// Of UDP clients: anybody can send in another's name, and must not take up the places of connections so.
        var sessionLedger = ClientLedger()
        var sessionGauge = SessionGauge()
        /// Every how many requests one is logged; 0 for none.
        var accessLogInterval: Int
        /// Answers of the gateway's own tell their reason in a field as well.
        var showsReasons: Bool
        var logger: Logger
    }

    let loop: any EventLoop
    let dialer: any EndpointDialing
    let certificates: CertificateStore
    let backends: BackendDirectory
    let ledger: ClientLedger
    let sessionLedger: ClientLedger
    let sessionGauge: SessionGauge
    let datagramCounters = DatagramCounters()
    let pool: UpstreamPool
    let spares = SpareBuffers()
    /// Of the request that is matched.
    let budget = MatchBudget()
    let connections: ConnectionTracker
    let glue = GlueCounters()
    let splicer = SocketSplicer()
    let showsReasons: Bool
    private let accessLogInterval: Int
    private let logger: Logger
    private var unlogged = 0
    private(set) var limits: GatewayLimits
    private(set) var isStopping = false
    var generator: SeededGenerator
    var counters = GatewayCounters()
    var mirrorsOpen = 0
    private var listeners: [ListenAddress: Listening] = [:]

    private struct Listening {
        var channel: any Channel
        var state: ListenerState
        /// If it is a UDP socket.
        var datagrams: GatewayDatagrams?
    }

    init(loop: any EventLoop, environment: Environment, seed: UInt64) {
        self.loop = loop
        self.limits = environment.limits
        self.dialer = environment.dialer
        self.certificates = environment.certificates
        self.backends = environment.backends
        self.ledger = environment.ledger
        self.sessionLedger = environment.sessionLedger
        self.sessionGauge = environment.sessionGauge
        self.showsReasons = environment.showsReasons
        self.accessLogInterval = environment.accessLogInterval
        self.logger = environment.logger
        self.generator = SeededGenerator(seed: seed)
        self.connections = ConnectionTracker(loop: loop)
        self.pool = UpstreamPool(
            loop: loop,
            dialer: environment.dialer,
            certificates: environment.certificates,
            limits: environment.limits,
            spares: self.spares
        )
    }

    // MARK: Listeners

    /// The future is the address with its port. It fails if somebody else has the port, and completes at once if this worker
    /// listens there: then the service changes, and open connections have it from their next request on.
    func listen(_ address: ListenAddress, _ service: ListenerPlan.Service) -> EventLoopFuture<ListenAddress> {
        if let listening = self.listeners[address] {
            listening.state.replace(service)
            listening.datagrams?.replaceLimits(self.limits)
            return self.loop.makeSucceededFuture(address)
        }
        let state = ListenerState(port: address.address.port, service: service)
        return address.transport == .udp ? self.listenUDP(address, state) : self.listenTCP(address, state)
    }

    private func listenTCP(_ address: ListenAddress, _ state: ListenerState) -> EventLoopFuture<ListenAddress> {
        let bound = NIOLoopBound((self, state), eventLoop: self.loop)
        return ServerBootstrap(group: self.loop)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(SocketOption.reusePort, value: 1)
            .serverChannelOption(SocketOption.keepAlive, value: 1)
            .serverChannelOption(SocketOption.keepAliveIdleSeconds, value: 60)
            .serverChannelOption(SocketOption.noDelay, value: 1)
            .serverChannelOption(.maxMessagesPerRead, value: 16)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    CongestionControl.ofHost.begin(channel)
                    if address.isIPv6 { try channel.syncOptions?.setOption(ListenAddress.onlyIPv6, value: 1) }
                    let worker = bound.value.0
                    let pause = AcceptPause { error, isFirst in worker.acceptPaused(address, error, isFirst) }
                    try channel.pipeline.syncOperations.addHandler(pause)
                }
            }
            .childChannelInitializer { channel in
                let (worker, state) = bound.value
                return worker.admit(channel, state)
            }
            .bind(to: SocketAddress(address.address))
            .flatMapThrowing { channel in
                let (worker, state) = bound.value
                return try worker.adopt(channel, state, address)
            }
    }

    /// A port that the kernel chooses must be nobody's before it is shared: see `ProxyWorker.listenUDP` in EdgeProxy.
    private func listenUDP(_ address: ListenAddress, _ state: ListenerState) -> EventLoopFuture<ListenAddress> {
        let bound = NIOLoopBound((self, state), eventLoop: self.loop)
        return DatagramSockets.listen(address.address, on: self.loop) { channel in
            let (worker, state) = bound.value
            return GatewayDatagrams(worker: worker, listener: channel, state: state)
        }
        .flatMapThrowing { channel in
            let (worker, state) = bound.value
            return try worker.adopt(channel, state, address)
        }
    }

    private func acceptPaused(_ address: ListenAddress, _ error: IOError, _ isFirst: Bool) {
        self.counters.acceptsPaused += 1
        guard isFirst else { return }
        self.logger.error(
            "nothing is accepted for a while: descriptors or memory are short; raise LimitNOFILE, or lower the limits of connections",
            metadata: ["address": "\(address)", "error": "\(error)"]
        )
    }

    private func adopt(
        _ channel: any Channel,
        _ state: ListenerState,
        _ address: ListenAddress
    ) throws -> ListenAddress {
        guard let local = channel.localAddress.flatMap({ TransportAddress($0) }) else {
            throw GatewayError(.listen, "the listener on \(address) has no address")
        }
        var bound = address
        bound.address.port = local.port
        state.port = local.port
        let handler = try? channel.pipeline.syncOperations.handler(type: DatagramListenerHandler.self)
        self.listeners[bound] = Listening(
            channel: channel,
            state: state,
            datagrams: handler?.listener as? GatewayDatagrams
        )
        return bound
    }

    /// Connections that are open go on.
    func stopListening(_ address: ListenAddress) -> EventLoopFuture<Void> {
        guard let listening = self.listeners.removeValue(forKey: address) else {
            return self.loop.makeSucceededVoidFuture()
        }
        return listening.channel.close().flatMapErrorThrowing { _ in }
    }

    private func admit(_ channel: any Channel, _ state: ListenerState) -> EventLoopFuture<Void> {
        self.counters.connectionsAccepted += 1
        guard let client = channel.remoteAddress.flatMap({ TransportAddress($0) }), !self.isStopping,
            self.ledger.enter(
                client.address,
                most: self.limits.maximumConnections,
                ofClient: self.limits.maximumConnectionsPerClient
            )
        else {
            self.counters.connectionsOverLimit += 1
            channel.closeWithReset()
            return self.loop.makeFailedFuture(GatewayError(.listen, "a limit of connections is reached"))
        }
        self.counters.connectionsOpen += 1
        self.connections.add(channel)
        channel.closeFuture.assumeIsolated().whenComplete { _ in
            self.ledger.leave(client.address)
            self.counters.connectionsOpen -= 1
            self.connections.remove(channel)
        }
        return channel.eventLoop.makeCompletedFuture {
            CongestionControl.ofHost.settle(channel)
            try StreamOptions.apply(to: channel)
            let pipeline = channel.pipeline.syncOperations
            switch state.service {
            case .http:
                let buffers = SpareReceiveAllocator(limit: 64 * 1024, spares: self.spares, on: self.loop)
                try channel.syncOptions?.setOption(.recvAllocator, value: buffers)
                let connection = ClientConnection(
                    address: client,
                    isSecure: false,
                    port: state.port,
                    rules: ConnectionRules(state)
                )
                try pipeline.addHandler(HTTPSniffer.handler(self, connection))
            case .tls: try pipeline.addHandler(TLSListener(worker: self, listener: state, client: client).handler())
            case .stream(let route):
                try pipeline.addHandler(StreamConnection(worker: self, client: client, route: route))
            }
        }
    }

    /// Puts an HTTP server at the end of the pipeline.
    func installHTTP(on channel: any Channel, _ client: ClientConnection, isHTTP2: Bool) throws {
        if isHTTP2 {
            try HTTP2Server.install(on: channel, worker: self, client: client)
        } else {
            try channel.pipeline.syncOperations.addHandler(HTTP1Server(worker: self, client: client))
        }
    }

    // MARK: What connections need

    /// What a consistent hash is to hash of a request; nil for the client's address.
    func keyHash(_ balancer: SharedBalancer, _ head: RequestHead) -> UInt64? {
        let text: String? =
            switch balancer.httpKey {
            case nil, .sourceAddress: nil
            case .httpHeader(let name): head.header(ASCII.lowercased(name.utf8))
            case .httpQueryParameter(let name): Self.pair(named: name, in: head.query ?? "", separator: "&")
            case .httpCookie(let name, _, _): Self.pair(named: name, in: head.header("cookie") ?? "", separator: ";")
            }
        return text.map { XXHash64.hash(Array($0.utf8)) }
    }

    /// The value of `name=value` in a list such as a query or cookies.
    static func pair(named name: String, in text: String, separator: Character) -> String? {
        for pair in text.split(separator: separator) {
            let parts = pair.drop { $0 == " " }.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2, parts[0] == name { return String(parts[1]) }
        }
        return nil
    }

    func handshakeFailed(_ error: any Error, _ client: TransportAddress) {
        self.counters.handshakesFailed += 1
        self.logger.debug(
            "a TLS connection was not accepted",
            metadata: ["client": "\(client)", "error": "\(error)"]
        )
    }

    func logAccess(_ exchange: Exchange) {
        guard self.accessLogInterval > 0 else { return }
        self.unlogged += 1
        guard self.unlogged >= self.accessLogInterval else { return }
        self.unlogged = 0
        self.logger.info("\(AccessLog.line(exchange, now: self.loop.now))")
    }

    func report() -> GatewayCounters {
        var counters = self.counters
        counters.datagrams = self.datagramCounters.figures
        return counters
    }

    // MARK: From other threads, by way of the loop

    func replaceLimits(_ limits: GatewayLimits) {
        self.limits = limits
        self.pool.replaceLimits(limits)
        for listening in self.listeners.values { listening.datagrams?.replaceLimits(limits) }
    }

    /// Waits for connections to end, closes the rest at the deadline. The value is how many were cut.
    func drain(until deadline: NIODeadline) -> EventLoopFuture<Int> {
        self.isStopping = true
        for listening in self.listeners.values { listening.channel.close(promise: nil) }
        self.listeners = [:]
        self.connections.quiesce()
        let worker = NIOLoopBound(self, eventLoop: self.loop)
        return self.connections.drain(until: deadline).flatMap { cut in
            worker.value.pool.close()
            let stopped = worker.value.loop.makePromise(of: Int.self)
            worker.value.splicer.stop { stopped.succeed(cut) }
            return stopped.futureResult
        }
    }
}

/// An address on which the gateway listens.
struct ListenAddress: Sendable, Hashable, Comparable, CustomStringConvertible {
    var transport: TransportProtocol
    var address: TransportAddress

    /// IPv6 sockets leave IPv4 to others, so that both wildcards may be listened on.
    static var onlyIPv6: ChannelOptions.Types.SocketOption {
        .init(level: .init(rawValue: 41), name: .init(rawValue: 26))
    }

    var isIPv6: Bool { self.address.address.family == .v6 }
    var description: String { "\(self.address)/\(self.transport)" }

    static func < (lhs: Self, rhs: Self) -> Bool {
        (lhs.transport.rawValue, lhs.address) < (rhs.transport.rawValue, rhs.address)
    }
}

/// Talks to a worker from any thread.
struct WorkerHandle: Sendable {
    private let worker: NIOLoopBound<GatewayWorker>
    let loop: any EventLoop

    static func make(
        on loop: any EventLoop,
        _ environment: GatewayWorker.Environment,
        seed: UInt64
    ) -> EventLoopFuture<WorkerHandle> {
        loop.submit {
            let worker = GatewayWorker(loop: loop, environment: environment, seed: seed)
            return WorkerHandle(worker: NIOLoopBound(worker, eventLoop: loop), loop: loop)
        }
    }

    func listen(_ address: ListenAddress, _ service: ListenerPlan.Service) -> EventLoopFuture<ListenAddress> {
        self.loop.flatSubmit { self.worker.value.listen(address, service) }
    }

    func stopListening(_ address: ListenAddress) -> EventLoopFuture<Void> {
        self.loop.flatSubmit { self.worker.value.stopListening(address) }
    }

    func post(_ limits: GatewayLimits) {
        self.loop.execute { self.worker.value.replaceLimits(limits) }
    }

    func drain(until deadline: NIODeadline) -> EventLoopFuture<Int> {
        self.loop.flatSubmit { self.worker.value.drain(until: deadline) }
    }

    func report() -> EventLoopFuture<GatewayCounters> {
        self.loop.submit { self.worker.value.report() }
    }
}
