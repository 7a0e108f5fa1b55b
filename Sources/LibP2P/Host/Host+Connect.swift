import DequeModule
import LibP2PSecurity
public import Multiformats
public import NIOCore
import Synchronization

extension Host {
    /// Gives a connection to the peer: one that is open, or a new one by `addresses` and those that are known. Who asks for a
    /// peer that is being dialled joins that dial. The future completes on the connection's event loop.
    ///
    /// Fails with `LibP2PError`, whose `attempts` tell why each address failed.
    public func connect(
        to peer: PeerID,
        addresses: [Multiaddr] = [],
        options: DialOptions = DialOptions()
    ) -> EventLoopFuture<Connection> {
        guard peer != self.peerID else {
            return self.clock.makeFailedFuture(LibP2PError(code: .selfDial, message: "\(peer) is this host itself"))
        }
        if !options.onlyGivenAddresses, !addresses.isEmpty { self.peers.add(addresses, to: peer, lifetime: .temporary) }
        let isJoinable =
            options.reuse != .never && !options.onlyGivenAddresses && options.simultaneousOpen == nil
            && options.eventLoop == nil
        let key = HostState.DialKey(peer: peer, directOnly: options.directOnly || options.reuse == .direct)
        if options.reuse != .never, let connection = self.connection(to: peer, directOnly: options.reuse == .direct) {
            return connection.eventLoop.makeSucceededFuture(connection)
        }
        // Made before it is known whether they are needed, as nothing is called under the lock.
        let loop = options.eventLoop ?? self.loop(of: addresses + self.peers.addresses(of: peer)) ?? self.group.next()
        let promise = loop.makePromise(of: Connection.self)
        let box = NIOLoopBoundBox<PeerDial?>.makeEmptyBox(valueType: PeerDial.self, eventLoop: loop)

        enum Step {
            case use(Connection)
            case join(HostState.RunningDial)
            case start(UInt64)
            case refuse(LibP2PError)
        }
        let step = self.state.withLock { state -> Step in
            guard state.phase == .running else { return .refuse(.shutDown) }
            if options.reuse != .never,
                let best = state.connections.best(to: peer, allowLimited: true, directOnly: options.reuse == .direct)
            {
                return .use(best)
            }
            if isJoinable, let running = state.dials[key].flatMap({ state.allDials[$0] }) {
                state.metrics.dialsJoined += 1
                return .join(running)
            }
            let id = state.nextDialID
            state.nextDialID += 1
            state.allDials[id] = HostState.RunningDial(future: promise.futureResult, dial: box, loop: loop)
            if isJoinable { state.dials[key] = id }
            state.metrics.dialsStarted += 1
            return .start(id)
        }
        switch step {
        case .use(let connection):
            promise.fail(LibP2PError.shutDown)
            return connection.eventLoop.makeSucceededFuture(connection)
        case .join(let running):
            promise.fail(LibP2PError.shutDown)
            running.loop.execute {
                running.dial.value?.add(addresses)
                running.dial.value?.pump()
            }
            return running.future
        case .refuse(let error):
            promise.fail(error)
        case .start(let id):
            promise.futureResult.whenComplete { result in
                box.value = nil
                self.state.withLock { state in
                    state.allDials[id] = nil
                    if state.dials[key] == id { state.dials[key] = nil }
                    if case .failure = result {
                        state.metrics.dialsFailed += 1
                    } else {
                        state.metrics.connectionsDialled += 1
                    }
                }
            }
            loop.execute {
                // A shutdown that came in between did not find the dial yet.
                guard self.state.withLock({ $0.phase == .running }) else { return promise.fail(LibP2PError.shutDown) }
                let dial = PeerDial(
                    host: self,
                    id: id,
                    peer: peer,
                    given: addresses,
                    options: options,
                    loop: loop,
                    promise: promise
                )
                box.value = dial
                dial.start()
            }
        }
        return promise.futureResult
    }

    public func connect(
        to peer: PeerID,
        addresses: [Multiaddr] = [],
        options: DialOptions = DialOptions()
    ) async throws -> Connection {
        let future: EventLoopFuture<Connection> = self.connect(to: peer, addresses: addresses, options: options)
        return try await future.get()
    }

