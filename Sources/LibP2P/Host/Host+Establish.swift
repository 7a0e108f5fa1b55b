import LibP2PSecurity
import Logging
public import Multiformats
public import NIOCore
import Synchronization
import Yamux

extension Host {
    /// Takes a connection that a listener has accepted, or that came about otherwise, such as a circuit that a relay has
    /// announced. On the event loop of its channel, before it reads. What is refused or fails is closed and counted.
    public func accept(_ raw: RawConnection) {
        raw.channel.eventLoop.preconditionInEventLoop()
        let isExpected: Bool
        do throws(LibP2PError) {
            isExpected = try self.state.withLock { state throws(LibP2PError) in
                guard state.phase == .running else { throw .shutDown }
                do throws(LibP2PError) {
                    try state.inboundHandshakes.admit(raw.remoteAddress)
                } catch {
                    state.metrics.connectionsRefused += 1
                    throw error
                }
                return state.expected.contains(raw.remoteAddress, now: raw.channel.eventLoop.now)
            }
        } catch {
            raw.channel.close(promise: nil)
            self.logRefusal(error, of: "a connection from \(raw.remoteAddress)")
            return
        }
        let deadline = raw.channel.eventLoop.now + self.configuration.handshakeTimeout
        self.establish(
            raw,
            direction: .inbound,
            role: .responder,
            patience: isExpected ? self.configuration.simultaneousOpen.acceptedPatience : nil,
            expectedPeer: nil,
            deadline: deadline
        ).whenComplete { result in
            self.state.withLock { state in
                state.inboundHandshakes.leave(raw.remoteAddress)
                switch result {
                case .success: state.metrics.connectionsAccepted += 1
                case .failure(let error): state.metrics.count(handshakeFailure: error)
                }
            }
            if case .failure(let error) = result {
                self.logRefusal(error, of: "a connection from \(raw.remoteAddress)")
            }
        }
    }

    /// Until `deadline`, connections may come from peers that this host dials at the same time (DCUtR). A SYN of theirs that meets
    /// a listener, instead of the socket that dials, makes a connection whose other side has dialled and may all the same be
    /// the responder: of such a connection this host becomes the initiator if the peer proposes nothing. Ports do not matter, as
    /// a NAT of the peer may choose another one for this host.
    public func expectConnections(from addresses: [Multiaddr], until deadline: NIODeadline) {
        let now = self.clock.now
        self.state.withLock { $0.expected.add(addresses.compactMap(\.ipAddress), until: deadline, now: now) }
    }

    /// Makes a raw connection one of the host's. On its loop, on which the future completes.
    func establish(
        _ raw: RawConnection,
        direction: Direction,
        role: ConnectionRole,
        patience: TimeAmount?,
        expectedPeer: PeerID?,
        deadline: NIODeadline
    ) -> EventLoopFuture<Connection> {
        let channel = raw.channel
        let loop = channel.eventLoop
        let handshake: UInt64
        do {
            handshake = try self.state.withLock { state throws(LibP2PError) in
                guard state.phase == .running else { throw .shutDown }
                try self.resources.withLock { usage throws(LibP2PError) in
                    try usage.addConnection(direction, with: raw.remoteAddress)
                }
                let id = state.nextHandshakeID
                state.nextHandshakeID += 1
                state.handshakes[id] = channel
                return id
            }
        } catch {
            channel.close(promise: nil)
            return loop.makeFailedFuture(error)
        }
        channel.closeFuture.whenComplete { _ in
            self.state.withLock { _ = $0.handshakes.removeValue(forKey: handshake) }
            self.resources.withLock { $0.removeConnection(direction, with: raw.remoteAddress) }
        }
        // The session exists before the connection does; no stream comes before that.
        let slot = ConnectionSlot()
        var events = YamuxEvents()
        events.goAwayReceived = { _ in slot.connection?.state.withLock { $0.isDraining = true } }
        events.received = { slot.connection?.heard() }
        events.sent = { slot.connection?.sent() }
        events.isTrusted = {
            slot.connection.map { self.connectionManager.isProtected($0.remotePeer) } ?? false
        }
        events.sessionClosed = { slot.connection?.sessionEnded($0) }
        events.roundTripMeasured = { time in slot.connection?.state.withLock { $0.roundTripTime = time } }
        return ConnectionUpgrade.run(
            raw,
            role: role,
            patience: patience,
            expectedPeer: expectedPeer,
            deadline: deadline,
            configuration: self.upgrade,
            events: events,
            inboundStream: { stream in
                guard let connection = slot.connection else { return loop.makeFailedFuture(LibP2PError.shutDown) }
                return connection.acceptStream(stream)
            }
        ).flatMapThrowing { result in
            do {
                let connection = try self.register(result, raw: raw, direction: direction, handshake: handshake)
                slot.connection = connection
                self.registered(connection)
                return connection
            } catch {
                channel.close(promise: nil)
                throw error
            }
        }.nonisolated()
    }

