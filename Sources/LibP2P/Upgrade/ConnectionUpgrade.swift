import LibP2PSecurity
import Multiformats
import NIOCore
import Yamux

/// Makes a raw connection one that is secured and carries streams:
/// private network -> multistream-select -> security -> (multistream-select, unless security agreed on it) -> yamux.
///
/// One for each connection, confined to its event loop. All of it has one deadline; a failure closes the channel.
final class ConnectionUpgrade {
    /// What every upgrade of a host needs.
    struct Configuration: Sendable {
        /// The best first.
        var security: [any SecurityProtocol]
        var preSharedKey: PreSharedKey?
        var yamux: YamuxConfiguration
    }

    /// What the host makes a connection of.
    struct Result {
        let peer: SecuredPeer
        let multiplexerName: String
        let multiplexer: any StreamMultiplexer
    }

    private let raw: RawConnection
    private var role: ConnectionRole
    private let patience: TimeAmount?
    private let expectedPeer: PeerID?
    private let configuration: Configuration
    private let events: YamuxEvents
    private let inboundStream: (any Channel) -> EventLoopFuture<Void>
    private let promise: EventLoopPromise<Result>
    private var phase = "the choice of a security protocol"
    private var isDone = false
    private var deadline: Scheduled<Void>?

    private var channel: any Channel { self.raw.channel }

    /// - Parameters:
    ///   - patience: after this time a responder that nothing is proposed to becomes the initiator; nil for never.
    ///   - events: what the session tells from its start.
    ///   - inboundStream: initialises streams that the peer opens.
    private init(
        _ raw: RawConnection,
        role: ConnectionRole,
        patience: TimeAmount?,
        expectedPeer: PeerID?,
        configuration: Configuration,
        events: YamuxEvents,
        inboundStream: @escaping (any Channel) -> EventLoopFuture<Void>
    ) {
        self.raw = raw
        self.role = role
        self.patience = patience
        self.expectedPeer = expectedPeer
        self.configuration = configuration
        self.events = events
        self.inboundStream = inboundStream
        self.promise = raw.channel.eventLoop.makePromise()
    }

