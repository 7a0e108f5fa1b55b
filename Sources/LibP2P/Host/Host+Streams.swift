public import Multiformats
public import NIOCore
import Synchronization

extension Host {
    /// Opens a stream with the first of `protocols` that the peer has, over its best connection; without one, the peer is
    /// dialled. The future completes on the event loop of the stream.
    public func openStream(
        to peer: PeerID,
        protocols: [ProtocolID],
        options: OpenStreamOptions = OpenStreamOptions()
    ) -> EventLoopFuture<NegotiatedStream> {
        let connection = self.state.withLock { state in
            state.connections.best(
                to: peer,
                allowLimited: options.allowLimitedConnection,
                directOnly: options.directOnly
            )
        }
        if let connection { return connection.openStream(protocols: protocols, options: options) }
        guard options.dial else {
            return self.clock.makeFailedFuture(
                LibP2PError(code: .connectionClosed, message: "there is no connection to \(peer) for such a stream")
            )
        }
        var dial = options.dialOptions
        if options.directOnly { dial.directOnly = true }
        if dial.directOnly, dial.reuse == .any { dial.reuse = .direct }
        if dial.timeout == nil { dial.timeout = options.timeout }
        // The connection lives on the dial's loop, so that the stream's future does, too.
        let connected: EventLoopFuture<Connection> = self.connect(to: peer, options: dial)
        return connected.flatMap { $0.openStream(protocols: protocols, options: options) }
    }

    public func openStream(
        to peer: PeerID,
        protocols: [ProtocolID],
        options: OpenStreamOptions = OpenStreamOptions()
    ) async throws -> NegotiatedStream {
        let future: EventLoopFuture<NegotiatedStream> = self.openStream(
            to: peer,
            protocols: protocols,
            options: options
        )
        return try await future.get()
    }

    func handler(for protocolID: ProtocolID, isLimited: Bool) -> HostState.Handler? {
        self.state.withLock { state in
            guard let handler = state.handlers[protocolID],
                !isLimited || handler.options.allowLimitedConnection
            else { return nil }
            return handler
        }
    }

    func countNegotiationFailure() {
        self.state.withLock { $0.metrics.negotiationsFailed += 1 }
    }
}
