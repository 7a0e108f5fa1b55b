import LibP2PSecurity
import Multiformats
import NIOCore
import Synchronization

/// One attempt to reach a peer by any of its addresses. Confined to its event loop, on which the connection will live.
///
/// The first address whose handshake succeeds wins; the others are closed. `DialSchedule` says what is dialled when.
final class PeerDial {
    private let host: Host
    private let id: UInt64
    private let peer: PeerID
    private let options: DialOptions
    private let given: [Multiaddr]
    private let loop: any EventLoop
    private let promise: EventLoopPromise<Connection>
    private let overall: NIODeadline
    private var schedule: DialSchedule
    private var attempts: [Attempt] = []
    private var failures: [DialAttempt] = []
    /// How often an address was dialled again, and why for the last time.
    private var redials: [Multiaddr: (count: Int, error: any Error)] = [:]
    private var considered: Set<Multiaddr> = []
    private var lookups = 0
    private var askedRouting = false
    private var isDone = false
    private var timer: Scheduled<Void>?
    private var deadline: Scheduled<Void>?

    /// One address that is being dialled.
    private final class Attempt {
        let address: Multiaddr
        var channel: (any Channel)?
        var timer: Scheduled<Void>?
        var isOver = false

        init(address: Multiaddr) {
            self.address = address
        }

        /// The transport has a channel, which is closed when this is over before it is connected.
        func made(_ channel: any Channel) {
            if self.isOver { channel.close(promise: nil) } else { self.channel = channel }
        }
    }

    init(
        host: Host,
        id: UInt64,
        peer: PeerID,
        given: [Multiaddr],
        options: DialOptions,
        loop: any EventLoop,
        promise: EventLoopPromise<Connection>
    ) {
        self.host = host
        self.id = id
        self.peer = peer
        self.given = given
        self.options = options
        self.loop = loop
        self.promise = promise
        self.overall = loop.now + (options.timeout ?? host.configuration.dial.peerTimeout)
        self.schedule = DialSchedule(maximum: host.configuration.dial.maximumPerPeer)
    }

    private var configuration: DialConfiguration { self.host.configuration.dial }

    func start() {
        self.deadline = self.loop.assumeIsolated().scheduleTask(deadline: self.overall) {
            self.finish(failure: .timedOut)
        }
        var addresses = self.given
        if !self.options.onlyGivenAddresses { addresses += self.host.peers.addresses(of: self.peer) }
        self.add(addresses)
        self.pump()
    }

    /// Others who want the same peer know addresses, too.
    func add(_ addresses: [Multiaddr]) {
        guard !self.isDone else { return }
        let resolver = AddressResolver(
            resolver: self.host.configuration.resolver,
            maximumDepth: self.configuration.maximumDNSDepth
        )
        var plain: [Multiaddr] = []
        for address in addresses.prefix(self.configuration.maximumAddresses) {
            if let named = address.peerID, named != self.peer { continue }
            let address = address.withoutPeerID
            guard !address.isCircuit, address.startsWithName else {
                plain.append(address)
                continue
            }
            self.lookups += 1
            resolver.resolve(address, of: self.peer, on: self.loop).assumeIsolated().whenComplete { result in
                self.lookups -= 1
                switch result {
                case .success(let found): self.consider(found)
                case .failure(let error): self.failures.append(DialAttempt(address: address, error: error))
                }
                self.pump()
            }
        }
        self.consider(plain)
    }

    func cancel(_ error: LibP2PError) {
        self.finish(error)
    }

