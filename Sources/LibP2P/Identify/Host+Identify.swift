import Logging
import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Synchronization

extension Host {
    func handleIdentify() {
        let options = HandlerOptions(allowLimitedConnection: true)
        self.handle(.identify, options: options) { stream in
            let connection = stream.connection
            if let refusal = connection.takeIdentify() { return stream.channel.eventLoop.makeFailedFuture(refusal) }
            return connection.host.sendIdentify(on: stream)
        }
        self.handle(.identifyPush, options: options) { stream in
            let connection = stream.connection
            if let refusal = connection.takeIdentify() { return stream.channel.eventLoop.makeFailedFuture(refusal) }
            return connection.host.receive(stream).map { message in
                connection.host.apply(message, of: connection, isPush: true)
            }
        }
    }

    /// Asks the peer of a new connection who it is. Its failure is told, and does no harm to the connection.
    func identify(_ connection: Connection) {
        connection.openStream(
            protocols: [.identify],
            options: OpenStreamOptions(allowLimitedConnection: true, timeout: self.configuration.identifyTimeout)
        ).flatMap { stream in
            self.receive(stream)
        }.whenComplete { result in
            switch result {
            case .success(let message): self.apply(message, of: connection, isPush: false)
            case .failure(let error):
                guard connection.isOpen else { return }
                self.state.withLock { $0.metrics.identifiesFailed += 1 }
                let failure =
                    error as? LibP2PError
                    ?? LibP2PError(
                        code: .connectionClosed,
                        message: "identify with \(connection.remotePeer) has failed",
                        cause: error
                    )
                self.emit(.identifyFailed(connection, failure))
            }
        }
    }

    private func receive(_ stream: NegotiatedStream) -> EventLoopFuture<IdentifyMessage> {
        CollectingHandler.collect(
            stream,
            maximum: IdentifyMessage.maximumExchange,
            timeout: self.configuration.identifyTimeout
        ).flatMapThrowing { try IdentifyMessage.read($0) }
    }

    private func sendIdentify(on stream: NegotiatedStream) -> EventLoopFuture<Void> {
        let (channel, connection) = (stream.channel, stream.connection)
        let told = self.told()
        connection.state.withLock { $0.toldRevision = told.revision }
        let written = channel.writeAndFlush(self.identifyMessage(told, for: connection).wire)
        channel.close(promise: nil)
        return written
    }

    // MARK: What this host tells

    private func told() -> ToldIdentity {
        let time = self.configuration.unixTime()
        return self.state.withLock { $0.updateTold(at: time) }
    }

    private func identifyMessage(_ told: ToldIdentity, for connection: Connection) -> IdentifyMessage {
        var message = IdentifyMessage()
        message.publicKey = self.identity.publicKey.protobuf
        message.listenAddresses = Array(told.addresses.prefix(PeerRecord.maximumAddresses))
        message.protocols = told.protocols.map(\.rawValue)
        message.observedAddress = connection.remoteAddress
        message.protocolVersion = self.configuration.protocolVersion
        message.agentVersion = self.configuration.agentVersion
        let record = PeerRecord(
            peerID: self.peerID,
            sequence: told.recordSequence,
            addresses: message.listenAddresses
        )
        message.signedPeerRecord = self.sealed(record)
        return message
    }

    private func sealed(_ record: PeerRecord) -> [UInt8]? {
        let known = self.state.withLock { $0.sealedRecord }
        if let known, known.record == record { return known.bytes }
        guard let bytes = try? record.seal(with: self.identity).bytes else { return nil }
        self.state.withLock { $0.sealedRecord = (record, bytes) }
        return bytes
    }

    /// Addresses or protocols have changed: tells connected peers, once for all that changes within a short time.
    func identityChanged() {
        let isFirst = self.state.withLock { state in
            guard state.phase == .running, !state.isPushScheduled else { return false }
            state.isPushScheduled = true
            return true
        }
        guard isFirst else { return }
        self.clock.scheduleTask(in: self.configuration.identifyPushDelay) { [weak self] in self?.push() }
    }

