import ByteStreams
import LibP2P
import Logging
import MeshInterfaces
import Multiformats
import NIOCore
import PacketDatagrams
import Synchronization

/// Takes the channels of packets that other agents open, of both kinds, and hands them to whoever takes them. Peers whose node
/// nothing proves are refused. Any thread.
final class PacketAcceptor: Sendable {
    /// Why a channel was refused.
    enum Refusal: String, Sendable, CaseIterable {
        /// Nobody here takes packets.
        case noTaker
        /// Nothing proves which node the peer is.
        case unknownNode
        case overloaded
        /// No offer of packets came, or none that is understood.
        case badRequest
    }

    struct Counters: Sendable, Hashable {
        var accepted: UInt64 = 0
        /// Of these, those of v1.17.
        var acceptedFromOriginals: UInt64 = 0
        var refused: [Refusal: UInt64] = [:]
    }

    private struct State {
        var isStarted = false
        var isServing = false
    }

    let tally: FlowTally
    private let host: Host
    private let naming: any PeerNaming
    private let channels: PacketChannels
    private let reception: PacketReception
    private let limits: PacketLimits
    private let ways: PacketWays?
    private let logger: Logger
    private let state = Mutex(State())
    private let counts = Mutex(Counters())

    init(
        host: Host,
        naming: any PeerNaming,
        channels: PacketChannels,
        reception: PacketReception,
        limits: PacketLimits,
        ways: PacketWays? = nil,
        logger: Logger
    ) {
        self.ways = ways
        self.host = host
        self.naming = naming
        self.channels = channels
        self.reception = reception
        self.limits = limits
        self.logger = logger
        self.tally = FlowTally(limits)
    }

    var counters: Counters { self.counts.withLock { $0 } }

    // MARK: Life

    /// Tells peers of the protocols while somebody takes packets.
    func start() {
        self.reception.observe { [weak self] in self?.follow() }
        self.state.withLock { $0.isStarted = true }
        self.follow()
    }

    func stop() {
        self.reception.observe(nil)
        self.state.withLock { $0.isStarted = false }
        self.follow()
    }

    private func follow() {
        // The host is told in the order of the changes.
        self.state.withLock { state in
            let isWanted = state.isStarted && self.reception.taker != nil
            guard isWanted != state.isServing else { return }
            state.isServing = isWanted
            guard isWanted else {
                self.host.stopHandling(TunnelProtocol.packets)
                self.host.stopHandling(TunnelProtocol.originalPackets)
                return
            }
            let options = HandlerOptions(allowLimitedConnection: true)
            self.host.handle(TunnelProtocol.packets, options: options) { stream in
                stream.channel.eventLoop.makeCompletedFuture { try self.accept(stream) }
            }
            self.host.handle(TunnelProtocol.originalPackets, options: options) { stream in
                stream.channel.eventLoop.makeCompletedFuture { try self.acceptOriginal(stream) }
            }
        }
    }

    // MARK: Channels

    private func accept(_ stream: InboundStream) throws {
        let peer = stream.connection.remotePeer
        guard let (node, taker) = self.admit(stream) else { return }
        if let limit = self.tally.enter(peer) { return self.refuse(stream, .overloaded, "\(node): \(limit)") }
        stream.channel.closeFuture.whenComplete { _ in self.tally.leave(peer) }
        try self.ways?.join(stream, .acceptor)
        try self.hand(stream, over: PacketChannel(channel: stream.channel, node: node, form: .framed), to: taker)
    }

    private func acceptOriginal(_ stream: InboundStream) throws {
        let channel = stream.channel
        try PreambleHandler.read(on: channel, deadline: channel.eventLoop.now + self.limits.requestTimeout) { result in
            // Its protocol has no word for a refusal.
            guard let offer = try? ProxyMessage(result.get()), offer.kind == .connect, offer.packetProtocol != nil
            else { return self.refuse(stream, .badRequest, "no offer of packets came") }
            guard let (node, taker) = self.admit(stream) else { return }
            do {
                let handlers: [any ChannelHandler] = [
                    IdleStateHandler(readTimeout: self.limits.originalIdleTimeout), IdleStreamHandler(),
                ]
                try channel.pipeline.syncOperations.addHandlers(handlers)
                channel.writeAndFlush(offer.success.framed, promise: nil)
                try self.hand(stream, over: PacketChannel(channel: channel, node: node, form: .original), to: taker)
            } catch {
                stream.reset()
            }
        }
    }

    /// The proven node of the peer, and who takes its packets; nil once the stream is refused.
    private func admit(_ stream: InboundStream) -> (node: String, taker: PacketReception.Taker)? {
        guard let taker = self.reception.taker else {
            self.refuse(stream, .noTaker, "nobody here takes packets")
            return nil
        }
        guard let node = self.naming.node(of: stream.connection.remotePeer) else {
            self.refuse(stream, .unknownNode, "nothing proves which node the peer is")
            return nil
        }
        return (node, taker)
    }

    private func hand(
        _ stream: InboundStream,
        over channel: PacketChannel,
        to taker: PacketReception.Taker
    ) throws {
        try channel.channel.syncOptions?.setOption(.writeBufferWaterMark, value: self.limits.writeBufferWaterMark)
        self.channels.add(stream, .accepted, channel.form)
        self.counts.withLock { counters in
            counters.accepted += 1
            if channel.form == .original { counters.acceptedFromOriginals += 1 }
        }
        taker(channel)
    }

    private func refuse(_ stream: InboundStream, _ reason: Refusal, _ explanation: String) {
        self.counts.withLock { $0.refused[reason, default: 0] += 1 }
        self.logger.debug(
            "a channel of packets is refused",
            metadata: ["peer-id": "\(stream.connection.remotePeer)", "reason": "\(explanation)"]
        )
        stream.reset()
    }
}

/// Ends a stream that is silent. Confined to its loop.
private final class IdleStreamHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard event is IdleStateHandler.IdleStateEvent else { return context.fireUserInboundEventTriggered(event) }
        context.channel.closeWithReset()
    }
}