    /// Connects to the peer that ends the address (`…/p2p/PEER`).
    public func connect(to address: Multiaddr, options: DialOptions = DialOptions()) async throws -> Connection {
        guard let peer = address.peerID else {
            throw LibP2PError(code: .noAddresses, message: "\(address) does not end in /p2p/ and a peer ID")
        }
        return try await self.connect(to: peer, addresses: [address], options: options)
    }

    /// Forgets which addresses of a peer have failed, as when the network has changed.
    public func clearBackoff(of peer: PeerID) {
        self.state.withLock { $0.backoff.clear(peer) }
    }

    // MARK: For dials

    /// One that a new stream may take.
    private func connection(to peer: PeerID, directOnly: Bool) -> Connection? {
        self.state.withLock { state in
            guard state.phase == .running else { return nil }
            return state.connections.best(to: peer, allowLimited: true, directOnly: directOnly)
        }
    }

    /// Where a circuit that `addresses` lead through will live: on the loop of the connection to its relay. Without one, on
    /// a loop that is the relay's own, so that the circuits of many dials share one connection.
    private func loop(of addresses: [Multiaddr]) -> (any EventLoop)? {
        let relays = addresses.compactMap { $0.relay?.address.peerID }
        guard let first = relays.first else { return nil }
        for relay in relays {
            let connection = self.state.withLock {
                $0.connections.best(to: relay, allowLimited: false, directOnly: true)
            }
            if let connection { return connection.eventLoop }
        }
        let loops = Array(self.group.makeIterator())
        return loops[Int(first.bytes.last ?? 0) % loops.count]
    }

    func transport(for address: Multiaddr) -> (any Transport)? {
        self.state.withLock { $0.transports }.first { $0.canDial(address) }
    }

    func backoff(of peer: PeerID, _ address: Multiaddr, now: NIODeadline) -> TimeAmount? {
        self.state.withLock { $0.backoff.remaining(peer, address, now: now) }
    }

    /// Notes how the dial of an address has ended.
    func dialled(_ peer: PeerID, _ address: Multiaddr, error: (any Error)?, now: NIODeadline) {
        self.state.withLock { state in
            if let error {
                state.metrics.addressesFailed += 1
                state.backoff.failed(peer, address, now: now)
                if (error as? LibP2PError)?.code == .wrongPreSharedKey { state.metrics.wrongPreSharedKeys += 1 }
            } else {
                state.backoff.succeeded(peer, address)
            }
        }
    }

    /// Takes one of the slots for addresses in dial; a dial that gets none is called when one is free.
    func takeDialSlot(_ id: UInt64) -> Bool {
        self.state.withLock { state in
            guard state.addressesInDial < self.configuration.dial.maximum else {
                if !state.dialsWaiting.contains(id) { state.dialsWaiting.append(id) }
                return false
            }
            state.addressesInDial += 1
            state.metrics.addressesDialled += 1
            return true
        }
    }

    func returnDialSlot() {
        self.state.withLock { $0.addressesInDial -= 1 }
        self.wakeWaitingDial()
    }

    private func wakeWaitingDial() {
        let next = self.state.withLock { state -> HostState.RunningDial? in
            while let id = state.dialsWaiting.popFirst() {
                if let dial = state.allDials[id] { return dial }
            }
            return nil
        }
        guard let next else { return }
        next.loop.execute {
            // It may have ended on its way: the slot is another's then.
            if let dial = next.dial.value { dial.pump() } else { self.wakeWaitingDial() }
        }
    }
}

/// Why one address of a peer could not be used.
public struct DialAttempt: Sendable {
    public let address: Multiaddr
    public let error: any Error

    public init(address: Multiaddr, error: any Error) {
        self.address = address
        self.error = error
    }
}

extension LibP2PError {
    /// A dial that has failed by all addresses. Where all have failed for one reason, that is the error's.
    init(dialling peer: PeerID, code: Code, attempts: [DialAttempt]) {
        var code = code
        let codes = Set(attempts.map { ($0.error as? LibP2PError)?.code })
        if attempts.isEmpty {
            if code == .dialFailed { code = .noAddresses }
        } else if codes.count == 1, let only = codes.first, let only {
            code = only
        }
        let reasons = attempts.map { "\($0.address): \($0.error)" }.joined(separator: "; ")
        self.init(
            code: code,
            message: attempts.isEmpty ? "no address of \(peer) is known" : "cannot reach \(peer): \(reasons)"
        )
        self.attempts = attempts
    }
}