    /// Queues those that can be dialled, and notes why the others cannot.
    private func consider(_ addresses: [Multiaddr]) {
        let now = self.loop.now
        let own = self.host.listenAddresses
        var able: [Multiaddr] = []
        for address in addresses where self.considered.insert(address).inserted {
            let reason: LibP2PError?
            if self.options.directOnly, address.isCircuit {
                reason = LibP2PError(code: .notAllowed, message: "only direct addresses are wanted")
            } else if own.contains(address) {
                reason = LibP2PError(code: .selfDial, message: "this is an address of this host")
            } else if !self.host.configuration.dialFilter(self.peer, address) {
                reason = LibP2PError(code: .notAllowed, message: "the configuration does not allow to dial it")
            } else if self.host.transport(for: address) == nil {
                reason = LibP2PError(code: .notAllowed, message: "no transport of this host dials such an address")
            } else if let wait = self.host.backoff(of: self.peer, address, now: now), !self.options.ignoreBackoff {
                reason = LibP2PError(
                    code: .dialFailed,
                    message: "it failed a short time ago; not again for \(wait.seconds) s"
                )
            } else {
                reason = nil
            }
            if let reason {
                self.failures.append(DialAttempt(address: address, error: reason))
            } else {
                able.append(address)
            }
        }
        var configuration = self.configuration
        if self.options.simultaneousOpen != nil { configuration.ranking = .noDelay }
        self.schedule.add(DialRanking.rank(able, configuration: configuration), now: now)
    }

    /// Dials what is due.
    func pump() {
        self.timer?.cancel()
        self.timer = nil
        while !self.isDone {
            switch self.schedule.next(now: self.loop.now) {
            case .dial(let address):
                if self.redials[address] != nil, let connected = self.connectedByPeer() {
                    self.schedule.failed(now: self.loop.now)
                    self.succeed(connected)
                    return
                }
                // A circuit takes no socket, and its way to the relay is a dial of its own, which must not wait behind it.
                guard address.isCircuit || self.host.takeDialSlot(self.id) else {
                    // Called again when another dial has given its slot back.
                    self.schedule.postpone(address, now: self.loop.now)
                    return
                }
                self.dial(address)
            case .wait(let deadline):
                self.timer = self.loop.assumeIsolated().scheduleTask(deadline: deadline) { self.pump() }
                return
            case .busy:
                return
            case .exhausted:
                guard self.lookups == 0 else { return }
                guard self.askRouting() else {
                    self.finish(failure: .dialFailed)
                    return
                }
                return
            }
        }
    }

    private func dial(_ address: Multiaddr) {
        guard let transport = self.host.transport(for: address) else { return }
        let attempt = Attempt(address: address)
        self.attempts.append(attempt)
        let deadline = min(self.overall, self.loop.now + self.configuration.timeout(for: address))
        attempt.timer = self.loop.assumeIsolated().scheduleTask(deadline: deadline) {
            let error = LibP2PError(code: .timedOut, message: "no connection in time")
            self.ended(attempt, .failure(error))
        }
        let options = TransportDialOptions(
            deadline: deadline,
            reusePort: self.options.reusePort ?? self.configuration.reusePort,
            simultaneousOpen: self.options.simultaneousOpen != nil,
            channelMade: { [attempt = NIOLoopBound(attempt, eventLoop: self.loop)] in attempt.value.made($0) }
        )
        // A relay has to be told whom the circuit is to.
        let whole = address.isCircuit ? address.appending(.p2p(self.peer)) : address
        transport.dial(whole, on: self.loop, options: options).assumeIsolated().whenComplete { result in
            switch result {
            case .failure(let error): self.ended(attempt, .failure(error))
            case .success(let raw):
                attempt.made(raw.channel)
                guard !attempt.isOver else { return }
                let role = self.options.simultaneousOpen ?? .initiator
                let patience = self.options.patience ?? self.host.configuration.simultaneousOpen.dialledPatience
                self.host.establish(
                    raw,
                    direction: .outbound,
                    role: role,
                    patience: role == .responder ? patience : nil,
                    expectedPeer: self.peer,
                    deadline: min(deadline, self.loop.now + self.host.configuration.handshakeTimeout)
                ).assumeIsolated().whenComplete { self.ended(attempt, $0) }
            }
        }
    }