    private func push() {
        let connections = self.state.withLock { state in
            state.isPushScheduled = false
            return state.phase == .running ? state.connections.all : []
        }
        let revision = self.told().revision
        // Of the others it is not known yet whether they take it; `apply` sees to them.
        for connection in connections where connection.state.withLock({ $0.toldRevision }) != revision {
            self.push(to: connection)
        }
    }

    private func push(to connection: Connection) {
        guard connection.identification?.protocols.contains(.identifyPush) ?? false else { return }
        connection.openStream(
            protocols: [.identifyPush],
            options: OpenStreamOptions(allowLimitedConnection: true, timeout: self.configuration.identifyTimeout)
        ).flatMap { stream in
            self.state.withLock { $0.metrics.pushesSent += 1 }
            return self.sendIdentify(on: stream)
        }.whenFailure { error in
            self.logger.debug(
                "a push of addresses has failed",
                metadata: ["peer-id": "\(connection.remotePeer)", "error": "\(error)"]
            )
        }
    }

    // MARK: What a peer tells

    private func apply(_ message: IdentifyMessage, of connection: Connection, isPush: Bool) {
        let peer = connection.remotePeer
        // What comes as the connection ends would outlive it in the store.
        guard connection.isOpen else { return }
        // What does not belong to the peer's key is a lie or a mistake; the rest is taken all the same.
        let record = message.signedPeerRecord.flatMap { bytes -> PeerRecord? in
            guard
                let envelope = try? SignedEnvelope(
                    verifying: bytes,
                    domain: PeerRecord.domain,
                    maximumBytes: IdentifyMessage.maximumLength
                ), let record = try? PeerRecord(envelope: envelope), record.peerID == peer
            else { return nil }
            return record
        }
        var identification = isPush ? connection.identification ?? Identification() : Identification()
        if let agent = message.agentVersion { identification.agentVersion = String(agent.prefix(256)) }
        if let version = message.protocolVersion { identification.protocolVersion = String(version.prefix(256)) }
        if !message.protocols.isEmpty || !isPush {
            identification.protocols = Set(message.protocols.filter { $0.utf8.count <= 256 }.map { ProtocolID($0) })
        }
        let told = record?.addresses ?? message.listenAddresses
        if !told.isEmpty || !isPush {
            identification.listenAddresses = told.filter { Self.isOfUse($0, told: connection, by: peer) }
        }
        if let observed = message.observedAddress { identification.observedAddress = observed }
        if record != nil { identification.signedPeerRecord = message.signedPeerRecord }
        if self.peers.record(identification, of: peer, recordSequence: record?.sequence) {
            self.peers.replace(identification.listenAddresses, of: peer, lifetime: .identified)
        }
        let revision = connection.state.withLock { state in
            state.identification = identification
            return state.toldRevision
        }
        // A change between the peer's question and its own answer reached nobody here.
        if !isPush, let revision, revision != self.state.withLock({ $0.told.revision }) {
            self.push(to: connection)
        }
        self.emit(.identified(connection, identification))
    }

    /// A loopback address is one of ours unless the peer is on this machine; other peers' addresses are not the peer's. Zones are
    /// names of the peer's interfaces.
    private static func isOfUse(_ address: Multiaddr, told connection: Connection, by peer: PeerID) -> Bool {
        if let named = address.peerID, named != peer { return false }
        if address.zone != nil { return false }
        return !address.isLoopback || connection.remoteAddress.isLoopback
    }
}

extension Connection {
    /// Whether the peer may ask or tell once more; nil if it may.
    fileprivate func takeIdentify() -> LibP2PError? {
        let now = MonotonicTime(self.eventLoop.now)
        guard !self.state.withLock({ $0.identifies.take(now: now) }) else { return nil }
        self.host.state.withLock { $0.metrics.identifiesRefused += 1 }
        return LibP2PError(code: .limitExceeded, message: "\(self.remotePeer) uses identify too often")
    }
}
