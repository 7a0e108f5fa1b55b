import ByteStreams
import EndpointBalancing
import GatewayRouting
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import NIOSSL

/// A connection whose bytes go to a backend as they are. Dials, then joins the two; stays behind the glue. Confined to its loop.
final class StreamConnection: ChannelInboundHandler, GluedSocketsCarrier {
    typealias InboundIn = ByteBuffer

    private let worker: GatewayWorker
    private let client: TransportAddress
    private let route: StreamRoute
    private var context: ChannelHandlerContext?
    private var received: ByteBuffer?
    private var inputEnded = false
    private var isGlued = false
    private var hasBegun = false
    private var balancer: SharedBalancer?
    private var pick: SharedBalancer.Pick?
    private var excluded: [Int] = []

    init(worker: GatewayWorker, client: TransportAddress, route: StreamRoute) {
        self.worker = worker
        self.client = client
        self.route = route
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.begin() }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.release(failed: false)
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        self.begin()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isGlued else { return }
        var bytes = self.unwrapInboundIn(data)
        if self.received == nil { self.received = bytes } else { self.received?.writeBuffer(&bytes) }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.inputEnded = true }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.release(failed: false)
        context.channel.closeWithReset()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.release(failed: false)
        context.fireChannelInactive()
    }

    private func begin() {
        guard !self.hasBegun else { return }
        self.hasBegun = true
        self.worker.counters.streams += 1
        self.dial()
    }

    private func dial() {
        guard let context = self.context else { return }
        let chosen = self.route.backends.choose(using: &self.worker.generator)
        guard let backend = chosen?.backend, let balancer = self.worker.backends.balancer(for: backend),
            self.excluded.count < self.worker.limits.maximumDials,
            let pick = balancer.begin(
                PickContext(
                    client: self.client.address,
                    now: .now(),
                    excluded: balancer === self.balancer ? self.excluded : []
                )
            )
        else {
            self.worker.counters.requestsWithoutBackend += 1
            return context.channel.closeWithReset()
        }
        self.balancer = balancer
        self.pick = pick
        let loop = context.eventLoop
        self.worker.dialer.dial(
            pick.endpoint,
            for: FlowOrigin(client: self.client, service: backend.service),
            on: loop,
            deadline: .now() + self.worker.limits.dialTimeout
        )
        .flatMap { LoopBridge.bring($0, to: loop) }
        .assumeIsolated()
        .whenComplete { result in
            switch result {
            case .success(let server): self.connected(server, backend)
            case .failure:
                self.worker.counters.dialsFailed += 1
                self.release(failed: true)
                self.excluded.append(pick.slot)
                self.dial()
            }
        }
    }

    private func connected(_ server: any Channel, _ backend: Backend) {
        guard let context = self.context, self.pick != nil else { return server.close(promise: nil) }
        do {
            let pipeline = server.pipeline.syncOperations
            if let tls = backend.tls {
                let secure = try self.worker.certificates.clientContext(tls, backend.application)
                try pipeline.addHandler(try NIOSSLClientHandler(context: secure, serverHostname: tls.name))
            }
            let pair = GlueHandler.matchedPair(
                counters: self.worker.glue,
                idleTimeout: self.route.idleTimeout.map { TimeAmount($0) } ?? self.worker.limits.streamIdleTimeout,
                lingerTimeout: self.worker.limits.lingerTimeout,
                carrier: self.isBare(context.channel) && backend.tls == nil ? self : nil
            )
            try pipeline.addHandler(pair.server)
            try context.pipeline.syncOperations.addHandler(pair.client, position: .before(self))
            self.isGlued = true
            let received = self.received
            self.received = nil
            pair.client.start(received: received, inputEnded: self.inputEnded)
        } catch {
            server.close(promise: nil)
            context.channel.closeWithReset()
        }
    }

    /// Whether the socket's bytes are the stream's: no TLS ends here.
    private func isBare(_ channel: any Channel) -> Bool {
        (try? channel.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self)) == nil
    }

    /// Much flows: from here on the kernel carries it, and the connection outlives its channels.
    func carry(client: NIOBSDSocket.Handle, server: NIOBSDSocket.Handle, release: () -> Void) -> Bool {
        guard let balancer = self.balancer, let pick = self.pick, self.worker.ledger.enterSplice(self.worker.limits)
        else {
            return false
        }
        let pair = self.worker.splicer.prepare(
            client: client,
            server: server,
            idleTimeout: self.route.idleTimeout.map { TimeAmount($0) } ?? self.worker.limits.streamIdleTimeout,
            lingerTimeout: self.worker.limits.lingerTimeout
        )
        guard let pair else {
            self.worker.ledger.leaveSplice()
            return false
        }
        self.pick = nil
        release()
        let spliced = SplicedStream(worker: self.worker, balancer: balancer, pick: pick, client: self.client.address)
        spliced.begin(pair)
        return true
    }

    private func release(failed: Bool) {
        guard let pick = self.pick else { return }
        self.pick = nil
        self.balancer?.end(pick, failed: failed)
    }
}

/// A stream whose bytes the kernel carries by itself, until it ends. Confined to its worker's loop.
final class SplicedStream: TrackedConnection {
    private let worker: GatewayWorker
    private let balancer: SharedBalancer
    private let pick: SharedBalancer.Pick
    private let client: IPAddress
    private var id: UInt64?

    init(worker: GatewayWorker, balancer: SharedBalancer, pick: SharedBalancer.Pick, client: IPAddress) {
        self.worker = worker
        self.balancer = balancer
        self.pick = pick
        self.client = client
    }

    func begin(_ pair: SplicedPair) {
        // It counts on without its channels.
        self.worker.ledger.hold(self.client)
        self.worker.counters.connectionsOpen += 1
        self.worker.connections.add(self)
        let stream = NIOLoopBound(self, eventLoop: self.worker.loop)
        self.id = self.worker.splicer.carry(pair) { [loop = self.worker.loop] _ in
            loop.execute { stream.value.end() }
        }
    }

    func closeWithReset() {
        if let id { self.worker.splicer.reset(id) }
    }

    private func end() {
        self.id = nil
        self.balancer.end(self.pick)
        self.worker.ledger.leave(self.client)
        self.worker.ledger.leaveSplice()
        self.worker.counters.connectionsOpen -= 1
        self.worker.connections.remove(self)
    }
}
