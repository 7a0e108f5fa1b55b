import ByteStreams
import LibP2P
import Logging
import Multiformats
import NIOCore
import Synchronization

/// How a stream of one peer becomes a circuit to another:
/// source says CONNECT -> admission -> stream to the target, CONNECT -> target says OK -> source is told OK -> joined.
extension RelayService {
    /// On the event loop of the source's stream.
    func connect(_ target: PeerID?, from stream: InboundStream, _ exchange: MessageExchange) {
        guard let target else { return exchange.finish(HopMessage.status(.malformedMessage).buffer) }
        let source = stream.connection.remotePeer
        let loop = stream.channel.eventLoop
        let way = self.connection(to: target, preferring: loop)
        let isAllowed = !stream.connection.isRelayed && self.configuration.allowCircuit(source, target)
        let now = loop.now
        let status = self.state.withLock { state in
            let status: CircuitStatus
            if isAllowed, state.isRunning {
                status = state.table.beginCircuit(from: source, to: target, isConnected: way != nil, now: now)
            } else {
                status = .permissionDenied
            }
            if status != .ok { state.metrics.circuitsRefused += 1 }
            return status
        }
        guard status == .ok, let way else {
            self.logger.debug(
                "refused a circuit",
                metadata: ["peer-id": "\(source)", "target": "\(target)", "status": "\(status)"]
            )
            return exchange.finish(HopMessage.status(status).buffer)
        }
        let circuit = Circuit(source: stream, exchange: exchange, target: target, service: self)
        way.openStream(
            protocols: [CircuitProtocol.stop],
            options: OpenStreamOptions(dial: false, timeout: self.configuration.connectTimeout)
        ).whenComplete { result in
            switch result {
            case .success(let stop): circuit.ask(stop)
            case .failure(let error): circuit.targetFailed(error)
            }
        }
    }

    /// A direct connection to the peer: one of the source's loop if there is one, else the newest.
    private func connection(to peer: PeerID, preferring loop: any EventLoop) -> Connection? {
        let direct = self.host.connections(to: peer).filter { !$0.isRelayed && $0.takesStreams }
        return direct.last { $0.eventLoop === loop } ?? direct.last
    }

    func ended(from source: PeerID, to target: PeerID) {
        self.state.withLock { $0.table.endCircuit(from: source, to: target) }
    }
}

/// One circuit on its way to being joined. Once it is, the handlers of its two streams are all that is left of it, and what
/// tells the service of its end.
private final class Circuit: Sendable {
    private let source: InboundStream
    /// On the loop of `source`.
    private let exchange: NIOLoopBound<MessageExchange>
    private let target: PeerID
    private let service: RelayService

    /// On the event loop of the source's stream.
    init(source: InboundStream, exchange: MessageExchange, target: PeerID, service: RelayService) {
        self.source = source
        self.exchange = NIOLoopBound(exchange, eventLoop: source.channel.eventLoop)
        self.target = target
        self.service = service
    }

    private var sourcePeer: PeerID { self.source.connection.remotePeer }
    private var sourceLoop: any EventLoop { self.source.channel.eventLoop }
    private var limit: ConnectionLimit? { self.service.configuration.limit }

    // MARK: On the target's loop

    /// Asks the target to accept.
    func ask(_ stop: NegotiatedStream) {
        let exchange: MessageExchange
        do {
            exchange = try MessageExchange.begin(on: stop.channel)
        } catch {
            stop.reset()
            return self.targetFailed(error)
        }
        exchange.write(StopMessage.connect(from: self.sourcePeer, limit: self.limit).buffer)
        exchange.read(within: self.service.configuration.connectTimeout) { result in
            do {
                let answer = try StopMessage(result.get())
                guard answer.kind == .status, let status = answer.status else {
                    throw LibP2PRelayError(code: .unexpected, message: "the answer to a circuit was no status")
                }
                guard status == .ok else {
                    throw LibP2PRelayError(status, request: "the request for a circuit to \(self.target)")
                }
                try self.accepted(stop, exchange)
            } catch {
                stop.reset()
                self.targetFailed(error)
            }
        }
    }

