import ByteStreams
import EndpointBalancing
import HashTreeCollections
import LinuxNetwork
import LoadBalancing
public import MeshCore
import MeshInterfaces
import NIOCore
import ServiceCatalog

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
final class DatagramProxy: DatagramListening {
    let listener: any Channel
    private let worker: ProxyWorker
    private let relay: DatagramRelay

    init(worker: ProxyWorker, listener: any Channel) {
        self.worker = worker
        self.listener = listener
        self.relay = DatagramRelay(
            listener: listener,
            limits: worker.environment.limits.datagrams,
            counters: worker.datagramCounters,
            gauge: worker.environment.gauges.sessions
        )
    }

    func received(_ bytes: ByteBuffer, from address: SocketAddress) {
        guard let client = TransportAddress(address) else { return }
        let now = MonotonicTime.now()
        if let (session, lastUsed) = self.relay.session(of: client) {
            let revalidationTime = self.worker.environment.limits.revalidationTime
            if now - lastUsed < .nanoseconds(revalidationTime.nanoseconds)
                || self.originalDestination(of: client) == (session as? RoutedSession)?.destination
            {
                return self.relay.forward(bytes, session, now: now)
            }
            self.relay.close(session)
        }
        guard let destination = self.originalDestination(of: client),
            let (frontend, balancer) = self.worker.routes.route(destination, .udp)
        else {
            self.worker.counters.datagramsWithoutRoute += 1
            return
        }
        guard let pick = balancer.begin(PickContext(client: client.address, now: now)) else {
            self.worker.datagramCounters.figures.sessionsRefused += 1
            return
        }
        guard self.relay.makeRoom() else { return balancer.end(pick) }
        let session = RoutedSession(
            client: client,
            clientAddress: address,
            destination: destination,
            frontend: frontend,
            balancer: balancer,
            pick: pick
        )
        let server = self.worker.environment.dialer.dialDatagrams(
            pick.endpoint,
            for: FlowOrigin(client: client, service: balancer.key.service),
            on: self.worker.loop,
            deadline: .now() + self.worker.environment.limits.dialTimeout
        )
        self.relay.open(session, now: now, server: server)
        self.relay.forward(bytes, session, now: now)
    }

    func readCompleted() { self.relay.flush() }

    private func originalDestination(of client: TransportAddress) -> TransportAddress? {
        guard let local = self.listener.localAddress.flatMap({ TransportAddress($0) }),
            let destination = self.worker.environment.udpOriginalDestination(client, local), destination != local
        else { return nil }
        return destination
    }

    /// Sessions of changed frontends whose endpoint is gone, or that the proxy serves no more.
    func routesChanged(_ changed: Set<KernelFrontend>) {
        for case let session as RoutedSession in self.relay.sessions where changed.contains(session.frontend) {
            let balancer = self.worker.routes.routes[session.frontend]
            if balancer !== session.balancer || !session.balancer.contains(session.pick.endpoint.transportAddress) {
                self.relay.close(session)
            }
        }
    }

    func replaceLimits(_ limits: ProxyLimits) { self.relay.replaceLimits(limits.datagrams) }

    func close() { self.relay.close() }
}

/// One client's flow to one endpoint. Confined to the proxy's loop.
final class RoutedSession: DatagramSession {
    let destination: TransportAddress
    let frontend: KernelFrontend
    let balancer: RouteBalancer
    let pick: RouteBalancer.Pick

    init(
        client: TransportAddress,
        clientAddress: SocketAddress,
        destination: TransportAddress,
        frontend: KernelFrontend,
        balancer: RouteBalancer,
        pick: RouteBalancer.Pick
    ) {
        self.destination = destination
        self.frontend = frontend
        self.balancer = balancer
        self.pick = pick
        super.init(client: client, clientAddress: clientAddress)
    }

    override func ended(failed: Bool) { self.balancer.end(self.pick, failed: failed) }
}
