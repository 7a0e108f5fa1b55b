public import LibP2P
public import Logging
public import Multiformats
public import NIOCore
import Synchronization

/// A peer that may serve as relay, and where it is.
public struct RelayCandidate: Sendable, Hashable {
    public let peer: PeerID
    public let addresses: [Multiaddr]

    public init(peer: PeerID, addresses: [Multiaddr]) {
        self.peer = peer
        self.addresses = addresses
    }
}

/// A reservation that this host holds.
public struct ActiveReservation: Sendable, Hashable {
    public let relay: PeerID
    /// Wall-clock seconds since 1970, by the relay's clock.
    public let expires: UInt64
    /// Where this host can be reached through the relay: `/…/p2p/RELAY/p2p-circuit`.
    public let circuitAddresses: [Multiaddr]
    /// What the relay lets each circuit carry.
    public let limit: ConnectionLimit?
    /// As measured when the relay was chosen.
    public let roundTripTime: TimeAmount?
}

/// What a relay client has counted since it was made.
public struct RelayClientMetrics: Sendable, Hashable {
    public var activeReservations = 0
    public var reservationsGranted: UInt64 = 0
    public var reservationsRefused: UInt64 = 0
    public var reservationsFailed: UInt64 = 0
    public var reservationsLost: UInt64 = 0
    /// Let go for a nearer relay.
    public var reservationsReplaced: UInt64 = 0
    public var circuitsAccepted: UInt64 = 0
    public var circuitsRefused: UInt64 = 0

    public init() {}
}

/// A host's use of relays: keeps reservations, advertises the addresses that they give, accepts circuits and dials through relays.
///
/// May be used from any thread. Decisions are those of `ReservationPlan`, on one event loop of the host's. Nothing waits for a
/// relay: `start` and `setCandidates` return at once.
public final class RelayClient: Sendable {
    private struct Keeper {
        var plan: ReservationPlan
        var candidates: [PeerID: RelayCandidate] = [:]
        var held: [PeerID: ActiveReservation] = [:]
        var timer: Scheduled<Void>?
        var observation: Observation?
        var isRunning = false
    }

    private struct Status {
        var reservations: [ActiveReservation] = []
        var metrics = RelayClientMetrics()
    }

    public let configuration: RelayClientConfiguration
    private let host: Host
    private let logger: Logger
    private let loop: any EventLoop
    /// Confined to `loop`.
    private let keeper: NIOLoopBoundBox<Keeper>
    private let status = Mutex(Status())

    private static let source = "relay"

    public init(
        host: Host,
        configuration: RelayClientConfiguration = RelayClientConfiguration(),
        logger: Logger
    ) {
        let loop = host.group.next()
        let plan = ReservationPlan(
            configuration: configuration,
            generator: HostGenerator(source: host.configuration.randomNumber)
        )
        self.host = host
        self.configuration = configuration
        self.logger = logger
        self.loop = loop
        self.keeper = .makeBoxSendingValue(Keeper(plan: plan), eventLoop: loop)
    }

    // MARK: Life

    /// Begins to accept circuits, to dial through relays, and to keep reservations with candidates. Once.
    public func start() {
        self.host.add(transport: CircuitTransport(host: self.host))
        self.host.handle(CircuitProtocol.stop) { [weak self] stream in
            guard let self else { return stream.channel.eventLoop.makeFailedFuture(ChannelError.alreadyClosed) }
            return self.accept(stream)
        }
        let observation = self.host.observe { [weak self] event in
            if case .disconnected(let connection, _) = event, let self { self.disconnected(connection) }
        }
        self.loop.execute {
            self.keeper.value.isRunning = true
            self.keeper.value.observation = observation
            self.pump()
        }
    }

    /// Lets all reservations go and accepts no more circuits; open ones go on.
    public func stop() {
        self.host.stopHandling(CircuitProtocol.stop)
        self.loop.execute {
            self.keeper.value.plan.setCandidates([])
            self.pump()
            self.keeper.value.isRunning = false
            self.keeper.value.timer?.cancel()
            self.keeper.value.observation?.cancel()
        }
    }

    /// Names the relays that may be used, the preferred first. Those that are known already keep their reservations.
    public func setCandidates(_ candidates: [RelayCandidate]) {
        self.loop.execute {
            let own = self.host.peerID
            self.keeper.value.candidates = Dictionary(
                candidates.filter { $0.peer != own }.map { ($0.peer, $0) },
                uniquingKeysWith: { RelayCandidate(peer: $0.peer, addresses: $0.addresses + $1.addresses) }
            )
            var seen: Set<PeerID> = [own]
            self.keeper.value.plan.setCandidates(candidates.map(\.peer).filter { seen.insert($0).inserted })
            self.pump()
        }
    }