    private func register(
        _ upgraded: ConnectionUpgrade.Result,
        raw: RawConnection,
        direction: Direction,
        handshake: UInt64
    ) throws -> Connection {
        let peer = upgraded.peer.remotePeer
        guard peer != self.peerID else {
            throw LibP2PError(code: .selfDial, message: "\(raw.remoteAddress) is this host itself")
        }
        guard self.configuration.acceptPeer(peer, raw.remoteAddress) else {
            throw LibP2PError(code: .notAllowed, message: "\(peer) is not accepted by this host's configuration")
        }
        try self.resources.withLock { usage throws(LibP2PError) in try usage.assignConnection(direction, to: peer) }
        let id = self.state.withLock { state in
            defer { state.nextConnectionID += 1 }
            return state.nextConnectionID
        }
        let connection = Connection(
            id: id,
            peer: upgraded.peer,
            raw: raw,
            direction: direction,
            multiplexerName: upgraded.multiplexerName,
            multiplexer: upgraded.multiplexer,
            host: self
        )
        let isRunning = self.state.withLock { state in
            guard state.phase == .running, raw.channel.isActive else { return false }
            state.handshakes[handshake] = nil
            state.connections.insert(connection)
            return true
        }
        guard isRunning else {
            self.resources.withLock { $0.unassignConnection(direction, of: peer) }
            throw LibP2PError.shutDown
        }
        return connection
    }

    private func registered(_ connection: Connection) {
        self.peers.countConnection(1, of: connection.remotePeer)
        connection.closeFuture.whenComplete { _ in self.ended(connection) }
        self.logger.debug(
            "connected",
            metadata: [
                "peer-id": "\(connection.remotePeer)", "address": "\(connection.remoteAddress)",
                "direction": "\(connection.direction)", "security": "\(connection.securityProtocol)",
            ]
        )
        self.emit(.connected(connection))
        self.identify(connection)
    }

    private func ended(_ connection: Connection) {
        connection.state.withLock { $0.isClosed = true }
        self.resources.withLock { $0.unassignConnection(connection.direction, of: connection.remotePeer) }
        let left = self.state.withLock { $0.connections.remove(connection) }
        self.peers.countConnection(-1, of: connection.remotePeer)
        guard let left else { return }
        self.logger.debug("disconnected", metadata: ["peer-id": "\(connection.remotePeer)", "left": "\(left)"])
        self.emit(.disconnected(connection, remaining: left))
    }
}

/// Where a session finds its connection. Confined to the connection's loop.
private final class ConnectionSlot {
    // Weak: the connection holds the session, whose closures hold this.
    weak var connection: Connection?
}

extension HostMetrics {
    mutating func count(handshakeFailure error: any Error) {
        switch (error as? LibP2PError)?.code {
        case .limitExceeded: self.connectionsRefused += 1
        case .wrongPreSharedKey:
            self.wrongPreSharedKeys += 1
            self.handshakesFailed += 1
        default: self.handshakesFailed += 1
        }
    }
}
