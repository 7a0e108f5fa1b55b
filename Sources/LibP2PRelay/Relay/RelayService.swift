import ByteStreams
public import LibP2P
public import Logging
import Multiformats
import NIOCore
import PeerIdentity
import Synchronization

/// What a relay has counted since it was made. Values of `open…` are of the moment.
public struct RelayServiceMetrics: Sendable, Hashable {
    public var openReservations = 0
    public var openCircuits = 0
    public var reservationsGranted: UInt64 = 0
    public var reservationsRefused: UInt64 = 0
    /// Of these, because the peer or its address asks too often.
    public var reservationsRateLimited: UInt64 = 0
    public var circuitsOpened: UInt64 = 0
    /// By this relay: for want of a reservation, by a limit, by a rule.
    public var circuitsRefused: UInt64 = 0
    /// Admitted, but not accepted by the target.
    public var circuitsFailed: UInt64 = 0
    /// Over a limit of time or bytes.
    public var circuitsCut: UInt64 = 0
    public var bytesFromSources: UInt64 = 0
    public var bytesFromTargets: UInt64 = 0

    public init() {}
}

/// The relay's side of circuit v2: gives reservations, and joins streams of two peers into a circuit
/// (libp2p/specs, relay/circuit-v2, "Hop Protocol").
///
/// May be used from any thread. Tables lie under one mutex; a circuit's bytes stay on the event loops of its two connections.
/// Whoever starts it stops it before the host is shut down.
public final class RelayService: Sendable {
    struct State {
        var table: RelayTable
        var metrics = RelayServiceMetrics()
        var counters: [ObjectIdentifier: NIOLoopBound<GlueCounters>] = [:]
        var observation: Observation?
        var sweep: RepeatedTask?
        var isRunning = false
    }

    public let configuration: RelayServiceConfiguration
    let host: Host
    let logger: Logger
    let state: Mutex<State>

    /// How often reservations that are over are taken away; circuits look for themselves.
    private static let sweepInterval = TimeAmount.minutes(1)
    private static let tag = "relay-reservation"

    public init(
        host: Host,
        configuration: RelayServiceConfiguration = RelayServiceConfiguration(),
        logger: Logger
    ) {
        self.host = host
        self.configuration = configuration
        self.logger = logger
        self.state = Mutex(State(table: RelayTable(configuration: configuration)))
    }

    // MARK: Life

    /// Begins to serve. Again after `stop`, if wanted.
    public func start() {
        let isFirst = self.state.withLock { state in
            defer { state.isRunning = true }
            return !state.isRunning
        }
        guard isFirst else { return }
        let observation = self.host.observe { [weak self] event in
            if case .disconnected(let connection, _) = event { self?.disconnected(connection) }
        }
        let loop = self.host.group.next()
        let sweep = loop.scheduleRepeatedTask(
            initialDelay: Self.sweepInterval,
            delay: Self.sweepInterval
        ) { [weak self] task in
            guard let self else { return task.cancel() }
            self.sweep(now: loop.now)
        }
        self.state.withLock { state in
            state.observation = observation
            state.sweep = sweep
        }
        self.host.handle(CircuitProtocol.hop) { [weak self] stream in
            guard let self else { return stream.channel.eventLoop.makeFailedFuture(ChannelError.alreadyClosed) }
            return self.accept(stream)
        }
    }

    /// Takes no more requests. Reservations are void; open circuits go on.
    public func stop() {
        let (observation, sweep, peers) = self.state.withLock { state in
            defer {
                state.isRunning = false
                state.observation = nil
                state.sweep = nil
            }
            let peers = state.table.reservedPeers
            for peer in peers { state.table.release(peer) }
            return (state.observation, state.sweep, peers)
        }
        self.host.stopHandling(CircuitProtocol.hop)
        observation?.cancel()
        sweep?.cancel()
        self.unprotect(peers)
    }

    /// What has been counted; asks each event loop for the bytes of its circuits.
    public func metrics() async -> RelayServiceMetrics {
        var (metrics, counters) = self.state.withLock { state in
            var metrics = state.metrics
            metrics.openReservations = state.table.reservationCount
            metrics.openCircuits = state.table.circuits
            return (metrics, Array(state.counters.values))
        }
        for counter in counters {
            let moved = try? await counter.eventLoop.submit {
                (counter.value.clientToServerBytes, counter.value.serverToClientBytes)
            }.get()
            metrics.bytesFromSources &+= moved?.0 ?? 0
            metrics.bytesFromTargets &+= moved?.1 ?? 0
        }
        return metrics
    }

    // MARK: Requests

