import ByteStreams
import Logging
import MeshCore
public import NIOCore
import Synchronization
import Yamux

extension Connection {
    /// Opens a stream with the first of `protocols` that the peer has. The future completes on the connection's event loop.
    ///
    /// Of the options, those about dialling do not matter here.
    public func openStream(
        protocols: [ProtocolID],
        options: OpenStreamOptions = OpenStreamOptions()
    ) -> EventLoopFuture<NegotiatedStream> {
        if self.eventLoop.inEventLoop { return self.open(protocols, options) }
        return self.eventLoop.flatSubmit { self.open(protocols, options) }
    }

    private func open(
        _ protocols: [ProtocolID],
        _ options: OpenStreamOptions
    ) -> EventLoopFuture<NegotiatedStream> {
        let loop = self.eventLoop
        let lease: StreamLease
        let isLazy = protocols.count == 1 && !options.waitForAnswer
        do throws(LibP2PError) {
            guard let first = protocols.first else {
                throw LibP2PError(code: .protocolNotSupported, message: "a stream needs a protocol")
            }
            guard options.allowLimitedConnection || !self.isLimited else {
                throw LibP2PError(
                    code: .notAllowed,
                    message:
                        "the relay of the connection to \(self.remotePeer) limits it, and \(first) does not allow that"
                )
            }
            guard self.takesStreams else {
                throw LibP2PError(code: .connectionClosed, message: "the connection to \(self.remotePeer) is closing")
            }
            lease = try StreamLease(.outbound, on: self)
            if isLazy {
                do { try lease.assign(first) } catch {
                    lease.release()
                    throw error
                }
            }
        } catch {
            return loop.makeFailedFuture(error)
        }
        let agreed = loop.makePromise(of: String.self)
        let opened = self.streams.value.openStream { channel in
            channel.eventLoop.makeCompletedFuture {
                try Self.prepare(
                    channel,
                    StreamNegotiator(
                        role: .initiator(protocols.map(\.rawValue)),
                        isLazy: isLazy,
                        timeout: options.timeout,
                        agreed: agreed
                    )
                )
            }
        }.assumeIsolated()
        opened.whenComplete { result in
            switch result {
            case .success(let channel):
                channel.closeFuture.assumeIsolated().whenComplete { _ in lease.release() }
            case .failure(let error):
                lease.release()
                agreed.fail(error)
            }
        }
        agreed.futureResult.whenFailure { _ in self.host.countNegotiationFailure() }
        if isLazy {
            return opened.map { NegotiatedStream(channel: $0, protocolID: protocols[0], connection: self) }
                .nonisolated()
        }
        return opened.flatMap { channel in
            agreed.futureResult.assumeIsolated().flatMapThrowing { name in
                let protocolID = ProtocolID(name)
                do { try lease.assign(protocolID) } catch {
                    channel.closeWithReset()
                    throw error
                }
                return NegotiatedStream(channel: channel, protocolID: protocolID, connection: self)
            }.nonisolated()
        }.nonisolated()
    }

    /// Sets up a stream that the peer opens. On the connection's loop; a failure resets it.
    func acceptStream(_ channel: any Channel) -> EventLoopFuture<Void> {
        let lease: StreamLease
        do {
            lease = try StreamLease(.inbound, on: self)
        } catch {
            self.host.logRefusal(error, of: "a stream of \(self.remotePeer)")
            return channel.eventLoop.makeFailedFuture(error)
        }
        channel.closeFuture.assumeIsolated().whenComplete { _ in lease.release() }
        let agreed = channel.eventLoop.makePromise(of: String.self)
        agreed.futureResult.assumeIsolated().whenComplete { result in
            switch result {
            case .success(let name): self.dispatch(channel, ProtocolID(name), lease)
            case .failure: self.streamFailed()
            }
        }
        let host = self.host
        let isLimited = self.isLimited
        return channel.eventLoop.makeCompletedFuture {
            try Self.prepare(
                channel,
                StreamNegotiator(
                    role: .responder(
                        supports: { host.handler(for: ProtocolID($0), isLimited: isLimited) != nil },
                        list: { host.protocols.map(\.rawValue) }
                    ),
                    isLazy: false,
                    timeout: host.configuration.streamNegotiationTimeout,
                    agreed: agreed
                )
            )
        }
    }

    /// The peer opened a stream and agreed on no protocol. Who goes on like that only costs time.
    private func streamFailed() {
        self.host.countNegotiationFailure()
        let now = MonotonicTime(self.eventLoop.now)
        guard self.takesStreams, !self.state.withLock({ $0.failedStreams.take(now: now) }) else { return }
        let message =
            "\(self.remotePeer) opens streams too often without agreeing on a protocol (failedStreamsPerSecond)"
        self.isAbused(LibP2PError(code: .limitExceeded, message: message))
        self.close()
    }

    private func dispatch(_ channel: any Channel, _ protocolID: ProtocolID, _ lease: StreamLease) {
        do throws(LibP2PError) {
            try lease.assign(protocolID)
        } catch {
            self.host.logRefusal(error, of: "a stream of \(self.remotePeer)")
            channel.closeWithReset()
            return
        }
        guard let handler = self.host.handler(for: protocolID, isLimited: self.isLimited) else {
            channel.closeWithReset()
            return
        }
        let stream = InboundStream(channel: channel, protocolID: protocolID, connection: self)
        handler.handler(stream).whenFailure { error in
            self.host.logger.debug(
                "a stream was not handled",
                metadata: ["protocol": "\(protocolID)", "peer-id": "\(self.remotePeer)", "error": "\(error)"]
            )
            stream.reset()
        }
    }

    private static func prepare(_ channel: any Channel, _ negotiator: StreamNegotiator) throws {
        try channel.syncOptions?.setOption(.autoRead, value: false)
        try channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
        try channel.pipeline.syncOperations.addHandler(negotiator)
    }

    // MARK: End

    /// The peer has done what ends the connection.
    func isAbused(_ error: LibP2PError) {
        let isFirst = self.state.withLock { state in
            defer { state.closeError = state.closeError ?? error }
            return state.closeError == nil
        }
        guard isFirst else { return }
        self.host.state.withLock { $0.metrics.connectionsAbused += 1 }
        self.host.logRefusal(error, of: "the connection with \(self.remotePeer) from now on")
    }

    /// How the session has ended; on the connection's loop, before its channel is closed.
    func sessionEnded(_ error: YamuxError?) {
        guard let error else { return }
        let what = LibP2PError(
            code: error.code == .limitExceeded ? .limitExceeded : .connectionClosed,
            message: "the session with \(self.remotePeer) has ended",
            cause: error
        )
        if error.code == .limitExceeded || error.code == .protocolViolation {
            self.isAbused(what)
        } else {
            self.state.withLock { $0.closeError = $0.closeError ?? what }
        }
    }

    /// Says goodbye and closes the connection with all its streams.
    public func close() { self.close(drainUntil: nil) }

    /// Takes no new streams, and closes when the open ones have ended or `deadline` has passed; at once without one.
    public func close(drainUntil deadline: NIODeadline?) {
        self.state.withLock { $0.isDraining = true }
        self.eventLoop.execute { self.streams.value.close(drainUntil: deadline) }
    }
}

extension NegotiatedStream {
    /// Ends the stream in both directions at once; the peer sees a reset.
    public func reset() {
        let channel = self.channel
        if channel.eventLoop.inEventLoop {
            channel.closeWithReset()
        } else {
            channel.eventLoop.execute { channel.closeWithReset() }
        }
    }
}
