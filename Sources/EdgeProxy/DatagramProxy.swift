import ByteStreams
import EndpointBalancing
import HashTreeCollections
import LinuxNetwork
import LoadBalancing
public import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization

/// Where a redirected UDP flow was going, by its client and the listener it reached; nil if the kernel does not know.
/// Called on an event loop: it may ask the kernel, not wait for anything else.
public typealias UDPOriginalDestination =
    @Sendable (
        _ client: TransportAddress, _ listener: TransportAddress
    ) -> TransportAddress?

/// The UDP sessions of one listener. Confined to its loop.
///
/// Sessions are kept by client address. That names one flow only, because conntrack gives a client that talks to two
/// services from one port another source port as the listener sees it. A client that was silent for so long that conntrack
/// may have forgotten it is looked up anew.
final class DatagramProxy {
    /// A UDP payload cannot be longer over IPv4.
    static let maximumDatagram = 65_507
    /// Datagrams that wait while the socket to the server is opened.
    private static let maximumPending = 16

    let listener: any Channel
    private let worker: ProxyWorker
    private var sessions: SessionTable<DatagramSession>
    private var sweep: RepeatedTask?
    private var needsFlush = false

    init(worker: ProxyWorker, listener: any Channel) {
        self.worker = worker
        self.listener = listener
        let limits = worker.environment.limits
        self.sessions = SessionTable(
            unrepliedTimeout: .nanoseconds(limits.unrepliedTimeout.nanoseconds),
            assuredTimeout: .nanoseconds(limits.assuredTimeout.nanoseconds)
        )
        let proxy = NIOLoopBound(self, eventLoop: worker.loop)
        self.sweep = worker.loop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            proxy.value.expire()
        }
    }

    // MARK: From the client

    func received(_ bytes: ByteBuffer, from address: SocketAddress) {
        guard let client = TransportAddress(address) else { return }
        let now = MonotonicTime.now()
        if let entry = self.sessions.entry(of: client) {
            let revalidationTime = self.worker.environment.limits.revalidationTime
            if now - entry.lastUsed < .nanoseconds(revalidationTime.nanoseconds)
                || self.originalDestination(of: client) == entry.value.destination
            {
                self.sessions.touch(client, isReply: false, now: now)
                return self.forward(bytes, entry.value)
            }
            self.close(entry.value)
        }
        guard let destination = self.originalDestination(of: client),
            let (frontend, balancer) = self.worker.routes.route(destination, .udp)
        else {
            self.worker.counters.datagramsWithoutRoute += 1
            return
        }
        guard let pick = balancer.begin(PickContext(client: client.address, now: now)) else {
            self.worker.counters.sessionsRefused += 1
            return
        }
        let gauges = self.worker.environment.gauges
        if gauges.sessions.load(ordering: .relaxed) >= self.worker.environment.limits.maximumSessions {
            // Another loop may hold them all: then there is nothing to give up here.
            guard let evicted = self.sessions.evict() else {
                self.worker.counters.sessionsRefused += 1
                return balancer.end(pick)
            }
            self.worker.counters.sessionsEvicted += 1
            self.release(evicted)
        }
        gauges.sessions.wrappingAdd(1, ordering: .relaxed)
        self.worker.counters.sessionsOpened += 1
        self.worker.counters.sessionsOpen += 1
        let session = DatagramSession(
            client: client,
            clientAddress: address,
            destination: destination,
            frontend: frontend,
            balancer: balancer,
            pick: pick
        )
        self.sessions.insert(session, for: client, now: now)
        self.connect(session)
        self.forward(bytes, session)
    }

    func readCompleted() {
        for session in self.sessionsToFlush {
            session.isDirty = false
            session.link?.flush()
        }
        self.sessionsToFlush.removeAll(keepingCapacity: true)
    }

    private var sessionsToFlush: [DatagramSession] = []

    private func originalDestination(of client: TransportAddress) -> TransportAddress? {
        guard let local = self.listener.localAddress.flatMap({ TransportAddress($0) }),
            let destination = self.worker.environment.udpOriginalDestination(client, local), destination != local
        else { return nil }
        return destination
    }

    private func forward(_ bytes: ByteBuffer, _ session: DatagramSession) {
        guard let link = session.link else {
            if session.pending.count < Self.maximumPending {
                session.pending.append(bytes)
            } else {
                self.worker.counters.datagramsDropped += 1
            }
            return
        }
        guard link.write(bytes) else {
            self.worker.counters.datagramsDropped += 1
            return
        }
        self.worker.counters.datagramsToServer += 1
        if !session.isDirty {
            session.isDirty = true
            self.sessionsToFlush.append(session)
        }
    }

    private func connect(_ session: DatagramSession) {
        self.worker.environment.dialer.dialDatagrams(
            session.pick.endpoint,
            for: FlowOrigin(client: session.client, service: session.balancer.key.service),
            on: self.worker.loop,
            deadline: .now() + self.worker.environment.limits.dialTimeout
        )
        .assumeIsolated()
        .whenComplete { result in
            switch result {
            case .success(let channel): self.connected(session, channel)
            case .failure: self.close(session, failed: true)
            }
        }
    }

    private func connected(_ session: DatagramSession, _ channel: any Channel) {
        guard !session.isClosed else { return channel.close(promise: nil) }
        let link = DatagramLink(channel, loop: self.worker.loop)
        session.link = link
        let pending = session.pending
        session.pending = []
        for bytes in pending where link.write(bytes) { self.worker.counters.datagramsToServer += 1 }
        link.flush()
        link.receive(
            onDatagrams: { datagrams in
                for bytes in datagrams { self.replied(bytes, session) }
                self.listener.flush()
            },
            onDropped: { self.worker.counters.datagramsDropped += UInt64($0) },
            onEnd: { failed in self.close(session, failed: failed) }
        )
    }

    // MARK: From the server

    private func replied(_ bytes: ByteBuffer, _ session: DatagramSession) {
        guard !session.isClosed else { return }
        self.sessions.touch(session.client, isReply: true, now: .now())
        guard self.listener.isWritable else {
            self.worker.counters.datagramsDropped += 1
            return
        }
        self.worker.counters.datagramsToClient += 1
        // From the listener's own address, so that conntrack turns it back into the service's.
        self.listener.write(AddressedEnvelope(remoteAddress: session.clientAddress, data: bytes), promise: nil)
    }

    // MARK: The end of sessions

    func close(_ session: DatagramSession, failed: Bool = false) {
        guard !session.isClosed else { return }
        self.sessions.remove(session.client)
        self.release(session, failed: failed)
    }

    /// Sessions of changed frontends whose endpoint is gone, or that the proxy serves no more.
    func routesChanged(_ changed: Set<KernelFrontend>) {
        for entry in self.sessions.all where changed.contains(entry.value.frontend) {
            let session = entry.value
            let balancer = self.worker.routes.routes[session.frontend]
            if balancer !== session.balancer || !session.balancer.contains(session.pick.endpoint.transportAddress) {
                self.close(session)
            }
        }
    }

    func replaceLimits(_ limits: ProxyLimits) {
        self.sessions.unrepliedTimeout = .nanoseconds(limits.unrepliedTimeout.nanoseconds)
        self.sessions.assuredTimeout = .nanoseconds(limits.assuredTimeout.nanoseconds)
    }

    func close() {
        self.sweep?.cancel()
        self.sweep = nil
        for entry in self.sessions.all { self.close(entry.value) }
    }

    private func expire() {
        for session in self.sessions.expire(now: .now()) { self.release(session) }
    }

    private func release(_ session: DatagramSession, failed: Bool = false) {
        session.isClosed = true
        session.pending = []
        session.balancer.end(session.pick, failed: failed)
        self.worker.counters.sessionsOpen -= 1
        self.worker.environment.gauges.sessions.wrappingSubtract(1, ordering: .relaxed)
        session.link?.close()
        session.link = nil
    }
}

/// One client's flow to one endpoint. Confined to the proxy's loop.
final class DatagramSession {
    let client: TransportAddress
    let clientAddress: SocketAddress
    let destination: TransportAddress
    let frontend: KernelFrontend
    let balancer: RouteBalancer
    let pick: RouteBalancer.Pick
    var link: DatagramLink?
    var pending: [ByteBuffer] = []
    var isDirty = false
    var isClosed = false

    init(
        client: TransportAddress,
        clientAddress: SocketAddress,
        destination: TransportAddress,
        frontend: KernelFrontend,
        balancer: RouteBalancer,
        pick: RouteBalancer.Pick
    ) {
        self.client = client
        self.clientAddress = clientAddress
        self.destination = destination
        self.frontend = frontend
        self.balancer = balancer
        self.pick = pick
    }
}

/// Feeds a proxy from its listener.
final class DatagramListenerHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let proxy: DatagramProxy

    init(_ proxy: DatagramProxy) {
        self.proxy = proxy
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        self.proxy.received(envelope.data, from: envelope.remoteAddress)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.proxy.readCompleted()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // An ICMP error about one client says nothing of the listener.
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.proxy.close()
        context.fireChannelInactive()
    }
}