    /// Runs an upgrade; on the channel's loop, on which the future completes, before a stream comes.
    static func run(
        _ raw: RawConnection,
        role: ConnectionRole,
        patience: TimeAmount?,
        expectedPeer: PeerID?,
        deadline: NIODeadline,
        configuration: Configuration,
        events: YamuxEvents,
        inboundStream: @escaping (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<Result>.Isolated {
        let upgrade = ConnectionUpgrade(
            raw,
            role: role,
            patience: patience,
            expectedPeer: expectedPeer,
            configuration: configuration,
            events: events,
            inboundStream: inboundStream
        )
        upgrade.start(deadline: deadline)
        return upgrade.promise.futureResult.assumeIsolated()
    }

    private func start(deadline: NIODeadline) {
        let loop = self.channel.eventLoop.assumeIsolated()
        self.deadline = loop.scheduleTask(deadline: deadline) {
            self.fail(LibP2PError(code: .timedOut, message: "no answer in time during \(self.phase)"))
        }
        // Weak: the upgrade does not live as long as the connection. Until it is done, its deadline holds it.
        self.channel.closeFuture.assumeIsolated().whenComplete { [weak self] _ in
            guard let self else { return }
            self.fail(
                LibP2PError(code: .connectionClosed, message: "the peer closed the connection during \(self.phase)")
            )
        }
        do {
            if case .multiplexed(let connection) = self.raw.capability {
                try self.finish(
                    connection.securedPeer,
                    connection.multiplexerName,
                    connection.start(inboundStream: self.inboundStream)
                )
                return
            }
            if let key = self.configuration.preSharedKey { try PrivateNetwork.add(to: self.channel, key: key) }
            let names = self.configuration.security.map(\.protocolID)
            let looksForPrivateNetwork = self.configuration.preSharedKey == nil
            try self.negotiate(names, patience: self.patience, looksForPrivateNetwork: looksForPrivateNetwork) { name in
                self.secure(name)
            }
            // Transports may leave reading to whoever has the connection.
            try self.channel.syncOptions?.setOption(.autoRead, value: true)
            if let received = self.raw.received, received.readableBytes > 0 {
                self.channel.pipeline.fireChannelRead(received)
                self.channel.pipeline.fireChannelReadComplete()
            }
        } catch {
            self.fail(error)
        }
    }

    private func secure(_ name: String) {
        guard let security = self.configuration.security.first(where: { $0.protocolID == name }) else { return }
        self.phase = "the handshake of \(name)"
        let muxers = [YamuxMultiplexer.name]
        security.secure(
            self.channel,
            role: self.role,
            expectedPeer: self.expectedPeer,
            muxers: muxers,
            received: nil
        ).assumeIsolated().whenComplete { result in
            guard !self.isDone else { return }
            do {
                let peer = try result.get()
                if peer.earlyMuxer == YamuxMultiplexer.name {
                    try self.addMultiplexer(peer)
                } else {
                    self.phase = "the choice of a multiplexer"
                    try self.negotiate(muxers, looksForPrivateNetwork: false) { _ in try self.addMultiplexer(peer) }
                }
            } catch {
                self.fail(error)
            }
        }
    }

    private func negotiate(
        _ names: [String],
        patience: TimeAmount? = nil,
        looksForPrivateNetwork: Bool,
        next: @escaping (String) throws -> Void
    ) throws {
        let agreed = self.channel.eventLoop.makePromise(of: String.self)
        let role: MultistreamStateMachine.Role =
            switch self.role {
            case .initiator: .initiator(names)
            case .responder: .responder(supports: { names.contains($0) }, list: { names })
            }
        let negotiator = ConnectionNegotiator(
            role: role,
            initiative: patience.map { ConnectionNegotiator.Initiative(names: names, patience: $0) },
            looksForPrivateNetwork: looksForPrivateNetwork,
            agreed: agreed
        )
        agreed.futureResult.assumeIsolated().whenComplete { result in
            guard !self.isDone else { return }
            if negotiator.hasTakenInitiative { self.role = .initiator }
            do { try next(try result.get()) } catch { self.fail(error) }
        }
        try self.channel.pipeline.syncOperations.addHandler(negotiator)
    }

    private func addMultiplexer(_ peer: SecuredPeer) throws {
        let session = YamuxHandler(
            role: self.role == .initiator ? .client : .server,
            configuration: self.configuration.yamux,
            events: self.events,
            inboundStream: self.inboundStream
        )
        try self.channel.pipeline.syncOperations.addHandler(session)
        self.finish(peer, YamuxMultiplexer.name, YamuxMultiplexer(session: session))
    }

    private func finish(_ peer: SecuredPeer, _ name: String, _ multiplexer: any StreamMultiplexer) {
        guard !self.isDone else { return }
        self.isDone = true
        self.deadline?.cancel()
        self.promise.assumeIsolated().succeed(Result(peer: peer, multiplexerName: name, multiplexer: multiplexer))
    }

    private func fail(_ error: any Error) {
        guard !self.isDone else { return }
        self.isDone = true
        self.deadline?.cancel()
        self.promise.fail(LibP2PError(handshake: error, with: self.raw.remoteAddress))
        self.channel.close(promise: nil)
    }
}

extension LibP2PError {
    /// What went wrong before there was a connection, as one of this module's errors.
    init(handshake error: any Error, with address: Multiaddr) {
        switch error {
        case let error as LibP2PError:
            self = error
        case let error as LibP2PSecurityError:
            let code: Code =
                switch error.code {
                case .wrongPreSharedKey, .suspectedPreSharedKey: .wrongPreSharedKey
                case .wrongPeer: .peerMismatch
                case .timedOut: .timedOut
                default: .handshakeFailed
                }
            self.init(code: code, message: "no secure connection with \(address)", cause: error)
        default:
            self.init(code: .handshakeFailed, message: "no connection with \(address)", cause: error)
        }
    }
}
