import ByteStreams
import EndpointBalancing
import LinuxNetwork
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization

/// One accepted connection, from its accept until it is closed: finds its route, chooses an endpoint, dials, glues.
///
/// If the endpoint's channel lives on another loop, the connection moves there: before the dial if the loop is known by then,
/// else when both ends are.
///
/// It sits behind the glue in the client's pipeline, so once the bytes flow it sees none of them. Confined to its worker's
/// loop; nothing here waits for another connection.
final class ProxyConnection: ChannelInboundHandler, GluedSocketsCarrier {
    typealias InboundIn = ByteBuffer

    /// What goes along with the socket to the loop of its server, which is to be dialled there if there is none yet.
    final class Move: Sendable {
        let client: TransportAddress
        let balancer: RouteBalancer
        let pick: RouteBalancer.Pick
        let server: (any Channel)?
        let received: ByteBuffer?
        let inputEnded: Bool
        let keyHash: UInt64?
        /// A handler on the other loop answers for the rest now.
        let isTaken = Atomic<Bool>(false)

        init(
            client: TransportAddress,
            balancer: RouteBalancer,
            pick: RouteBalancer.Pick,
            server: (any Channel)?,
            received: ByteBuffer?,
            inputEnded: Bool,
            keyHash: UInt64?
        ) {
            self.client = client
            self.balancer = balancer
            self.pick = pick
            self.server = server
            self.received = received
            self.inputEnded = inputEnded
            self.keyHash = keyHash
        }
    }

    private enum State {
        case opening
        case moved(Move)
        case sniffing(HTTPKeySniffer, timeout: Scheduled<Void>)
        case dialling
        case glued
        case ended
    }

    /// That are read before the server is there.
    private static let earlyBytes = 16 << 10

    private let worker: ProxyWorker
    private let isRefused: Bool
    private var state = State.opening
    private var context: ChannelHandlerContext?
    private var client = TransportAddress(.v4(.any), 0)
    private var balancer: RouteBalancer?
    private var pick: RouteBalancer.Pick?
    /// What the client sent before there was a server: at most the head that is sniffed, `earlyBytes` and one read.
    private var received: ByteBuffer?
    /// The stream of the tunnel that is being opened, if it takes bytes before its target has answered, and how many of `received` it
    /// has got.
    private var early: (any Channel)?
    private var sentEarly = 0
    private var inputEnded = false
    private var tried: [Int] = []
    private var keyHash: UInt64?
    /// That the worker counts for it.
    private var descriptors = 2

    init(worker: ProxyWorker, isRefused: Bool) {
        self.worker = worker
        self.isRefused = isRefused
    }