    /// Tries all candidates again at once that failed or refused before, as when the network has changed.
    public func retry() {
        self.loop.execute {
            self.keeper.value.plan.retryAll()
            self.pump()
        }
    }

    /// The reservations that are held now.
    public var reservations: [ActiveReservation] { self.status.withLock { $0.reservations } }

    public var metrics: RelayClientMetrics {
        self.status.withLock { status in
            var metrics = status.metrics
            metrics.activeReservations = status.reservations.count
            return metrics
        }
    }

    // MARK: Reservations, on `loop`

    private func pump() {
        guard self.keeper.value.isRunning else { return }
        let now = self.loop.now
        for action in self.keeper.value.plan.next(now: now) {
            switch action {
            case .probe(let peer, let request): self.probe(peer, request)
            case .reserve(let peer, let request): self.reserve(peer, request)
            case .lost(let peer): self.lost(peer) { $0.reservationsLost += 1 }
            case .replaced(let peer): self.lost(peer) { $0.reservationsReplaced += 1 }
            }
        }
        self.keeper.value.timer?.cancel()
        self.keeper.value.timer = self.keeper.value.plan.wakeTime.map { time in
            self.loop.scheduleTask(deadline: time) { [weak self] in self?.pump() }
        }
    }

    private func connect(to peer: PeerID, timeout: TimeAmount) -> EventLoopFuture<Connection> {
        let addresses = self.keeper.value.candidates[peer]?.addresses.map(\.withoutPeerID) ?? []
        return self.host.connect(
            to: peer,
            addresses: addresses,
            // A relay that comes back is to be found in seconds, whatever failed before; the plan has its own backoff.
            options: DialOptions(reuse: .direct, directOnly: true, ignoreBackoff: true, timeout: timeout)
        )
    }

    private func probe(_ peer: PeerID, _ request: UInt64) {
        let timeout = self.configuration.probeTimeout
        self.connect(to: peer, timeout: timeout).flatMap { $0.ping(timeout: timeout) }.hop(to: self.loop)
            .whenComplete { result in
                switch result {
                case .success(let time):
                    self.keeper.value.plan.probed(peer, request: request, roundTripTime: time)
                case .failure(let error):
                    self.keeper.value.plan.failed(peer, request: request, now: self.loop.now)
                    self.log("a relay cannot be reached", peer, error)
                }
                self.pump()
            }
    }

    private func reserve(_ peer: PeerID, _ request: UInt64) {
        let (own, timeout) = (self.host.peerID, self.configuration.requestTimeout)
        self.connect(to: peer, timeout: timeout).flatMap { connection in
            connection.reserve(for: own, within: timeout).map { ($0, connection) }
        }.hop(to: self.loop).whenComplete { result in
            let now = self.loop.now
            switch result {
            case .success(let (granted, connection)):
                self.granted(granted, on: connection, request, now)
            case .failure(let error):
                if (error as? LibP2PRelayError)?.isRefusal == true {
                    self.keeper.value.plan.refused(peer, request: request, now: now)
                    self.status.withLock { $0.metrics.reservationsRefused += 1 }
                    self.host.emit(.reservation(ReservationEvent(relay: peer, state: .refused)))
                } else {
                    self.keeper.value.plan.failed(peer, request: request, now: now)
                    self.status.withLock { $0.metrics.reservationsFailed += 1 }
                }
                self.log("no reservation with a relay", peer, error)
            }
            self.pump()
        }
    }

    private func granted(
        _ granted: GrantedReservation,
        on connection: Connection,
        _ request: UInt64,
        _ now: NIODeadline
    ) {
        let peer = connection.remotePeer
        let time = self.host.configuration.unixTime()
        let seconds = granted.expires > time ? granted.expires - time : 0
        let lifetime = TimeAmount.seconds(Int64(clamping: min(seconds, 1 << 31)))
        guard self.keeper.value.plan.reserved(peer, request: request, lifetime: lifetime, now: now) else { return }
        let isNew = self.keeper.value.held[peer] == nil
        let reservation = ActiveReservation(
            relay: peer,
            expires: granted.expires,
            circuitAddresses: self.circuitAddresses(of: peer, granted, connection),
            limit: granted.limit,
            roundTripTime: self.keeper.value.plan.roundTripTime(of: peer)
        )
        self.keeper.value.held[peer] = reservation
        self.status.withLock { $0.metrics.reservationsGranted += 1 }
        self.host.connectionManager.protect(peer, Self.source)
        self.publish()
        self.host.emit(.reservation(ReservationEvent(relay: peer, state: .active(expires: granted.expires))))
        if isNew {
            self.logger.info(
                "reserved a slot with a relay",
                metadata: ["relay": "\(peer)", "expires": "\(granted.expires)"]
            )
        }
        // The connection may have gone before there was a reservation to be lost.
        if !connection.isOpen { self.disconnected(connection) }
    }

