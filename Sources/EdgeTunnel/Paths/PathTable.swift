import LibP2P
import Logging
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import Synchronization

/// What is known of the way to each node, kept true by what happens to the host and by probes of peers in use.
///
/// Any thread may ask and use it; changes are made on one event loop of the host's, one after the other.
final class PathTable: Sendable {
    struct Configuration: Sendable {
        var record = NodeRecord.Configuration()
        var liveness = LivenessProbe.Configuration()
        /// For a node to be reached by any path, however long the caller waits for it.
        var dialTimeout: TimeAmount = .seconds(20)
        /// The same in the background, where the next try is not far: short, as a new try sends at once what the kernel would send
        /// again late, and now and then long enough for ways of many slow round trips.
        var redialTimeout: TimeAmount = .seconds(4)
        var longRedialTimeout: TimeAmount = .seconds(10)
        /// Of so many tries one is long.
        var triesToLongRedial = 3
        /// Nodes that are kept; beyond, idle ones are forgotten.
        var maximumNodes = 8192
        /// Nodes that are dialled anew at once.
        var maximumRedials = 32
        /// Idle nodes are forgotten after this.
        var forgetAfter: TimeAmount = .minutes(10)
        /// For how long peers are watched after the network has changed.
        var watchAfterChange: TimeAmount = .seconds(10)
        /// Between two times that the return of one node is taken for a hope of all that are down.
        var hopeInterval: TimeAmount = .seconds(10)
    }

    struct Counters: Sendable, Hashable {
        var probesSent: UInt64 = 0
        var probesLost: UInt64 = 0
        /// Connections that new flows avoided for a time, as their peers did not answer.
        var suspicions: UInt64 = 0
        /// Connections that were closed because nothing was heard.
        var connectionsGivenUp: UInt64 = 0
        var dials: UInt64 = 0
        var dialsFailed: UInt64 = 0
        var networkChanges: UInt64 = 0
        /// Nodes for which there was no room.
        var nodesRefused: UInt64 = 0
    }

    struct Entry {
        var record: NodeRecord
        var probes: [UInt64: LivenessProbe] = [:]
        /// Why its connection was given up.
        var lastWords: String?
        var watchUntil: NIODeadline?

        /// When it is to be looked at again; nil for whenever the others are.
        var wakeTime: NIODeadline? {
            self.probes.values.reduce(self.record.wakeTime) { min($0 ?? $1.wakeTime, $1.wakeTime) }
        }
    }

    struct State {
        var entries: [PeerID: Entry] = [:]
        var counters = Counters()
        var redials = 0
        var hopedAt: NIODeadline?
        var timer: Scheduled<Void>?
        /// Those that are down, as was told.
        var down: Set<PeerID> = []
        /// When the timer goes off.
        var due: NIODeadline?
        var isRunning = false
        var liveness: LivenessProbe.Configuration
    }

    /// What the table asks of the rest of the tunnel.
    struct Surroundings: Sendable {
        var isPunched: @Sendable (Connection) -> Bool = { _ in false }
        /// Flows that this node has opened to the peer, and those that the peer has opened to it.
        var flows: @Sendable (PeerID) -> (own: Int, others: Int) = { _ in (0, 0) }
        /// The best connection to the peer may be another one than before.
        var pathChanged: @Sendable (PeerID) -> Void = { _ in }
    }

    let configuration: Configuration
    let host: Host
    let naming: any PeerNaming
    let relays: RelayBook
    let surroundings: Surroundings
    let loop: any EventLoop
    let state: Mutex<State>
    private let unreachable: UnreachableNodes
    private let logger: Logger
    private let observation = Mutex<Observation?>(nil)

    init(
        host: Host,
        naming: any PeerNaming,
        relays: RelayBook,
        surroundings: Surroundings,
        unreachable: UnreachableNodes,
        configuration: Configuration,
        logger: Logger
    ) {
        self.host = host
        self.naming = naming
        self.relays = relays
        self.surroundings = surroundings
        self.unreachable = unreachable
        self.configuration = configuration
        self.logger = logger
        self.loop = host.group.next()
        self.state = Mutex(State(liveness: configuration.liveness))
    }

    // MARK: Life

    func start() {
        let observation = self.host.observe { [weak self] in self?.observe($0) }
        self.observation.withLock { $0 = observation }
        self.state.withLock { $0.isRunning = true }
        self.loop.execute { self.tick() }
    }

