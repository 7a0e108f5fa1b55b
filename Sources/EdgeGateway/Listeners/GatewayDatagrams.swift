import ByteStreams
import EndpointBalancing
import GatewayRouting
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import ServiceCatalog

/// A UDP listener: the datagrams of each client go to one of the route's backends, as long as it is there. Confined to its loop.
final class GatewayDatagrams: DatagramListening {
    private let worker: GatewayWorker
    private let state: ListenerState
    private let relay: DatagramRelay

    init(worker: GatewayWorker, listener: any Channel, state: ListenerState) {
        self.worker = worker
        self.state = state
        self.relay = DatagramRelay(
            listener: listener,
            limits: Self.limits(worker.limits, state),
            counters: worker.datagramCounters,
            gauge: worker.sessionGauge
        )
    }

    func replaceLimits(_ limits: GatewayLimits) { self.relay.replaceLimits(Self.limits(limits, self.state)) }

    private static func limits(_ limits: GatewayLimits, _ state: ListenerState) -> DatagramRelay.Limits {
        DatagramRelay.Limits(
            maximumSessions: limits.maximumSessions,
            unrepliedTimeout: limits.unrepliedTimeout,
            assuredTimeout: state.route?.idleTimeout.map { TimeAmount($0) } ?? limits.sessionIdleTimeout
        )
    }

    func received(_ bytes: ByteBuffer, from address: SocketAddress) {
        guard let client = TransportAddress(address) else { return }
        let now = MonotonicTime.now()
        if let known = self.relay.session(of: client)?.session as? BackendSession {
            if known.isCurrent(self.state) { return self.relay.forward(bytes, known, now: now) }
            self.relay.close(known)
        }
        guard let session = self.session(client, address) else {
            self.worker.datagramCounters.figures.sessionsRefused += 1
            return
        }
        guard self.relay.makeRoom() else { return session.ended(failed: false) }
        let server = self.worker.dialer.dialDatagrams(
            session.pick.endpoint,
            for: FlowOrigin(client: client, service: session.backend.service),
            on: self.worker.loop,
            deadline: .now() + self.worker.limits.dialTimeout
        )
        self.relay.open(session, now: now, server: server)
        self.relay.forward(bytes, session, now: now)
    }

    /// Nil if there is no backend for it, or the client has too many.
    private func session(_ client: TransportAddress, _ address: SocketAddress) -> BackendSession? {
        let chosen = self.state.route?.backends.choose(using: &self.worker.generator)
        guard let backend = chosen?.backend,
            let balancer = self.worker.backends.balancer(for: backend, transport: .udp),
            self.worker.sessionLedger.enter(
                client.address,
                most: .max,
                ofClient: self.worker.limits.maximumSessionsPerClient
            )
        else { return nil }
        guard let pick = balancer.begin(PickContext(client: client.address, now: .now())) else {
            self.worker.sessionLedger.leave(client.address)
            return nil
        }
        return BackendSession(
            client: client,
            clientAddress: address,
            backend: backend,
            generation: self.state.generation,
            balancer: balancer,
            pick: pick,
            ledger: self.worker.sessionLedger
        )
    }

    func readCompleted() { self.relay.flush() }

    func close() { self.relay.close() }
}

/// One client's flow to one endpoint. Confined to its loop.
private final class BackendSession: DatagramSession {
    let backend: Backend
    let pick: SharedBalancer.Pick
    private let balancer: SharedBalancer
    private let ledger: ClientLedger
    private var generation: UInt64

    init(
        client: TransportAddress,
        clientAddress: SocketAddress,
        backend: Backend,
        generation: UInt64,
        balancer: SharedBalancer,
        pick: SharedBalancer.Pick,
        ledger: ClientLedger
    ) {
        self.backend = backend
        self.generation = generation
        self.balancer = balancer
        self.pick = pick
        self.ledger = ledger
        super.init(client: client, clientAddress: clientAddress)
    }

    /// Whether the route still leads to its backend, and the endpoint is one of those that serve.
    func isCurrent(_ state: ListenerState) -> Bool {
        if self.generation != state.generation {
            guard state.route?.backends.contains(where: { $0.backend == self.backend && $0.weight > 0 }) ?? false else {
                return false
            }
            self.generation = state.generation
        }
        return self.balancer.contains(self.pick.endpoint.transportAddress)
    }

    override func ended(failed: Bool) {
        self.balancer.end(self.pick, failed: failed)
        self.ledger.leave(self.client.address)
    }
}

extension ListenerState {
    /// Where a stream or datagrams go.
    fileprivate var route: StreamRoute? {
        if case .stream(let route) = self.service { route } else { nil }
    }
}
