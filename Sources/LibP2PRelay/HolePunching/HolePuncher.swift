import ByteStreams
public import LibP2P
import LibP2PSecurity
import Logging
import Multiformats
import NIOCore
import Synchronization

/// Replaces relayed connections by direct ones (DCUtR, libp2p/specs relay/DCUtR.md) over TCP.
///
/// Whoever is dialled through a relay begins: it dials the addresses at which the peer says it listens; then both sides
/// dial each other at the same moment from their listening ports, IPv6 and IPv4 at once. A direct connection is tested by a ping before new streams
/// leave the relayed one. May be used from any thread; each peer is dealt with on the loop of its relayed connection.
public final class HolePuncher: Sendable {
    public static let protocolID: ProtocolID = "/libp2p/dcutr"

    /// How far a relayed connection has been dealt with.
    private enum Progress { case dialled, done }

    /// A peer that is being dealt with.
    private struct Run {
        let id: UInt64
        let isAnswer: Bool
        let started: NIODeadline
        /// Completed by whichever direct connection to the peer comes first.
        var promise: EventLoopPromise<Connection>?
    }

    private struct State {
        var observation: Observation?
        var running: [PeerID: Run] = [:]
        var nextRun: UInt64 = 0
        var progress: [UInt64: Progress] = [:]
        /// Connections that simultaneous dials have made.
        var punched: Set<UInt64> = []
        var metrics = HolePunchMetrics()
    }

    private let host: Host
    private let observed: ObservedAddresses?
    private let configuration: HolePunchConfiguration
    private let state = Mutex(State())

    /// - Parameter observed: tells how this host looks from outside; without it only advertised addresses are offered.
    public init(
        host: Host,
        observed: ObservedAddresses? = nil,
        configuration: HolePunchConfiguration = HolePunchConfiguration()
    ) {
        self.host = host
        self.observed = observed
        self.configuration = configuration
    }

    public func start() {
        let bounds = HandlerOptions.Bounds(streams: 2 * self.configuration.maximumConcurrent, perPeer: 4)
        let options = HandlerOptions(allowLimitedConnection: true, bounds: bounds)
        self.host.handle(Self.protocolID, options: options) { [weak self] stream in
            let loop = stream.channel.eventLoop
            guard let self else {
                return loop.makeFailedFuture(LibP2PRelayError(code: .unexpected, message: "hole punching has ended"))
            }
            return loop.runTask { try await self.answer(stream) }
        }
        let observation = self.host.observe { [weak self] in self?.observe($0) }
        self.state.withLock { $0.observation = observation }
    }

    public func stop() {
        self.host.stopHandling(Self.protocolID)
        self.state.withLock { $0.observation }?.cancel()
    }

    public var metrics: HolePunchMetrics {
        self.state.withLock { state in
            var metrics = state.metrics
            metrics.running = state.running.count
            return metrics
        }
    }

    /// Whether the connection came about by simultaneous dials; false once it is closed.
    public func isPunched(_ connection: Connection) -> Bool {
        self.state.withLock { $0.punched.contains(connection.id) }
    }

    // MARK: Events

    private func observe(_ event: HostEvent) {
        switch event {
        case .identified(let connection, let identification):
            guard connection.direction == .inbound, connection.isRelayed, let run = self.begin(connection) else {
                return
            }
            connection.eventLoop.runTask { await self.upgrade(connection, identification, run) }.whenComplete { _ in }
        case .connected(let connection) where !connection.isRelayed:
            let promise = self.state.withLock { $0.running[connection.remotePeer]?.promise }
            promise?.succeed(connection)
        case .disconnected(let connection, _):
            self.state.withLock { state in
                state.progress[connection.id] = nil
                state.punched.remove(connection.id)
            }
        default: break
        }
    }