    private func accepted(_ stop: NegotiatedStream, _ exchange: MessageExchange) throws {
        if self.sourceLoop === stop.channel.eventLoop {
            let early = try exchange.leave()
            try self.join(stop, early)
        } else {
            let early = try exchange.leave()
            try self.guardLimit(of: stop.channel)
            let half = CrossLoopGlueHandler(counters: nil)
            try stop.channel.pipeline.syncOperations.addHandler(half)
            let bound = NIOLoopBound(half, eventLoop: stop.channel.eventLoop)
            self.sourceLoop.execute { self.join(stop, bound, early) }
        }
    }

    // MARK: On the source's loop

    /// Tells the source that there is no circuit.
    func targetFailed(_ error: any Error) {
        self.service.ended(from: self.sourcePeer, to: self.target)
        self.service.state.withLock { $0.metrics.circuitsFailed += 1 }
        self.service.logger.debug(
            "a circuit was not accepted",
            metadata: ["peer-id": "\(self.sourcePeer)", "target": "\(self.target)", "error": "\(error)"]
        )
        let exchange = self.exchange
        if self.sourceLoop.inEventLoop {
            exchange.value.finish(HopMessage.status(.connectionFailed).buffer)
        } else {
            self.sourceLoop.execute { exchange.value.finish(HopMessage.status(.connectionFailed).buffer) }
        }
    }

    /// Joins two streams of one loop.
    private func join(_ stop: NegotiatedStream, _ early: ByteBuffer) throws {
        let hop = self.source.channel
        let received = try self.exchange.value.leave()
        let counters = self.service.counters(of: hop.eventLoop)
        let pair = GlueHandler.matchedPair(counters: counters)
        do {
            try self.guardLimit(of: hop)
            try self.guardLimit(of: stop.channel)
            try hop.pipeline.syncOperations.addHandler(pair.client)
            try stop.channel.pipeline.syncOperations.addHandler(pair.server)
        } catch {
            hop.closeWithReset()
            throw error
        }
        self.confirm(early, counters)
        self.began(stop)
        pair.client.start(received: received)
    }

    /// Joins two streams of different loops.
    private func join(_ stop: NegotiatedStream, _ half: NIOLoopBound<CrossLoopGlueHandler>, _ early: ByteBuffer) {
        let hop = self.source.channel
        let counters = self.service.counters(of: hop.eventLoop)
        let own = CrossLoopGlueHandler(counters: counters)
        let received: ByteBuffer
        do {
            received = try self.exchange.value.leave()
            try self.guardLimit(of: hop)
            try hop.pipeline.syncOperations.addHandler(own)
        } catch {
            hop.closeWithReset()
            stop.reset()
            return self.targetFailed(error)
        }
        self.confirm(early, counters)
        self.began(stop)
        let ownHalf = NIOLoopBound(own, eventLoop: hop.eventLoop)
        half.eventLoop.execute { half.value.start(partner: ownHalf, received: ByteBuffer()) }
        own.start(partner: half, received: received)
    }

    /// Tells the source, in a write of its own: some clients drop what comes in the frame of the answer.
    private func confirm(_ early: ByteBuffer, _ counters: GlueCounters) {
        let hop = self.source.channel
        var answer = ByteBuffer()
        answer.writeVarintPrefixed(HopMessage.status(.ok, limit: self.limit).buffer)
        hop.writeAndFlush(answer, promise: nil)
        guard early.readableBytes > 0 else { return }
        counters.serverToClientBytes &+= UInt64(early.readableBytes)
        hop.writeAndFlush(early, promise: nil)
    }

    private func began(_ stop: NegotiatedStream) {
        let (hop, service) = (self.source, self.service)
        let (source, target) = (self.sourcePeer, self.target)
        service.state.withLock { $0.metrics.circuitsOpened += 1 }
        EventLoopFuture.andAllComplete([hop.channel.closeFuture, stop.channel.closeFuture], on: self.sourceLoop)
            .whenComplete { _ in service.ended(from: source, to: target) }
        guard let seconds = self.limit?.seconds else { return }
        let end = self.sourceLoop.scheduleTask(in: .seconds(Int64(seconds))) {
            service.state.withLock { $0.metrics.circuitsCut += 1 }
            hop.reset()
            stop.reset()
        }
        hop.channel.closeFuture.whenComplete { _ in end.cancel() }
    }

    private func guardLimit(of channel: any Channel) throws {
        guard let bytes = self.limit?.bytes else { return }
        let service = self.service
        try channel.pipeline.syncOperations.addHandler(
            CircuitLimitHandler(bytes: bytes) { service.state.withLock { $0.metrics.circuitsCut += 1 } }
        )
    }
}