    /// A connection that another worker accepted, and for which it has chosen the server.
    init(worker: ProxyWorker, moved move: Move) {
        self.worker = worker
        self.isRefused = false
        self.state = .moved(move)
        self.client = move.client
        self.balancer = move.balancer
        self.pick = move.pick
        self.received = move.received
        self.inputEnded = move.inputEnded
        self.keyHash = move.keyHash
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.end()
        self.worker.connectionEnded(context.channel, descriptors: self.descriptors)
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        if case .moved(let move) = self.state {
            self.worker.connections.add(context.channel)
            self.state = .dialling
            guard let server = move.server else { return self.dial(move.pick, move.balancer, context.eventLoop) }
            return self.connected(server)
        }
        guard !self.isRefused, let client = context.channel.remoteAddress.flatMap({ TransportAddress($0) }) else {
            return context.channel.closeWithReset()
        }
        self.client = client
        self.worker.connections.add(context.channel)
        self.worker.environment.tcpOriginalDestination(context.channel).assumeIsolated().whenComplete { result in
            self.open((try? result.get()) ?? nil)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.end()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.end()
        context.channel.closeWithReset()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent, !self.inputEnded {
            self.inputEnded = true
            if case .sniffing = self.state {
                self.worker.counters.hashKeyNotHTTP += 1
                self.sniffed(nil)
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if self.received == nil { self.received = bytes } else { self.received?.writeBuffer(&bytes) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if case .dialling = self.state { return self.sendEarly(context) }
        guard case .sniffing(var sniffer, let timeout) = self.state, let received = self.received else { return }
        switch sniffer.examine(received) {
        case .needsMore:
            self.state = .sniffing(sniffer, timeout: timeout)
            context.read()
        case .key(let key):
            self.sniffed(XXHash64.hash(key))
        case .absent:
            self.worker.counters.hashKeyAbsent += 1
            self.sniffed(nil)
        case .notHTTP:
            self.worker.counters.hashKeyNotHTTP += 1
            self.sniffed(nil)
        }
    }

    // MARK: Steps

    private func open(_ destination: TransportAddress?) {
        guard case .opening = self.state, let context = self.context else { return }
        // A connection to the listener itself would be proxied to the proxy.
        guard let destination, destination != context.channel.localAddress.flatMap({ TransportAddress($0) }),
            let (_, balancer) = self.worker.routes.route(destination, .tcp)
        else {
            self.worker.counters.connectionsWithoutRoute += 1
            return context.channel.closeWithReset()
        }
        self.balancer = balancer
        guard let key = balancer.httpKey else { return self.dial() }
        let timeout = context.eventLoop.assumeIsolated().scheduleTask(in: self.worker.environment.limits.sniffTimeout) {
            self.worker.counters.hashKeyTimeouts += 1
            self.sniffed(nil)
        }
        self.state = .sniffing(HTTPKeySniffer(key), timeout: timeout)
        context.read()
    }

    /// The key's hash is known, or there is none and the client's address serves.
    private func sniffed(_ hash: UInt64?) {
        guard case .sniffing(_, let timeout) = self.state else { return }
        timeout.cancel()
        self.keyHash = hash
        self.dial()
    }

    private func dial() {
        guard let context = self.context, let balancer = self.balancer else { return }
        self.state = .dialling
        let choice = PickContext(client: self.client.address, now: .now(), keyHash: self.keyHash, excluded: self.tried)
        guard self.tried.count < self.worker.environment.limits.maximumDials, let pick = balancer.begin(choice) else {
            self.worker.counters.connectionsUnserved += 1
            return context.channel.closeWithReset()
        }
        self.pick = pick
        if self.tried.isEmpty, let loop = self.worker.environment.dialer.eventLoop(for: pick.endpoint),
            loop !== context.eventLoop
        {
            self.move(to: loop, server: nil, context.channel)
        } else {
            self.dial(pick, balancer, context.eventLoop)
        }
    }

    private func dial(_ pick: RouteBalancer.Pick, _ balancer: RouteBalancer, _ loop: any EventLoop) {
        let connection = NIOLoopBound(self, eventLoop: loop)
        self.worker.environment.dialer.dial(
            pick.endpoint,
            for: FlowOrigin(client: self.client, service: balancer.key.service),
            on: loop,
            deadline: .now() + self.worker.environment.limits.dialTimeout,
            early: { if $0.eventLoop === loop { connection.value.opening(on: $0) } }
        )
        .assumeIsolated()
        .whenComplete { result in
            switch result {
            case .success(let server): self.connected(server)
            case .failure(let error): self.dialFailed(error)
            }
        }
    }

    private func dialFailed(_ error: (any Error)?) {
        self.worker.counters.dialsFailed += 1
        guard case .dialling = self.state, let pick = self.pick else { return }
        self.pick = nil
        self.early = nil
        self.balancer?.end(pick, failed: true)
        if self.sentEarly > 0, (error as? TunnelError)?.isAnswer != true {
            // It may have come to the target, and been done: another one would do it again.
            self.worker.counters.connectionsUnserved += 1
            self.context?.channel.closeWithReset()
            return
        }
        self.sentEarly = 0
        self.tried.append(pick.slot)
        self.dial()
    }

    /// What the client has to say need not wait for the target's answer.
    private func opening(on channel: any Channel) {
        guard case .dialling = self.state, let context = self.context else { return }
        self.early = channel
        self.sendEarly(context)
    }

    private func sendEarly(_ context: ChannelHandlerContext) {
        guard let early = self.early else { return }
        if var bytes = self.received, bytes.readableBytes > self.sentEarly {
            bytes.moveReaderIndex(forwardBy: self.sentEarly)
            self.sentEarly += bytes.readableBytes
            early.writeAndFlush(bytes, promise: nil)
        }
        // A failed write ends the opening, and this with it.
        if self.early != nil, self.sentEarly < Self.earlyBytes { context.read() }
    }

    /// From here on the endpoint is settled. One that accepted and closes at once, with nothing received, is no failed dial: that
    /// may be all that it had to say, and a client that has sent nothing cannot be told from one that waits for just this. As with
    /// the kernel's own balancing, the client sees the end and decides.
    private func connected(_ server: any Channel) {
        guard case .dialling = self.state, let context = self.context else {
            return server.close(promise: nil)
        }
        guard server.eventLoop === context.eventLoop else {
            return self.move(to: server.eventLoop, server: server, context.channel)
        }
        let pair = GlueHandler.matchedPair(
            counters: self.worker.glueCounters,
            idleTimeout: self.worker.environment.limits.idleTimeout,
            lingerTimeout: self.worker.environment.limits.lingerTimeout,
            carrier: self
        )
        do {
            try server.pipeline.syncOperations.addHandler(pair.server)
            try context.pipeline.syncOperations.addHandler(pair.client, position: .before(self))
        } catch {
            server.close(promise: nil)
            return context.channel.closeWithReset()
        }
        self.state = .glued
        if server.parent != nil {
            // A stream among others on one socket.
            self.worker.releaseDescriptors(1)
            self.descriptors -= 1
        }
        self.tried = []
        var received = self.received
        self.received = nil
        self.early = nil
        received?.moveReaderIndex(forwardBy: self.sentEarly)
        self.worker.glueCounters.clientToServerBytes &+= UInt64(self.sentEarly)
        pair.client.start(received: received, inputEnded: self.inputEnded)
    }

    /// Goes to the loop of the server, who is there or to be dialled there.
    private func move(to loop: any EventLoop, server: (any Channel)?, _ client: any Channel) {
        guard let balancer = self.balancer, let pick = self.pick,
            let worker = self.worker.environment.workers.handle(on: loop)
        else {
            server?.close(promise: nil)
            return self.dialFailed(nil)
        }
        let move = Move(
            client: self.client,
            balancer: balancer,
            pick: pick,
            server: server,
            received: self.received,
            inputEnded: self.inputEnded,
            keyHash: self.keyHash
        )
        self.pick = nil
        self.state = .ended
        self.worker.counters.connectionsMoved += 1
        worker.adopt(client, move)
    }

    /// Much flows: from here on the kernel carries it, and the connection outlives its channels.
    func carry(client: NIOBSDSocket.Handle, server: NIOBSDSocket.Handle, release: () -> Void) -> Bool {
        guard let balancer = self.balancer, let pick = self.pick,
            let pair = self.worker.prepareSplice(client: client, server: server)
        else { return false }
        self.pick = nil
        release()
        SplicedConnection(worker: self.worker, balancer: balancer, pick: pick).begin(pair)
        return true
    }

    /// Gives back what is held. Runs once, however the connection ends.
    private func end() {
        if case .sniffing(_, let timeout) = self.state { timeout.cancel() }
        if case .moved(let move) = self.state { move.server?.close(promise: nil) }
        self.state = .ended
        self.received = nil
        self.early = nil
        if let pick = self.pick {
            self.pick = nil
            self.balancer?.end(pick)
        }
    }
}
