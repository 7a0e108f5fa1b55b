import ByteStreams
import EndpointBalancing
import LinuxNetwork
import Logging
public import MeshCore
import MeshInterfaces
public import NIOCore
import NIOPosix
import Synchronization

/// Where a redirected TCP connection was going; nil if it was not redirected. Runs on the channel's loop.
public typealias TCPOriginalDestination = @Sendable (any Channel) -> EventLoopFuture<TransportAddress?>

/// The user-space proxy of one event loop: its listeners, routes, connections and sessions. Everything in it is confined to
/// the loop; other threads talk to it through `WorkerHandle`.
final class ProxyWorker {
    /// Shared by the workers of one proxy.
    struct Environment: Sendable {
        var limits: ProxyLimits
        var dialer: any EndpointDialing
        var tcpOriginalDestination: TCPOriginalDestination
        var udpOriginalDestination: UDPOriginalDestination
        /// Open connections with their descriptors, sessions, and connections that the kernel carries, of all loops together.
        var gauges: Gauges
        /// Those of all loops, where connections move to.
        var workers: WorkerDirectory
        var logger: Logger
    }

    final class Gauges: Sendable {
        let connections = Atomic<Int>(0)
        /// That they have or will have: a client's socket and a server's, if that is no stream of the tunnel.
        let descriptors = Atomic<Int>(0)
        let sessions = SessionGauge()
        let splices = Atomic<Int>(0)
    }

    let loop: any EventLoop
    private(set) var environment: Environment
    let glueCounters = GlueCounters()
    let datagramCounters = DatagramCounters()
    let connections: ConnectionTracker
    let splicer = SocketSplicer()
    var counters = ProxyCounters()
    private(set) var routes = RouteTable()
    private(set) var isStopping = false
    private var listeners: [any Channel] = []
    private var datagramProxies: [DatagramProxy] = []

    init(loop: any EventLoop, environment: Environment) {
        self.loop = loop
        self.environment = environment
        self.connections = ConnectionTracker(loop: loop)
    }

    // MARK: Listeners