    private func begin(_ connection: Connection) -> UInt64? {
        guard self.directConnection(to: connection.remotePeer) == nil, connection.isOpen else { return nil }
        return self.state.withLock { state in
            guard state.progress[connection.id] != .done,
                let run = self.run(connection, isAnswer: false, in: &state)
            else { return nil }
            if state.progress[connection.id] == nil { state.metrics.started += 1 }
            return run
        }
    }

    private func run(_ connection: Connection, isAnswer: Bool, in state: inout State) -> UInt64? {
        let now = connection.eventLoop.now
        if let run = state.running[connection.remotePeer] {
            // The peer has given up a try a moment before this host has, and begins the next.
            let isOver = run.started + .nanoseconds(self.configuration.punchTimeout.nanoseconds / 2) <= now
            guard isAnswer, run.isAnswer, isOver else { return nil }
        } else if state.running.count >= self.configuration.maximumConcurrent {
            state.metrics.refused += 1
            return nil
        }
        state.nextRun += 1
        state.running[connection.remotePeer] = Run(id: state.nextRun, isAnswer: isAnswer, started: now)
        return state.nextRun
    }

    private func end(_ run: UInt64, of peer: PeerID) {
        self.state.withLock { state in
            if state.running[peer]?.id == run { state.running[peer] = nil }
        }
    }

    // MARK: The side that begins

    private func upgrade(_ relayed: Connection, _ identification: Identification, _ run: UInt64) async {
        let peer = relayed.remotePeer
        defer { self.end(run, of: peer) }
        do {
            let direct = try await self.makeDirect(relayed, identification, run)
            _ = try await direct.ping(timeout: self.configuration.punchTimeout).get()
            self.host.logger.info(
                "a direct connection replaces a relayed one",
                metadata: ["peer-id": "\(peer)", "address": "\(direct.remoteAddress)"]
            )
            guard let drain = self.configuration.drainTimeout else { return }
            for connection in self.host.connections(to: peer) where connection.isRelayed {
                connection.eventLoop.scheduleTask(in: self.configuration.drainDelay) {
                    connection.close(drainUntil: connection.eventLoop.now + drain)
                }
            }
        } catch {
            self.host.logger.debug(
                "no direct connection",
                metadata: ["peer-id": "\(peer)", "relay": "\(relayed.remoteAddress)", "error": "\(error)"]
            )
        }
    }

    private func makeDirect(
        _ relayed: Connection,
        _ identification: Identification,
        _ run: UInt64
    ) async throws -> Connection {
        let told = self.choose(identification.listenAddresses)
        if !told.isEmpty, self.markDialled(relayed), let direct = await self.dial(relayed.remotePeer, told) {
            self.state.withLock { state in
                state.metrics.dialled += 1
                state.progress[relayed.id] = .done
            }
            return direct
        }
        guard identification.protocols.contains(Self.protocolID) else {
            // It may say so later, when it knows its own address.
            throw LibP2PRelayError(
                code: .holePunchFailed,
                message: "\(relayed.remotePeer) cannot be dialled and does not speak \(Self.protocolID)"
            )
        }
        self.state.withLock { $0.progress[relayed.id] = relayed.isOpen ? .done : nil }
        var failure: (any Error)?
        let loop = relayed.eventLoop
        for number in 0..<self.configuration.tries {
            let began = loop.now
            do {
                let direct = try await self.punch(relayed, run, identification)
                self.state.withLock { $0.metrics.punched += 1 }
                self.configuration.punched?(direct)
                return direct
            } catch {
                failure = error
            }
            guard relayed.isOpen else { break }
            // Refused at once, by a peer that is still busy with a hole to where this host was before: not for long.
            let rest = began + .nanoseconds(self.configuration.punchTimeout.nanoseconds / 2) - loop.now
            if rest > .zero, number + 1 < self.configuration.tries {
                try await loop.scheduleTask(in: rest) {}.futureResult.get()
            }
        }
        self.state.withLock { $0.metrics.failed += 1 }
        throw LibP2PRelayError(
            code: .holePunchFailed,
            message: "no hole to \(relayed.remotePeer) in \(self.configuration.tries) tries",
            cause: failure
        )
    }