    /// On the stream's event loop.
    private func accept(_ stream: InboundStream) -> EventLoopFuture<Void> {
        let channel = stream.channel
        return channel.eventLoop.makeCompletedFuture {
            let exchange = try MessageExchange.begin(on: channel)
            exchange.read(within: self.configuration.requestTimeout) { result in
                self.handle(result, on: stream, exchange)
            }
        }
    }

    private func handle(
        _ result: Result<ByteBuffer, LibP2PRelayError>,
        on stream: InboundStream,
        _ exchange: MessageExchange
    ) {
        let message: HopMessage
        switch result {
        case .success(let bytes):
            guard let decoded = try? HopMessage(bytes) else {
                return exchange.finish(HopMessage.status(.malformedMessage).buffer)
            }
            message = decoded
        case .failure(let error):
            guard error.code == .malformed else { return exchange.reset() }
            return exchange.finish(HopMessage.status(.malformedMessage).buffer)
        }
        switch message.kind {
        case .reserve: exchange.finish(self.reserve(stream.connection).buffer)
        case .connect: self.connect(message.peer?.id, from: stream, exchange)
        case .status: exchange.finish(HopMessage.status(.unexpectedMessage).buffer)
        }
    }

    private func reserve(_ connection: Connection) -> HopMessage {
        let peer = connection.remotePeer
        let now = connection.eventLoop.now
        let isAllowed =
            !connection.isRelayed && self.configuration.allowReservation(peer, connection.remoteAddress)
        let status = self.state.withLock { state -> CircuitStatus in
            let status: CircuitStatus
            if isAllowed, state.isRunning {
                status = state.table.reserve(peer, origin: connection.remoteAddress.ipAddress, now: now)
            } else {
                status = .permissionDenied
            }
            if status == .ok { state.metrics.reservationsGranted += 1 } else { state.metrics.reservationsRefused += 1 }
            if status == .resourceLimitExceeded { state.metrics.reservationsRateLimited += 1 }
            return status
        }
        guard status == .ok else {
            self.logger.debug(
                "refused a reservation",
                metadata: ["peer-id": "\(peer)", "status": "\(status)", "address": "\(connection.remoteAddress)"]
            )
            return .status(status)
        }
        self.host.connectionManager.protect(peer, Self.tag)
        // The connection may have gone before the slot was there to be taken away.
        if !connection.isOpen { self.disconnected(connection) }
        return .status(.ok, reservation: self.reservation(for: peer), limit: self.configuration.limit)
    }

    private func reservation(for peer: PeerID) -> CircuitReservation {
        let lifetime = UInt64(clamping: self.configuration.reservationLifetime.nanoseconds / 1_000_000_000)
        var reservation = CircuitReservation(expires: self.host.configuration.unixTime() &+ lifetime)
        // The whole answer must fit the bound that clients set to messages.
        var room = CircuitProtocol.maximumMessageLength / 2
        for address in self.host.advertisedAddresses.filter(self.configuration.addressFilter) {
            let own = address.appending(.p2p(self.host.peerID))
            room -= own.bytes.count + 4
            guard room > 0, reservation.addresses.count < CircuitProtocol.maximumAddresses else { break }
            reservation.addresses.append(own)
        }
        let voucher = ReservationVoucher(relay: self.host.peerID, peer: peer, expires: reservation.expires)
        // An identity that cannot sign would not have come through a handshake; the voucher is advisory anyway.
        reservation.voucher = try? voucher.seal(with: self.host.identity).bytes
        return reservation
    }

    // MARK: Ends

    private func disconnected(_ connection: Connection) {
        let peer = connection.remotePeer
        guard !self.host.connections(to: peer).contains(where: { !$0.isRelayed && $0.isOpen }) else { return }
        if self.state.withLock({ $0.table.release(peer) }) { self.unprotect([peer]) }
    }

    private func sweep(now: NIODeadline) {
        self.unprotect(self.state.withLock { $0.table.expire(now: now) })
    }

    private func unprotect(_ peers: [PeerID]) {
        for peer in peers { self.host.connectionManager.unprotect(peer, Self.tag) }
    }

    /// The counters of circuits whose source is on `loop`, on which this is called.
    func counters(of loop: any EventLoop) -> GlueCounters {
        loop.preconditionInEventLoop()
        let key = ObjectIdentifier(loop)
        if let known = self.state.withLock({ $0.counters[key] }) { return known.value }
        let counters = GlueCounters()
        let bound = NIOLoopBound(counters, eventLoop: loop)
        self.state.withLock { $0.counters[key] = bound }
        return counters
    }
}
