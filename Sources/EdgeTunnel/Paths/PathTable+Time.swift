import LibP2P
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import Synchronization

extension PathTable {
    /// What a look at all nodes has found to be done.
    private struct Work {
        var dials: [PeerID] = []
        var pings: [Connection] = []
        var dead: [Connection] = []
        /// Whether one is down that was not when it was told last, or the other way round.
        var isNews = false
        /// Whose peers came under suspicion, or are beyond it.
        var judged: [(connection: Connection, isSuspect: Bool)] = []
    }

    /// Looks at nodes: whom to dial, whom to ask for a sign of life, whom to give up. On the loop.
    /// - Parameter only: the one with which something has happened; a relay has too many to look at all whenever one comes or goes.
    func tick(_ only: PeerID? = nil) {
        let open = (only.map { self.host.connections(to: $0) } ?? self.host.connections).filter(\.isOpen)
        let connections = Dictionary(grouping: open, by: \.remotePeer)
        let peers = self.state.withLock { state -> [PeerID] in
            guard state.isRunning else { return [] }
            return only.map { [$0] } ?? Array(state.entries.keys)
        }
        let flows = Dictionary(peers.map { ($0, self.surroundings.flows($0)) }, uniquingKeysWith: { first, _ in first })
        let now = self.loop.now
        let work = self.state.withLock { state in
            var work = Work()
            for peer in peers {
                guard var entry = state.entries[peer] else { continue }
                let open = connections[peer] ?? []
                if flows[peer]?.own ?? 0 > 0 { entry.record.used(now: now) }
                if entry.record.wake(now: now), state.redials + work.dials.count < self.configuration.maximumRedials {
                    work.dials.append(peer)
                }
                if let until = entry.watchUntil, until <= now { entry.watchUntil = nil }
                let isWatched =
                    entry.record.isUsed(now: now) || entry.watchUntil != nil || flows[peer]?.others ?? 0 > 0
                    || open.contains { $0.streamCount > 0 }
                self.probe(open, isWatched ? state.liveness : nil, &entry, &work, now)
                let isForgotten =
                    open.isEmpty && entry.record.state == .idle
                    && entry.record.since + self.configuration.forgetAfter <= now
                state.entries[peer] = isForgotten ? nil : entry
                if state.down.contains(peer) != (entry.record.state == .down) { work.isNews = true }
            }
            state.counters.probesSent += UInt64(work.pings.count)
            return work
        }
        for connection in work.dead {
            self.giveUp(connection, "the peer gave no sign of life when it was asked")
        }
        for connection in work.pings { self.ping(connection) }
        for peer in work.dials { self.redial(peer) }
        for judged in work.judged { self.judge(judged.connection, isSuspect: judged.isSuspect) }
        if work.isNews || only == nil { self.publish() }
        self.schedule(only)
    }

    private func probe(
        _ open: [Connection],
        _ liveness: LivenessProbe.Configuration?,
        _ entry: inout Entry,
        _ work: inout Work,
        _ now: NIODeadline
    ) {
        guard let liveness else {
            entry.probes = [:]
            work.judged += open.filter(\.isSuspect).map { ($0, false) }
            return
        }
        let ids = Set(open.map(\.id))
        entry.probes = entry.probes.filter { ids.contains($0.key) }
        for connection in open {
            var probe = entry.probes[connection.id] ?? LivenessProbe(liveness, now: now)
            let signs = LivenessProbe.Signs(
                heard: connection.lastHeard,
                sent: connection.lastSent,
                roundTrip: connection.roundTripTime
            )
            switch probe.look(signs, now: now) {
            case .wait: break
            case .ping: work.pings.append(connection)
            case .dead: work.dead.append(connection)
            }
            if probe.isSuspect != connection.isSuspect { work.judged.append((connection, probe.isSuspect)) }
            entry.probes[connection.id] = probe
        }
    }

    /// New flows avoid a connection whose peer does not answer; the open ones wait until it does, or is given up.
    private func judge(_ connection: Connection, isSuspect: Bool) {
        let peer = connection.remotePeer
        connection.suspect(isSuspect)
        self.state.withLock { state in
            if isSuspect {
                state.counters.suspicions += 1
                state.entries[peer]?.lastWords = "the peer gave no sign of life when it was asked"
            }
        }
        self.refresh(peer)
    }

