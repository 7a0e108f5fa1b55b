public import LibP2P
public import Multiformats
public import NIOCore
import Synchronization

/// Dials peers through relays: `/…/p2p/RELAY/p2p-circuit/p2p/PEER`. Nothing listens on it: circuits to this host come by
/// the stop protocol, which `RelayClient` takes.
///
/// A circuit lives on the event loop of the connection to its relay. So a dial on another loop makes a connection to the relay
/// on that loop, which later dials share.
public final class CircuitTransport: Transport {
    private struct Way: Hashable {
        let relay: PeerID
        let loop: ObjectIdentifier
    }

    // Weak: the host holds its transports.
    private weak let host: Host?
    private let requestTimeout: TimeAmount
    /// Connections to relays that are being made, for all that wait for them.
    private let ways = Mutex<[Way: EventLoopFuture<Connection>]>([:])

    /// - Parameter requestTimeout: for a relay to answer. It asks the target, so it takes two round trips at least.
    public init(host: Host, requestTimeout: TimeAmount = .seconds(30)) {
        self.host = host
        self.requestTimeout = requestTimeout
    }

    // MARK: Transport

    public func canDial(_ address: Multiaddr) -> Bool {
        guard let relay = address.relay else { return false }
        return relay.address.peerID != nil && !relay.address.isCircuit
    }

    public func canListen(on address: Multiaddr) -> Bool { false }

    public func listen(
        on address: Multiaddr,
        group: any EventLoopGroup,
        accept: @escaping @Sendable (RawConnection) -> Void
    ) -> EventLoopFuture<any TransportListener> {
        group.next().makeFailedFuture(
            LibP2PError(code: .listenFailed, message: "circuits are not listened for: a reservation is what they need")
        )
    }

    public func dial(
        _ address: Multiaddr,
        on loop: any EventLoop,
        options: TransportDialOptions
    ) -> EventLoopFuture<RawConnection> {
        guard let host = self.host else {
            return loop.makeFailedFuture(LibP2PError(code: .shutDown, message: "the host is gone"))
        }
        guard let route = address.relay, let relay = route.address.peerID, let target = route.target else {
            return loop.makeFailedFuture(
                LibP2PError(code: .malformed, message: "\(address) does not name a relay and a peer behind it")
            )
        }
        guard relay != host.peerID, relay != target else {
            return loop.makeFailedFuture(
                LibP2PError(code: .selfDial, message: "\(address) leads through this host, or to the relay itself")
            )
        }
        let timeout = min(self.requestTimeout, options.deadline - loop.now)
        return self.connection(to: relay, at: route.address.withoutPeerID, host, loop, options.deadline)
            .flatMap { connection in
                connection.openStream(protocols: [CircuitProtocol.hop], options: OpenStreamOptions(timeout: timeout))
            }
            .flatMap { stream in Self.connect(stream, to: target, within: timeout) }
    }

    // MARK: Way to the relay

    private func connection(
        to relay: PeerID,
        at address: Multiaddr,
        _ host: Host,
        _ loop: any EventLoop,
        _ deadline: NIODeadline
    ) -> EventLoopFuture<Connection> {
        let open = host.connections(to: relay).last {
            !$0.isRelayed && $0.takesStreams && $0.eventLoop === loop
        }
        if let open { return loop.makeSucceededFuture(open) }
        let way = Way(relay: relay, loop: ObjectIdentifier(loop))
        // Whoever comes first dials, outside of the lock.
        let promise = loop.makePromise(of: Connection.self)
        let running = self.ways.withLock { ways in
            if let running = ways[way] { return running as EventLoopFuture<Connection>? }
            ways[way] = promise.futureResult
            return nil
        }
        if let running {
            promise.fail(ChannelError.alreadyClosed)
            return running
        }
        promise.futureResult.whenComplete { _ in self.ways.withLock { $0[way] = nil } }
        let options = DialOptions(
            reuse: .never,
            directOnly: true,
            // The circuit has a backoff of its own; two would add up after an outage.
            ignoreBackoff: true,
            timeout: max(.zero, deadline - loop.now),
            eventLoop: loop
        )
        let dialled: EventLoopFuture<Connection> = host.connect(to: relay, addresses: [address], options: options)
        dialled.cascade(to: promise)
        return promise.futureResult
    }

    // MARK: Request

    /// Asks the relay at the other end of `stream` for a circuit, which the stream then is.
    private static func connect(
        _ stream: NegotiatedStream,
        to target: PeerID,
        within timeout: TimeAmount
    ) -> EventLoopFuture<RawConnection> {
        let channel = stream.channel
        let promise = channel.eventLoop.makePromise(of: RawConnection.self)
        let relay = stream.connection.remotePeer
        do {
            let exchange = try MessageExchange.begin(on: channel)
            exchange.write(HopMessage.connect(to: target).buffer)
            exchange.read(within: timeout) { result in
                do {
                    let answer = try HopMessage(result.get())
                    let request = "the request to relay \(relay) for a circuit to \(target)"
                    guard answer.kind == .status, let status = answer.status else {
                        throw LibP2PRelayError(code: .unexpected, message: "\(request) was answered with no status")
                    }
                    guard status == .ok else { throw LibP2PRelayError(status, request: request) }
                    let received = try exchange.leave()
                    promise.succeed(
                        try RawConnection(circuit: stream, limit: answer.limit, received: received)
                    )
                } catch {
                    stream.reset()
                    promise.fail(error)
                }
            }
        } catch {
            stream.reset()
            promise.fail(error)
        }
        return promise.futureResult
    }
}

extension RawConnection {
    /// A stream to a relay that has become a circuit. On the stream's loop.
    init(circuit stream: NegotiatedStream, limit: ConnectionLimit?, received: ByteBuffer) throws {
        // A connection ends as a whole, as those over sockets do.
        try stream.channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: false)
        let relayed = stream.connection
        self.init(
            channel: stream.channel,
            localAddress: relayed.localAddress,
            remoteAddress: relayed.remoteAddress.withoutPeerID
                .appending(.p2p(relayed.remotePeer)).appending(.circuit),
            limit: limit,
            received: received.readableBytes > 0 ? received : nil
        )
    }
}