    /// What is configured for the relay is sure to lead to it from somewhere, also where the relay tells nothing.
    private func circuitAddresses(
        of peer: PeerID,
        _ granted: GrantedReservation,
        _ connection: Connection
    ) -> [Multiaddr] {
        let configured = self.keeper.value.candidates[peer]?.addresses ?? []
        var addresses: [Multiaddr] = []
        for address in granted.addresses + configured {
            let circuit = address.withoutPeerID.appending(.p2p(peer)).appending(.circuit)
            if !addresses.contains(circuit) { addresses.append(circuit) }
        }
        if addresses.isEmpty, connection.direction == .outbound {
            addresses = [connection.remoteAddress.appending(.p2p(peer)).appending(.circuit)]
        }
        return Array(addresses.prefix(CircuitProtocol.maximumAddresses))
    }

    private func lost(_ peer: PeerID, count: (inout RelayClientMetrics) -> Void) {
        guard self.keeper.value.held.removeValue(forKey: peer) != nil else { return }
        self.status.withLock { count(&$0.metrics) }
        self.host.connectionManager.unprotect(peer, Self.source)
        self.publish()
        self.host.emit(.reservation(ReservationEvent(relay: peer, state: .lost)))
        self.logger.info("a reservation with a relay is over", metadata: ["relay": "\(peer)"])
    }

    private func publish() {
        let reservations = self.keeper.value.held.values.sorted { $0.relay < $1.relay }
        self.host.advertise(reservations.flatMap(\.circuitAddresses), source: Self.source)
        self.status.withLock { $0.reservations = reservations }
    }

    private func disconnected(_ connection: Connection) {
        let peer = connection.remotePeer
        guard !self.host.connections(to: peer).contains(where: { !$0.isRelayed && $0.isOpen }) else { return }
        self.loop.execute {
            guard self.keeper.value.plan.state(of: peer)?.holdsSlot == true else { return }
            self.keeper.value.plan.disconnected(peer, now: self.loop.now)
            self.pump()
        }
    }

    private func log(_ what: Logger.Message, _ relay: PeerID, _ error: any Error) {
        self.logger.debug(what, metadata: ["relay": "\(relay)", "error": "\(error)"])
    }

    // MARK: Circuits to this host

    /// Takes a circuit that a relay announces. On the event loop of the stream.
    private func accept(_ stream: InboundStream) -> EventLoopFuture<Void> {
        let channel = stream.channel
        return channel.eventLoop.makeCompletedFuture {
            let exchange = try MessageExchange.begin(on: channel)
            exchange.read(within: self.configuration.acceptTimeout) { result in
                switch result {
                case .success(let bytes): self.accept(bytes, on: stream, exchange)
                case .failure(let error) where error.code == .malformed: self.refuse(.malformedMessage, exchange)
                case .failure: exchange.reset()
                }
            }
        }
    }

    private func accept(_ bytes: ByteBuffer, on stream: InboundStream, _ exchange: MessageExchange) {
        guard let message = try? StopMessage(bytes) else { return self.refuse(.malformedMessage, exchange) }
        guard message.kind == .connect else { return self.refuse(.unexpectedMessage, exchange) }
        guard let source = message.peer?.id else { return self.refuse(.malformedMessage, exchange) }
        let relay = stream.connection.remotePeer
        guard !stream.connection.isRelayed, self.configuration.acceptCircuit(relay, source) else {
            return self.refuse(.permissionDenied, exchange)
        }
        exchange.write(StopMessage.status(.ok).buffer)
        do {
            let received = try exchange.leave()
            let raw = try RawConnection(circuit: stream, limit: message.limit, received: received)
            self.status.withLock { $0.metrics.circuitsAccepted += 1 }
            self.host.accept(raw)
        } catch {
            stream.reset()
        }
    }

    private func refuse(_ status: CircuitStatus, _ exchange: MessageExchange) {
        self.status.withLock { $0.metrics.circuitsRefused += 1 }
        exchange.finish(StopMessage.status(status).buffer)
    }
}

/// The host's random numbers as a generator.
private struct HostGenerator: RandomNumberGenerator, Sendable {
    let source: @Sendable () -> UInt64

    mutating func next() -> UInt64 { self.source() }
}

extension LibP2PRelayError {
    /// The relay has answered, and does not want to.
    var isRefusal: Bool {
        switch self.code {
        case .reservationRefused, .resourceLimitExceeded, .permissionDenied: true
        default: false
        }
    }
}