    private func ended(_ attempt: Attempt, _ result: Result<Connection, any Error>) {
        guard !attempt.isOver else { return }
        attempt.isOver = true
        attempt.timer?.cancel()
        self.attempts.removeAll { $0 === attempt }
        if !attempt.address.isCircuit { self.host.returnDialSlot() }
        switch result {
        case .success(let connection):
            self.host.dialled(self.peer, attempt.address, error: nil, now: self.loop.now)
            self.succeed(connection)
        case .failure(let error):
            attempt.channel?.close(promise: nil)
            self.host.dialled(self.peer, attempt.address, error: error, now: self.loop.now)
            if let delay = self.redialDelay(of: attempt.address, after: error) {
                self.schedule.retry(attempt.address, due: self.loop.now + delay)
            } else {
                self.redials[attempt.address] = nil
                self.failures.append(DialAttempt(address: attempt.address, error: error))
                self.schedule.failed(now: self.loop.now)
            }
            self.pump()
        }
    }

    /// Counts one dial more of the address; nil if it has had enough.
    private func redialDelay(of address: Multiaddr, after error: any Error) -> TimeAmount? {
        guard let redial = self.options.redial else { return nil }
        let count = self.redials[address]?.count ?? 0
        guard count < redial.maximum else { return nil }
        self.redials[address] = (count + 1, error)
        let half = max(1, redial.delay.nanoseconds / 2)
        return .nanoseconds(half + Int64(self.host.configuration.randomNumber() % UInt64(2 * half)))
    }

    private func connectedByPeer() -> Connection? {
        self.host.connections(to: self.peer).first {
            $0.isOpen && !$0.isDraining && !(self.options.directOnly && $0.isRelayed)
        }
    }

    /// Asks once where else the peer may be.
    private func askRouting() -> Bool {
        guard !self.askedRouting, !self.options.onlyGivenAddresses, self.options.simultaneousOpen == nil,
            let routing = self.host.state.withLock({ $0.routing })
        else { return false }
        self.askedRouting = true
        self.lookups += 1
        routing.findAddresses(of: self.peer, on: self.loop).assumeIsolated().whenComplete { result in
            self.lookups -= 1
            if case .success(let found) = result {
                self.host.peers.add(found, to: self.peer, lifetime: .found)
                self.add(found)
            }
            self.pump()
        }
        return true
    }

    // MARK: End

    private func succeed(_ connection: Connection) {
        guard self.close() else { return }
        self.promise.succeed(connection)
    }

    private func finish(failure code: LibP2PError.Code) {
        for attempt in self.attempts {
            let error = LibP2PError(code: .timedOut, message: "no connection in time")
            self.failures.append(DialAttempt(address: attempt.address, error: error))
            self.redials[attempt.address] = nil
        }
        self.failures += self.redials.map { DialAttempt(address: $0.key, error: $0.value.error) }
        self.finish(LibP2PError(dialling: self.peer, code: code, attempts: self.failures))
    }

    private func finish(_ error: LibP2PError) {
        guard self.close() else { return }
        self.promise.fail(error)
    }

    private func close() -> Bool {
        guard !self.isDone else { return false }
        self.isDone = true
        self.timer?.cancel()
        self.deadline?.cancel()
        let attempts = self.attempts
        self.attempts = []
        for attempt in attempts {
            attempt.isOver = true
            attempt.timer?.cancel()
            attempt.channel?.close(promise: nil)
            if !attempt.address.isCircuit { self.host.returnDialSlot() }
        }
        return true
    }
}

extension Multiaddr {
    var startsWithName: Bool {
        switch self.components.first {
        case .dns, .dns4, .dns6, .dnsaddr: true
        default: false
        }
    }
}

extension TimeAmount {
    /// Whole seconds, rounded up.
    var seconds: Int64 { (self.nanoseconds + 999_999_999) / 1_000_000_000 }
}
