import ByteStreams
import LibP2P
import MeshInterfaces
import Multiformats
import NIOCore
import PacketDatagrams
import Synchronization

/// Opens channels of packets to the agents of other nodes, by our protocol or by that of v1.17. Any thread.
final class PacketOpener: Sendable {
    typealias Counters = FlowOpener.Counters

    let tally: FlowTally
    private let host: Host
    private let channels: PacketChannels
    private let limits: PacketLimits
    private let ways: PacketWays?
    private let state = Mutex(Counters())

    /// - Parameter ways: for datagrams beside the channels; nil for none.
    init(host: Host, channels: PacketChannels, limits: PacketLimits, ways: PacketWays? = nil) {
        self.ways = ways
        self.host = host
        self.channels = channels
        self.limits = limits
        self.tally = FlowTally(limits)
    }

    var counters: Counters { self.state.withLock { $0 } }

    /// Opens a channel to the agent of `node`, which is the peer of the connection. The future completes on the connection's loop
    /// by `deadline`; fails with `TunnelError`.
    func open(_ node: String, over connection: Connection, deadline: NIODeadline) -> EventLoopFuture<PacketChannel> {
        guard connection.eventLoop.inEventLoop else {
            return connection.eventLoop.flatSubmit { self.open(node, over: connection, deadline: deadline) }
        }
        let peer = connection.remotePeer
        if let limit = self.tally.enter(peer) {
            let error = TunnelError(code: .overloaded, message: "\(limit) by this node: none to \(node) now")
            return connection.eventLoop.makeFailedFuture(self.failed(error))
        }
        return self.openStream(to: node, over: connection, deadline: deadline).flatMap { stream in
            self.begin(stream, node, deadline).map { channel in
                stream.channel.closeFuture.whenComplete { _ in self.tally.leave(peer) }
                self.channels.add(stream, .opened, channel.form)
                self.state.withLock { counters in
                    counters.opened += 1
                    if channel.form == .original { counters.openedWithOriginals += 1 }
                }
                return channel
            }
        }.flatMapErrorThrowing { error in
            self.tally.leave(peer)
            throw self.failed(TunnelError(error, openingPacketsTo: node))
        }
    }

    private func openStream(
        to node: String,
        over connection: Connection,
        deadline: NIODeadline
    ) -> EventLoopFuture<NegotiatedStream> {
        guard let protocols = self.protocols(of: connection) else {
            return connection.eventLoop.makeFailedFuture(
                TunnelError(
                    code: .notAllowed,
                    message: "the agent of \(node) takes no packets: is modules.edgeCNI.enable set there?"
                )
            )
        }
        let options = OpenStreamOptions(
            allowLimitedConnection: true,
            timeout: max(.milliseconds(1), deadline - connection.eventLoop.now)
        )
        return connection.openStream(protocols: protocols, options: options)
    }

    /// What the peer has told that it speaks; both if it has told nothing yet, nil if it speaks neither.
    private func protocols(of connection: Connection) -> [ProtocolID]? {
        let all = [TunnelProtocol.packets, TunnelProtocol.originalPackets]
        let told = connection.identification?.protocols ?? self.host.peers.protocols(of: connection.remotePeer)
        if let known = all.first(where: told.contains) { return [known] }
        return connection.identification == nil ? all : nil
    }

    private func begin(
        _ stream: NegotiatedStream,
        _ node: String,
        _ deadline: NIODeadline
    ) -> EventLoopFuture<PacketChannel> {
        let channel = stream.channel
        let promise = channel.eventLoop.makePromise(of: PacketChannel.self)
        do {
            try channel.syncOptions?.setOption(.writeBufferWaterMark, value: self.limits.writeBufferWaterMark)
            guard stream.protocolID == TunnelProtocol.originalPackets else {
                try self.ways?.join(stream, .opener)
                promise.succeed(PacketChannel(channel: channel, node: node, form: .framed))
                return promise.futureResult
            }
            // What its agent reads at once is a frame of the multiplexer, and is to hold whole packets.
            try channel.keepFramesAsDatagrams()
            try PreambleHandler.read(on: channel, deadline: deadline) { result in
                promise.completeWith(
                    Result {
                        guard try ProxyMessage(try result.get()).kind == .success else {
                            throw TunnelError(
                                code: .notAllowed,
                                message: "the agent of \(node), one of v1.17, takes no packets; its log tells why"
                            )
                        }
                        return PacketChannel(channel: channel, node: node, form: .original)
                    }
                )
            }
            // It only logs the number: what it sends on is by each packet's own header.
            channel.writeAndFlush(ProxyMessage.packets(protocol: 0, to: node).framed, promise: nil)
        } catch {
            promise.fail(error)
        }
        promise.futureResult.whenFailure { _ in stream.reset() }
        return promise.futureResult
    }

    private func failed(_ error: TunnelError) -> TunnelError {
        self.state.withLock { $0.failed[error.code, default: 0] += 1 }
        return error
    }
}