    /// Listens for redirected TCP connections; the future is the address, whose port is known then.
    func listenTCP(_ address: TransportAddress) -> EventLoopFuture<TransportAddress> {
        let worker = NIOLoopBound(self, eventLoop: self.loop)
        return ServerBootstrap(group: self.loop)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(SocketOption.reusePort, value: 1)
            // Accepted sockets inherit keep-alive.
            .serverChannelOption(SocketOption.keepAlive, value: 1)
            .serverChannelOption(SocketOption.keepAliveIdleSeconds, value: 60)
            .serverChannelOption(.maxMessagesPerRead, value: 16)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    CongestionControl.ofHost.begin(channel)
                    let pause = AcceptPause { worker.value.acceptPaused($0, isFirst: $1) }
                    try channel.pipeline.syncOperations.addHandler(pause)
                }
            }
            .childChannelInitializer { channel in worker.value.admit(channel) }
            .bind(to: SocketAddress(address))
            .flatMapThrowing { channel in try worker.value.adopt(channel, for: address, isDatagram: false) }
    }

    /// Listens for redirected UDP datagrams.
    func listenUDP(_ address: TransportAddress) -> EventLoopFuture<TransportAddress> {
        let worker = NIOLoopBound(self, eventLoop: self.loop)
        return DatagramSockets.listen(address, on: self.loop) { channel in
            let proxy = DatagramProxy(worker: worker.value, listener: channel)
            worker.value.datagramProxies.append(proxy)
            return proxy
        }
        .flatMapThrowing { channel in try worker.value.adopt(channel, for: address, isDatagram: true) }
    }

    private func adopt(
        _ channel: any Channel,
        for address: TransportAddress,
        isDatagram: Bool
    ) throws -> TransportAddress {
        guard let bound = channel.localAddress.flatMap({ TransportAddress($0) }) else {
            throw ByteStreamsError(code: .listenFailed, message: "the listener on \(address) has no address")
        }
        self.listeners.append(channel)
        channel.closeFuture.assumeIsolated().whenComplete { _ in
            self.listeners.removeAll { $0 === channel }
            self.datagramProxies.removeAll { $0.listener === channel }
            if !self.isStopping { self.relisten(bound, isDatagram: isDatagram) }
        }
        return bound
    }

    /// An error closed a listener. A service proxy does not end by that.
    private func relisten(_ address: TransportAddress, isDatagram: Bool) {
        self.counters.listenersRestarted += 1
        self.environment.logger.warning(
            "a listener of the proxy failed and is opened again",
            metadata: ["address": "\(address)/\(isDatagram ? "udp" : "tcp")"]
        )
        self.loop.assumeIsolated().scheduleTask(in: .milliseconds(200)) {
            guard !self.isStopping else { return }
            let opened = isDatagram ? self.listenUDP(address) : self.listenTCP(address)
            opened.assumeIsolated().whenFailure { _ in self.relisten(address, isDatagram: isDatagram) }
        }
    }

    private func acceptPaused(_ error: IOError, isFirst: Bool) {
        self.counters.acceptsPaused += 1
        guard isFirst else { return }
        self.environment.logger.error(
            "the proxy accepts nothing for a while: descriptors or memory are short; raise LimitNOFILE, or lower maxConnections",
            metadata: ["error": "\(error)"]
        )
    }

    private func admit(_ channel: any Channel) -> EventLoopFuture<Void> {
        self.counters.connectionsAccepted += 1
        let isOverLimit = !self.countIn() || self.isStopping
        if isOverLimit { self.counters.connectionsOverLimit += 1 }
        return channel.eventLoop.makeCompletedFuture {
            // From here on the handler's removal counts the connection out.
            try channel.pipeline.syncOperations.addHandler(ProxyConnection(worker: self, isRefused: isOverLimit))
            CongestionControl.ofHost.settle(channel)
            try StreamOptions.apply(to: channel)
        }
    }

    /// Takes over a connection from another worker.
    func adopt(_ channel: any Channel, _ move: ProxyConnection.Move) -> EventLoopFuture<Void> {
        self.countIn()
        return channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(ProxyConnection(worker: self, moved: move))
            move.isTaken.store(true, ordering: .relaxed)
            try StreamOptions.apply(to: channel)
        }
    }

    /// Counts a connection in, with two descriptors.
    /// - Returns: whether it is within the bounds.
    @discardableResult
    private func countIn() -> Bool {
        let (gauges, limits) = (self.environment.gauges, self.environment.limits)
        self.counters.connectionsOpen += 1
        let open = gauges.connections.wrappingAdd(1, ordering: .relaxed).newValue
        let descriptors = gauges.descriptors.wrappingAdd(2, ordering: .relaxed).newValue
        return open <= limits.maximumConnections && descriptors <= limits.maximumDescriptors
    }

    private func countOut(descriptors: Int) {
        self.counters.connectionsOpen -= 1
        self.environment.gauges.connections.wrappingSubtract(1, ordering: .relaxed)
        self.releaseDescriptors(descriptors)
    }

    func releaseDescriptors(_ count: Int) {
        self.environment.gauges.descriptors.wrappingSubtract(count, ordering: .relaxed)
    }

    /// - Parameter descriptors: that are still counted for it.
    func connectionEnded(_ channel: any Channel, descriptors: Int) {
        self.countOut(descriptors: descriptors)
        self.connections.remove(channel)
    }

    // MARK: Connections that the kernel carries

    /// Counts one more and gets it ready, within the bound.
    func prepareSplice(client: NIOBSDSocket.Handle, server: NIOBSDSocket.Handle) -> SplicedPair? {
        let gauges = self.environment.gauges
        let limits = self.environment.limits
        if gauges.splices.wrappingAdd(1, ordering: .relaxed).newValue <= limits.maximumSplices,
            let pair = self.splicer.prepare(
                client: client,
                server: server,
                idleTimeout: limits.idleTimeout,
                lingerTimeout: limits.lingerTimeout
            )
        {
            return pair
        }
        gauges.splices.wrappingSubtract(1, ordering: .relaxed)
        self.counters.splicesRefused += 1
        return nil
    }

    /// The connection goes on without its channels: it is counted in before they are counted out.
    func spliceBegan(_ connection: SplicedConnection) {
        self.counters.connectionsSpliced += 1
        self.counters.splicesOpen += 1
        self.countIn()
        self.connections.add(connection)
    }

    func spliceEnded(_ connection: SplicedConnection, _ ending: SocketSplicer.Ending) {
        if ending == .lingered { self.glueCounters.lingered += 1 }
        self.counters.splicesOpen -= 1
        self.environment.gauges.splices.wrappingSubtract(1, ordering: .relaxed)
        self.countOut(descriptors: 2)
        self.connections.remove(connection)
    }

    // MARK: From other threads, by way of the loop

    func replaceRoutes(_ table: RouteTable, changed: Set<KernelFrontend>) {
        self.routes = table
        guard changed.contains(where: { $0.transport == .udp }) else { return }
        for proxy in self.datagramProxies { proxy.routesChanged(changed) }
    }

    /// Connections and sessions that are open go on under the limits that they can still take over.
    func replaceLimits(_ limits: ProxyLimits) {
        self.environment.limits = limits
        for proxy in self.datagramProxies { proxy.replaceLimits(limits) }
    }

    func stopListening() {
        self.isStopping = true
        for listener in self.listeners where !self.datagramProxies.contains(where: { $0.listener === listener }) {
            listener.close(promise: nil)
        }
    }

    /// Waits for connections to end, closes the rest at the deadline, and UDP with them. The value is how many were cut.
    func drain(until deadline: NIODeadline) -> EventLoopFuture<Int> {
        self.stopListening()
        let worker = NIOLoopBound(self, eventLoop: self.loop)
        return self.connections.drain(until: deadline).flatMap { cut in
            for proxy in worker.value.datagramProxies { proxy.close() }
            for listener in worker.value.listeners { listener.close(promise: nil) }
            let stopped = worker.value.loop.makePromise(of: Int.self)
            worker.value.splicer.stop { stopped.succeed(cut) }
            return stopped.futureResult
        }
    }

    func report() -> ProxyCounters {
        var counters = self.counters
        counters.clientToServerBytes = self.glueCounters.clientToServerBytes + self.splicer.clientToServerBytes
        counters.serverToClientBytes = self.glueCounters.serverToClientBytes + self.splicer.serverToClientBytes
        counters.connectionsLingered = self.glueCounters.lingered
        counters.datagrams = self.datagramCounters.figures
        return counters
    }
}