    private func ping(_ connection: Connection) {
        let timeout = self.state.withLock { $0.liveness.timeout }
        connection.ping(timeout: timeout).whenComplete { result in
            let isAnswered = if case .success = result { true } else { false }
            // A connection that ends takes its ping with it, which says nothing of the path.
            guard isAnswered || connection.isOpen else { return }
            self.state.withLock { state in
                if !isAnswered { state.counters.probesLost += 1 }
                state.entries[connection.remotePeer]?.record.probed(isAnswered: isAnswered)
            }
            if isAnswered, connection.isSuspect { self.loop.execute { self.tick(connection.remotePeer) } }
        }
    }

    /// Sets the timer for the next look at all. On the loop.
    /// - Parameter only: the one that may have to be looked at earlier than before.
    func schedule(_ only: PeerID? = nil) {
        let now = self.loop.now
        let due = self.state.withLock { state -> NIODeadline? in
            guard state.isRunning else { return nil }
            // Dials that wait for room must not make it spin.
            let soonest = now + .milliseconds(50)
            if let only, let known = state.due {
                guard let entry = state.entries[only] else { return nil }
                // Whoever is looked after may be sent something at any time.
                let latest = entry.probes.isEmpty ? known : now + state.liveness.interval
                let due = max(min(entry.wakeTime ?? latest, latest), soonest)
                guard due < known else { return nil }
                state.due = due
            } else {
                // Where nobody is looked after, there is little to see.
                let isWatching = state.entries.values.contains { !$0.probes.isEmpty }
                let last = now + (isWatching ? state.liveness.interval : state.liveness.quiet)
                let next = state.entries.values.reduce(last) { min($0, $1.wakeTime ?? $0) }
                state.due = max(next, soonest)
            }
            return state.due
        }
        guard let due else { return }
        let timer = self.loop.scheduleTask(deadline: due) { [weak self] () -> Void in self?.tick() }
        let before = self.state.withLock { state in
            let before = state.timer
            state.timer = timer
            return before
        }
        before?.cancel()
    }

    // MARK: For status

    var counters: Counters { self.state.withLock { $0.counters } }

    /// What is known of each node that was connected or asked for, by its name.
    var paths: [String: NodePath] {
        let records = self.state.withLock { state in state.entries.mapValues(\.record) }
        var paths: [String: NodePath] = [:]
        for (peer, record) in records {
            guard let node = self.naming.node(of: peer) else { continue }
            paths[node] = self.path(to: peer, record, over: self.host.bestConnection(to: peer))
        }
        return paths
    }

    /// The way to the node at the other end of a connection, by this connection.
    func path(over connection: Connection) -> NodePath {
        let peer = connection.remotePeer
        let record = self.state.withLock { $0.entries[peer]?.record }
        return self.path(
            to: peer,
            record ?? NodeRecord(self.configuration.record, now: self.loop.now),
            over: connection
        )
    }

    private func path(to peer: PeerID, _ record: NodeRecord, over connection: Connection?) -> NodePath {
        var path = NodePath(state: record.state, peer: peer.description, since: MonotonicTime(record.since))
        path.problem = record.state == .up ? nil : record.problem
        path.loss = record.loss
        let flows = self.surroundings.flows(peer)
        path.flows = flows.own + flows.others
        guard let best = connection else { return path }
        path.kind = self.kind(of: best)
        path.remoteAddress = best.remoteAddress.description
        path.roundTripTime = best.roundTripTime.map { .nanoseconds($0.nanoseconds) }
        if let relay = best.remoteAddress.relay?.address.peerID {
            path.relay = self.naming.node(of: relay) ?? relay.description
        }
        if let protocols = best.identification?.protocols {
            path.agent =
                protocols.contains(TunnelProtocol.flow)
                ? .edgemesh : protocols.contains(TunnelProtocol.proxy) ? .original : .unknown
        }
        return path
    }
}

extension MonotonicTime {
    /// NIO's deadlines are of the same clock; of a simulated loop, of its own.
    init(_ deadline: NIODeadline) {
        self.init(nanoseconds: deadline.uptimeNanoseconds)
    }
}

extension TimeAmount {
    var inSeconds: Double { Double(self.nanoseconds) / 1e9 }
}