    func stop() {
        self.observation.withLock { $0.take() }?.cancel()
        let timer = self.state.withLock { state in
            state.isRunning = false
            return state.timer.take()
        }
        timer?.cancel()
        self.unreachable.set([])
    }

    /// For connections that are looked at from now on.
    func update(_ liveness: LivenessProbe.Configuration) { self.state.withLock { $0.liveness = liveness } }

    private func observe(_ event: HostEvent) {
        switch event {
        case .connected(let connection):
            self.loop.execute {
                self.suspectOthers(than: connection)
                self.refresh(connection.remotePeer)
            }
        case .disconnected(let connection, _), .identified(let connection, _):
            let peer = connection.remotePeer
            self.loop.execute { self.refresh(peer) }
        case .discovered(let found):
            self.loop.execute { self.hurry(found.peer) }
        default: break
        }
    }

    // MARK: Use

    /// Gives a connection to the node, if need be by dialling it. Completes on the connection's loop by `deadline`; fails with
    /// `TunnelError`.
    /// - Parameter loop: of the future if it fails before there is a connection.
    func connection(
        to node: String,
        _ peer: PeerID,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<Connection> {
        let now = self.loop.now
        let best = self.host.bestConnection(to: peer)
        let (problem, isNew) = self.state.withLock { state -> (String?, Bool) in
            guard self.admit(peer, in: &state, now: now) else { return (nil, false) }
            let isNew = state.entries[peer]?.probes.isEmpty == true
            state.entries[peer]?.record.used(now: now)
            return (best == nil ? state.entries[peer]?.record.freshFailure(now: now) : nil, isNew)
        }
        if let best {
            // It is looked after from now on.
            if isNew { self.loop.execute { self.tick() } }
            return best.eventLoop.makeSucceededFuture(best)
        }
        if let problem { return loop.makeFailedFuture(Self.noPath(node, problem)) }
        let dialled = self.dial(peer)
        let promise = dialled.eventLoop.makePromise(of: Connection.self)
        let timer = dialled.eventLoop.scheduleTask(deadline: deadline) {
            promise.fail(
                TunnelError(code: .timedOut, message: "node \(node) was not reached in time; it is still dialled")
            )
        }
        dialled.whenComplete { result in
            timer.cancel()
            promise.completeWith(
                result.mapError { error in
                    Self.noPath(node, DialSummary.text(error) { self.naming.node(of: $0) })
                }
            )
        }
        return promise.futureResult
    }

    private static func noPath(_ node: String, _ problem: String) -> TunnelError {
        TunnelError(code: .noPath, message: "there is no path to node \(node): \(problem)")
    }

    private func dial(_ peer: PeerID, isRedial: Bool = false) -> EventLoopFuture<Connection> {
        let now = self.loop.now
        let (isFirst, timeout) = self.state.withLock { state in
            let timeout = isRedial ? self.redialTimeout(state.entries[peer]?.record) : self.configuration.dialTimeout
            guard state.entries[peer]?.record.dialStarted(now: now) == true else { return (false, timeout) }
            state.counters.dials += 1
            if isRedial { state.redials += 1 }
            return (true, timeout)
        }
        let dialled: EventLoopFuture<Connection> = self.host.connect(
            to: peer,
            addresses: self.relays.circuits(to: peer, avoiding: self.suspectRelays(to: peer)),
            // The table has its own pace, and a node that comes back is to be found at once.
            options: DialOptions(ignoreBackoff: true, timeout: timeout)
        )
        guard isFirst else { return dialled }
        dialled.whenComplete { result in
            self.loop.execute {
                self.dialled(peer, result, isRedial: isRedial)
            }
        }
        // So that it counts as down in time.
        if self.loop.inEventLoop { self.schedule(peer) } else { self.loop.execute { self.schedule(peer) } }
        return dialled
    }

    private func redialTimeout(_ record: NodeRecord?) -> TimeAmount {
        let isLong = ((record?.failedDials ?? 0) + 1).isMultiple(of: self.configuration.triesToLongRedial)
        return isLong ? self.configuration.longRedialTimeout : self.configuration.redialTimeout
    }

    /// Those by which a peer was reached that does not answer: either of the two may be gone.
    private func suspectRelays(to peer: PeerID) -> Set<PeerID> {
        Set(self.host.connections(to: peer).filter(\.isSuspect).compactMap(\.remoteAddress.relay?.address.peerID))
    }

    private func dialled(_ peer: PeerID, _ result: Result<Connection, any Error>, isRedial: Bool) {
        let now = self.loop.now
        var generator = NumberSource(number: self.host.configuration.randomNumber)
        let summary: String? =
            switch result {
            case .success: nil
            case .failure(let error): DialSummary.text(error) { self.naming.node(of: $0) }
            }
        self.state.withLock { state in
            if isRedial { state.redials -= 1 }
            if let summary {
                state.counters.dialsFailed += 1
                state.entries[peer]?.record.dialFailed(summary, now: now, using: &generator)
            } else {
                state.entries[peer]?.record.dialSucceeded()
            }
        }
        self.refresh(peer)
    }

    // MARK: Changes, on the loop

    /// Looks anew at the connections to a peer.
    func refresh(_ peer: PeerID) {
        self.surroundings.pathChanged(peer)
        guard let node = self.naming.node(of: peer) else { return }
        let now = self.loop.now
        let kind = self.host.bestConnection(to: peer).map { self.kind(of: $0) }
        let change = self.state.withLock { state -> (before: NodePath.State, after: NodePath.State, wasDown: Bool)? in
            guard state.entries[peer] != nil || (kind != nil && self.admit(peer, in: &state, now: now)) else {
                return nil
            }
            let before = state.entries[peer]?.record.state ?? .idle
            if let kind {
                state.entries[peer]?.record.connected(kind, now: now)
            } else {
                let reason = state.entries[peer]?.lastWords ?? "the connection was lost"
                state.entries[peer]?.record.disconnected(reason, now: now)
                state.entries[peer]?.lastWords = nil
            }
            return (before, state.entries[peer]?.record.state ?? .idle, state.down.contains(peer))
        }
        guard let change else { return }
        if change.before != change.after {
            self.logger.debug("a path has changed", metadata: ["node": "\(node)", "state": "\(change.after)"])
        }
        if change.before == .down, change.after == .up { self.hope() }
        guard change.after == .up else { return self.tick(peer) }
        if change.wasDown { self.publish() }
    }

    /// One node is back: what kept it away may have kept away others, this node's own uplink first of all.
    private func hope() {
        let now = self.loop.now
        self.state.withLock { state in
            if let last = state.hopedAt, last + self.configuration.hopeInterval > now { return }
            state.hopedAt = now
            for peer in state.entries.keys { state.entries[peer]?.record.hurry(now: now) }
        }
        self.schedule()
    }

    func hurry(_ peer: PeerID) {
        let now = self.loop.now
        self.state.withLock { $0.entries[peer]?.record.hurry(now: now) }
        self.schedule(peer)
    }

    /// Nodes have become other peers, or are named that were not.
    func namesChanged(revoked: Set<PeerID>) {
        self.state.withLock { state in
            for peer in revoked { state.entries[peer] = nil }
        }
        for peer in revoked { self.host.disconnect(from: peer) }
        for peer in Set(self.host.connections.map(\.remotePeer)).subtracting(revoked) {
            guard self.state.withLock({ $0.entries[peer] == nil }) else { continue }
            self.refresh(peer)
        }
        self.publish()
    }

    /// Whether a connection's own address is not among those that the machine has. Link-local ones are not listed: liveness tells.
    static func isLost(_ address: Multiaddr, present: Set<IPAddress>) -> Bool {
        guard !address.isLinkLocal, let own = address.ipAddress else { return false }
        return !own.isLoopback && !present.contains(own)
    }

    /// Addresses or routes of this machine have changed: what was lost with them is given up, all else is looked at at once.
    /// - Parameter addresses: those that this machine has now.
    func networkChanged(_ addresses: Set<IPAddress>) {
        let now = self.loop.now
        self.state.withLock { $0.counters.networkChanges += 1 }
        let open = self.host.connections
        let lost = open.filter { !$0.isRelayed && Self.isLost($0.localAddress, present: addresses) }
        // Peers cannot be told, and circuits end with their relay's connection. Those that used this node wait for it: a new
        // connection shows them that the old one is dead.
        for connection in open where connection.isRelayed ? !lost.isEmpty : lost.contains(connection) {
            guard connection.streamCount > 0 || self.isWatched(connection) else { continue }
            self.state.withLock { $0.entries[connection.remotePeer]?.record.used(now: now) }
        }
        for connection in lost {
            self.giveUp(
                connection,
                "this node has lost its address \(connection.localAddress.ipAddress.map { "\($0)" } ?? "")"
            )
        }
        let relays = Set(self.relays.relays.map(\.peer))
        var away: [PeerID] = []
        self.state.withLock { state in
            for peer in state.entries.keys {
                guard let record = state.entries[peer]?.record else { continue }
                if record.state != .up { away.append(peer) }
                state.entries[peer]?.record.hurry(now: now)
                guard record.isUsed(now: now) || relays.contains(peer) || state.entries[peer]?.probes.isEmpty == false
                else { continue }
                state.entries[peer]?.watchUntil = now + self.configuration.watchAfterChange
                for id in (state.entries[peer]?.probes ?? [:]).keys {
                    state.entries[peer]?.probes[id]?.suspect(now: now)
                }
            }
        }
        for peer in away { self.host.clearBackoff(of: peer) }
        self.suspect(
            self.host.connections.filter { connection in
                self.state.withLock { $0.entries[connection.remotePeer]?.watchUntil != nil }
            }
        )
        self.tick()
    }

    /// A peer that connects anew may have lost what it had: its other connections are looked at at once.
    private func suspectOthers(than connection: Connection) {
        let peer = connection.remotePeer
        let others = self.host.connections(to: peer).filter { $0.id != connection.id && !$0.isDraining }
        guard !others.isEmpty else { return }
        let until = self.loop.now + self.configuration.watchAfterChange
        self.state.withLock { $0.entries[peer]?.watchUntil = until }
        self.suspect(others)
        self.tick(peer)
    }

    private func suspect(_ connections: [Connection]) {
        let now = self.loop.now
        for connection in connections where connection.isOpen {
            self.state.withLock { state in
                let peer = connection.remotePeer
                // Who is suspect already stays so.
                var probe = state.entries[peer]?.probes[connection.id] ?? LivenessProbe(state.liveness, now: now)
                probe.suspect(now: now)
                state.entries[peer]?.probes[connection.id] = probe
            }
        }
    }

    /// Whether its peer is asked for signs of life.
    private func isWatched(_ connection: Connection) -> Bool {
        self.state.withLock { $0.entries[connection.remotePeer]?.probes[connection.id] != nil }
    }

    func giveUp(_ connection: Connection, _ reason: String) {
        self.state.withLock { state in
            state.counters.connectionsGivenUp += 1
            state.entries[connection.remotePeer]?.lastWords = reason
            state.entries[connection.remotePeer]?.probes[connection.id] = nil
        }
        self.logger.info(
            "a connection is given up",
            metadata: [
                "peer-id": "\(connection.remotePeer)", "address": "\(connection.remoteAddress)", "reason": "\(reason)",
            ]
        )
        connection.close()
    }

    // MARK: Parts

    /// Whether the peer has an entry, made if there is room.
    private func admit(_ peer: PeerID, in state: inout State, now: NIODeadline) -> Bool {
        if state.entries[peer] != nil { return true }
        if state.entries.count >= self.configuration.maximumNodes {
            guard let idle = state.entries.first(where: { $0.value.record.state == .idle })?.key else {
                state.counters.nodesRefused += 1
                return false
            }
            state.entries[idle] = nil
        }
        state.entries[peer] = Entry(record: NodeRecord(self.configuration.record, now: now))
        return true
    }

    func kind(of connection: Connection) -> NodePath.Kind {
        if connection.isRelayed { return .relayed }
        return self.surroundings.isPunched(connection) ? .punched : .direct
    }

    func publish() {
        let down = self.state.withLock { state in
            state.down = Set(state.entries.filter { $0.value.record.state == .down }.keys)
            return state.down
        }
        self.unreachable.set(Set(down.compactMap { self.naming.node(of: $0) }))
    }

    func redial(_ peer: PeerID) { _ = self.dial(peer, isRedial: true) }
}

/// The host's random numbers as a generator.
struct NumberSource: RandomNumberGenerator {
    let number: @Sendable () -> UInt64

    mutating func next() -> UInt64 { self.number() }
}