/// Talks to a worker from any thread.
struct WorkerHandle: Sendable {
    let loop: any EventLoop
    private let worker: NIOLoopBound<ProxyWorker>

    private init(loop: any EventLoop, worker: NIOLoopBound<ProxyWorker>) {
        self.loop = loop
        self.worker = worker
    }

    static func make(on loop: any EventLoop, _ environment: ProxyWorker.Environment) -> EventLoopFuture<WorkerHandle> {
        loop.submit {
            let worker = ProxyWorker(loop: loop, environment: environment)
            return WorkerHandle(loop: loop, worker: NIOLoopBound(worker, eventLoop: loop))
        }
    }

    func listenTCP(_ address: TransportAddress) -> EventLoopFuture<TransportAddress> {
        self.loop.flatSubmit { self.worker.value.listenTCP(address) }
    }

    func listenUDP(_ address: TransportAddress) -> EventLoopFuture<TransportAddress> {
        self.loop.flatSubmit { self.worker.value.listenUDP(address) }
    }

    func post(_ table: RouteTable, changed: Set<KernelFrontend>) {
        self.loop.execute { self.worker.value.replaceRoutes(table, changed: changed) }
    }

    func post(_ limits: ProxyLimits) {
        self.loop.execute { self.worker.value.replaceLimits(limits) }
    }

    func drain(until deadline: NIODeadline) -> EventLoopFuture<Int> {
        self.loop.flatSubmit { self.worker.value.drain(until: deadline) }
    }

    /// Moves a connection from another worker here. On that worker's loop.
    func adopt(_ channel: any Channel, _ move: ProxyConnection.Move) {
        SocketMove.move(channel, to: self.loop) { [worker] channel in worker.value.adopt(channel, move) }
            .whenFailure { _ in
                guard !move.isTaken.load(ordering: .relaxed) else { return }
                move.server?.close(promise: nil)
                move.balancer.end(move.pick)
            }
    }

    func report() -> EventLoopFuture<ProxyCounters> {
        self.loop.submit { self.worker.value.report() }
    }
}

/// The workers of one proxy by their loops. Any thread.
final class WorkerDirectory: Sendable {
    private let handles = Mutex<[ObjectIdentifier: WorkerHandle]>([:])

    func add(_ handle: WorkerHandle) {
        self.handles.withLock { $0[ObjectIdentifier(handle.loop)] = handle }
    }

    func handle(on loop: any EventLoop) -> WorkerHandle? {
        self.handles.withLock { $0[ObjectIdentifier(loop)] }
    }
}