    /// By the specification, who begins the exchange is the server of the connection. Towards peers that likely have the roles
    /// reversed this side is the server whoever begins, as only their names tell: should they be it as well, it becomes the client
    /// (`SimultaneousOpenConfiguration`), whereas two clients would fail, and leave their ports to TIME_WAIT.
    private func role(_ role: HolePunchExchange.Role, with peer: Identification?) -> (ConnectionRole, isCertain: Bool) {
        let isReversed = peer.map { self.configuration.hasReversedRoles($0) } ?? false
        return (role == .initiator || isReversed ? .responder : .initiator, isCertain: !isReversed)
    }

    /// False if the peer's own addresses were dialled before, for this relayed connection.
    private func markDialled(_ relayed: Connection) -> Bool {
        self.state.withLock { state in
            guard state.progress[relayed.id] == nil else { return false }
            if relayed.isOpen { state.progress[relayed.id] = .dialled }
            return true
        }
    }

    private func dial(_ peer: PeerID, _ addresses: [Multiaddr]) async -> Connection? {
        let options = DialOptions(
            reuse: .direct,
            onlyGivenAddresses: true,
            directOnly: true,
            // From any other port: what this dial left in NATs would spoil the hole that is punched later.
            reusePort: false,
            timeout: self.configuration.directDialTimeout
        )
        return try? await self.host.connect(to: peer, addresses: addresses, options: options)
    }

    /// One try, from the first message to the connection.
    private func punch(
        _ relayed: Connection,
        _ run: UInt64,
        _ peer: Identification
    ) async throws -> Connection {
        let options = OpenStreamOptions(allowLimitedConnection: true, timeout: self.configuration.exchangeTimeout)
        let stream = try await relayed.openStream(protocols: [Self.protocolID], options: options).get()
        var exchange = self.exchange(.initiator)
        let messages = try self.messages(on: stream)
        do {
            let loop = relayed.eventLoop
            messages.send(exchange.start(now: loop.now).encoded)
            let answer = try HolePunchMessage(try await messages.receive().get())
            let reaction = try exchange.receive(answer, now: loop.now)
            if let reply = reaction.reply { messages.send(reply.encoded) }
            messages.finish()
            guard let punch = reaction.punch else {
                throw LibP2PRelayError(code: .unexpected, message: "the exchange ended without addresses")
            }
            self.expect(punch.addresses, from: loop.now + punch.pause)
            try await loop.scheduleTask(in: punch.pause) {}.futureResult.get()
            return try await self.open(punch, relayed, run, self.role(.initiator, with: peer))
        } catch {
            messages.reset()
            throw error
        }
    }

    // MARK: The side that answers

    private func answer(_ stream: InboundStream) async throws {
        let relayed = stream.connection
        guard relayed.isRelayed, relayed.direction == .outbound else {
            throw LibP2PRelayError(
                code: .unexpected,
                message:
                    "\(relayed.remotePeer) asks for a hole punch on a connection that this host did not dial by a relay"
            )
        }
        let peer = relayed.remotePeer
        let admitted = self.state.withLock { state in
            let run = self.run(relayed, isAnswer: true, in: &state)
            if run != nil { state.metrics.answered += 1 }
            return run
        }
        guard let run = admitted else {
            throw LibP2PRelayError(code: .resourceLimitExceeded, message: "too many holes are being punched")
        }
        defer { self.end(run, of: peer) }
        let loop = relayed.eventLoop
        var exchange = self.exchange(.responder)
        let messages = try self.messages(on: stream)
        do {
            while true {
                let message = try HolePunchMessage(try await messages.receive().get())
                let reaction = try exchange.receive(message, now: loop.now)
                if let reply = reaction.reply { messages.send(reply.encoded) }
                self.expect(exchange.remoteAddresses, from: loop.now)
                guard let punch = reaction.punch else { continue }
                messages.finish()
                let role = self.role(.responder, with: relayed.identification)
                let direct = try await self.open(punch, relayed, run, role)
                self.configuration.punched?(direct)
                return
            }
        } catch {
            messages.reset()
            throw error
        }
    }

