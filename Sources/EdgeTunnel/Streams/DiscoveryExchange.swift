import ByteStreams
import DequeModule
import LibP2P
import Logging
import MeshInterfaces
import Multiformats
import NIOCore
import Synchronization

/// Tells the agent at the other end which node this is, and asks for its node (`/libp2p/tunnel-discovery/1.0.0`).
///
/// A name that a peer claims counts only if its key proves it. A claim that it disproves is counted and kept to be looked at, one
/// that nothing is known about is ignored. Any thread.
final class DiscoveryExchange: Sendable {
    /// How two agents met, as the message tells it.
    enum Meeting: String, Sendable {
        case mdns = "MDNS"
        case dht = "DHT"
    }

    struct Counters: Sendable, Hashable {
        var asked: UInt64 = 0
        var answered: UInt64 = 0
        var verified: UInt64 = 0
        /// The claimed node is another peer, or the peer another node.
        var falseClaims: UInt64 = 0
        /// Neither the node nor the peer is known.
        var unknownClaims: UInt64 = 0
        /// No answer, or none that is understood.
        var failed: UInt64 = 0
    }

    /// A peer that claimed to be a node that it is not.
    struct FalseClaim: Sendable, Hashable {
        var peer: PeerID
        var claimed: String
    }

    static let maximumFalseClaims = 32

    private struct State {
        var counters = Counters()
        var falseClaims = Deque<FalseClaim>()
    }

    private let host: Host
    private let nodeName: String
    private let naming: any PeerNaming
    private let timeout: TimeAmount
    private let state = Mutex(State())

    init(host: Host, nodeName: String, naming: any PeerNaming, timeout: TimeAmount = .seconds(10)) {
        self.host = host
        self.nodeName = nodeName
        self.naming = naming
        self.timeout = timeout
    }

    var counters: Counters { self.state.withLock { $0.counters } }

    /// The last ones, the newest last.
    var falseClaims: [FalseClaim] { self.state.withLock { Array($0.falseClaims) } }

    // MARK: Asking

    /// Asks the peer of a connection. Completes with its node's name once that is proven; on the connection's loop.
    func ask(_ connection: Connection, _ meeting: Meeting) -> EventLoopFuture<String> {
        let options = OpenStreamOptions(allowLimitedConnection: true, timeout: self.timeout)
        self.state.withLock { $0.counters.asked += 1 }
        return connection.openStream(protocols: [TunnelProtocol.discovery], options: options).flatMap { stream in
            let channel = stream.channel
            let promise = channel.eventLoop.makePromise(of: String.self)
            do {
                try PreambleHandler.read(on: channel, deadline: channel.eventLoop.now + self.timeout) { result in
                    // v1.17 ends the exchange so, too.
                    channel.closeWithReset()
                    promise.completeWith(Result { try self.check(try result.get(), of: connection.remotePeer) })
                }
            } catch {
                stream.reset()
                promise.fail(error)
            }
            let message = DiscoveryMessage(.connect, foundBy: meeting.rawValue, nodeName: self.nodeName)
            channel.writeAndFlush(message.framed, promise: nil)
            return promise.futureResult
        }.flatMapErrorThrowing { error in
            if error is TunnelError { throw error }
            self.state.withLock { $0.counters.failed += 1 }
            throw TunnelError(
                code: .badAnswer,
                message: "peer \(connection.remotePeer) does not tell its node: \(error)"
            )
        }
    }

    private func check(_ message: ByteBuffer, of peer: PeerID) throws -> String {
        let answer = try DiscoveryMessage(message)
        guard answer.kind == .success, let claimed = answer.nodeName else {
            throw MultiformatsError(code: .malformed, message: "an answer without the name of a node")
        }
        guard self.verify(claimed, by: peer) else {
            throw TunnelError(
                code: .unknownNode,
                message: "peer \(peer) says that it is node \(claimed), which its key does not prove"
            )
        }
        return claimed
    }

    // MARK: Answering

    /// Answers other agents from now on.
    func start() {
        self.host.handle(TunnelProtocol.discovery, options: HandlerOptions(allowLimitedConnection: true)) { stream in
            let (channel, peer) = (stream.channel, stream.connection.remotePeer)
            return channel.eventLoop.makeCompletedFuture {
                try PreambleHandler.read(on: channel, deadline: channel.eventLoop.now + self.timeout) { result in
                    self.answer(result, on: channel, peer)
                }
            }
        }
    }

    func stop() { self.host.stopHandling(TunnelProtocol.discovery) }

    private func answer(_ result: Result<ByteBuffer, any Error>, on channel: any Channel, _ peer: PeerID) {
        guard let question = try? DiscoveryMessage(result.get()), question.kind == .connect else {
            self.state.withLock { $0.counters.failed += 1 }
            return channel.closeWithReset()
        }
        if let claimed = question.nodeName { _ = self.verify(claimed, by: peer) }
        self.state.withLock { $0.counters.answered += 1 }
        let answer = DiscoveryMessage(.success, foundBy: question.foundBy, nodeName: self.nodeName)
        channel.writeAndFlush(answer.framed, promise: nil)
        channel.close(promise: nil)
    }

    // MARK: Names

    private func verify(_ claimed: String, by peer: PeerID) -> Bool {
        let (known, expected) = (self.naming.node(of: peer), self.naming.peer(of: claimed))
        let isProven = known == claimed || (known == nil && expected == peer)
        let news = self.state.withLock { state -> FalseClaim? in
            guard !isProven else {
                state.counters.verified += 1
                return nil
            }
            guard known != nil || expected != nil else {
                state.counters.unknownClaims += 1
                return nil
            }
            let claim = FalseClaim(peer: peer, claimed: String(claimed.prefix(253)))
            let isNews = !state.falseClaims.contains(claim) && state.counters.falseClaims < Self.maximumFalseClaims
            state.counters.falseClaims += 1
            if state.falseClaims.count >= Self.maximumFalseClaims { state.falseClaims.removeFirst() }
            state.falseClaims.append(claim)
            return isNews ? claim : nil
        }
        if let news {
            self.host.logger.warning(
                "a peer says that it is a node, which its key does not prove, so it is not believed; if the node's agent has identity: node, the node's record in the cluster lacks its peer ID, and the agent's log says why",
                metadata: ["peer-id": "\(peer)", "node": "\(news.claimed)"]
            )
        }
        return isProven
    }
}