    // MARK: Both

    private func exchange(_ role: HolePunchExchange.Role) -> HolePunchExchange {
        let seen = self.configuration.candidates?() ?? self.observed?.candidates ?? []
        let own = seen + self.host.advertisedAddresses
        return HolePunchExchange(role: role, ownAddresses: self.choose(own)) { self.choose($0) }
    }

    private func messages(on stream: NegotiatedStream) throws -> MessageStream {
        try MessageStream(
            stream,
            maximumLength: HolePunchMessage.maximumLength,
            timeout: self.configuration.exchangeTimeout
        )
    }

    private func choose(_ addresses: [Multiaddr]) -> [Multiaddr] {
        HolePunchAddresses.choose(
            addresses,
            reaches: self.configuration.reaches,
            maximum: self.configuration.maximumAddresses
        )
    }

    private func directConnection(to peer: PeerID) -> Connection? {
        self.host.connections(to: peer).first { !$0.isRelayed && $0.takesStreams }
    }

    /// The peer's SYN may come as soon as it knows this host's addresses, and at any time until it gives up.
    private func expect(_ addresses: [Multiaddr], from time: NIODeadline) {
        let deadline = time + self.configuration.punchTimeout + self.configuration.punchTimeout
        self.host.expectConnections(from: addresses, until: deadline)
    }

    /// Dials at once, and takes whichever direct connection comes first, be it the peer's.
    private func open(
        _ punch: HolePunchExchange.Punch,
        _ relayed: Connection,
        _ run: UInt64,
        _ role: (role: ConnectionRole, isCertain: Bool)
    ) async throws -> Connection {
        let peer = relayed.remotePeer
        let loop = relayed.eventLoop
        let promise = loop.makePromise(of: Connection.self)
        self.state.withLock { state in
            if state.running[peer]?.id == run { state.running[peer]?.promise = promise }
        }
        if let direct = self.directConnection(to: peer) { promise.succeed(direct) }
        let options = DialOptions(
            reuse: .never,
            onlyGivenAddresses: true,
            directOnly: true,
            reusePort: true,
            simultaneousOpen: role.role,
            // The way by the relay is hardly the shorter one.
            patience: role.isCertain
                ? nil : self.configuration.reversedPatience + punch.roundTripTime + punch.roundTripTime,
            ignoreBackoff: true,
            redial: .init(delay: self.configuration.redialDelay, maximum: self.configuration.maximumRedials),
            timeout: self.configuration.punchTimeout,
            eventLoop: loop
        )
        let dialled: EventLoopFuture<Connection> =
            self.host.connect(to: peer, addresses: punch.addresses, options: options)
        dialled.flatMapErrorThrowing { error in
            guard let direct = self.directConnection(to: peer) else { throw error }
            return direct
        }.cascade(to: promise)
        let direct = try await promise.futureResult.get()
        self.state.withLock { _ = $0.punched.insert(direct.id) }
        // Its end may have been told before.
        if !direct.isOpen { self.state.withLock { _ = $0.punched.remove(direct.id) } }
        return direct
    }
}

extension EventLoop {
    /// Runs a task on this loop's thread.
    func runTask<Result: Sendable>(
        _ body: @escaping @Sendable () async throws -> Result
    ) -> EventLoopFuture<Result> {
        let promise = self.makePromise(of: Result.self)
        Task(executorPreference: LoopTaskExecutor(self)) {
            do { promise.succeed(try await body()) } catch { promise.fail(error) }
        }
        return promise.futureResult
    }
}
