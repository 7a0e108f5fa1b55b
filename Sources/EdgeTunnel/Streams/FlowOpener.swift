import ByteStreams
import LibP2P
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import Synchronization
import Yamux

/// Opens flows to targets that the agents of other nodes dial, by our protocol or by that of v1.17. Any thread.
final class FlowOpener: Sendable {
    struct Counters: Sendable, Hashable {
        var opened: UInt64 = 0
        /// Of these, by the protocol of v1.17.
        var openedWithOriginals: UInt64 = 0
        var failed: [TunnelError.Code: UInt64] = [:]
    }

    let tally: FlowTally
    fileprivate let book: FlowTrafficBook
    fileprivate let state = Mutex(Counters())
    private let host: Host

    init(host: Host, limits: FlowLimits = FlowLimits()) {
        self.host = host
        self.tally = FlowTally(limits)
        self.book = FlowTrafficBook(host.group)
    }

    var counters: Counters { self.state.withLock { $0 } }

    /// What the opened flows of datagrams had to drop.
    func datagrams() async -> DatagramCounters { await self.book.total().datagrams }

    /// Asks the agent that `peer` is to dial `target`, over the best connection to it or a new one, and waits for its answer.
    ///
    /// The future completes on the loop of that connection, by `deadline`; fails with `TunnelError`. The channel has `autoRead`
    /// off and `allowRemoteHalfClosure` on; bytes that came with the answer wait for the first read. For `udp` each buffer read
    /// or written is one datagram, and where bytes may leave early the answer is not waited for: an error of the channel is one.
    /// - Parameters:
    ///   - loop: of the future if it fails before there is a connection.
    ///   - early: of a byte stream, called when the request is written, if the peer and its path are known to be there.
    func open(
        _ target: TunnelTarget,
        transport: TransportProtocol,
        peer: PeerID,
        addresses: [Multiaddr] = [],
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart? = nil
    ) -> EventLoopFuture<any Channel> {
        let remaining = deadline - loop.now
        guard remaining > .zero else { return loop.makeFailedFuture(self.failed(.late(target))) }
        if let limit = self.tally.enter(peer) {
            return loop.makeFailedFuture(
                self.failed(
                    TunnelError(code: .overloaded, message: "\(limit) by this node: none to \(target.node) now")
                )
            )
        }
        let connected: EventLoopFuture<Connection> = self.host.connect(
            to: peer,
            addresses: addresses,
            options: DialOptions(timeout: remaining)
        )
        let promise = connected.eventLoop.makePromise(of: (any Channel).self)
        let request = FlowOpening.Request(
            target: target,
            transport: transport,
            peer: peer,
            deadline: deadline,
            early: transport == .tcp ? early : nil
        )
        if connected.eventLoop.inEventLoop {
            FlowOpening(request, self, promise).begin(connected)
        } else {
            connected.eventLoop.execute { FlowOpening(request, self, promise).begin(connected) }
        }
        return promise.futureResult
    }

    /// A peer that owes an answer for longer may be gone. What is written early is lost with it, and cannot be sent elsewhere, as
    /// nobody knows how far it came.
    static let earlyPatience = TimeAmount.milliseconds(250)

    /// Whether a peer that was last heard and sent something then is there, as far as anybody can tell.
    static func isEarlySafe(heard: NIODeadline, sent: NIODeadline, now: NIODeadline) -> Bool {
        heard >= sent || now - heard < Self.earlyPatience
    }

    /// What the peer has told that it speaks decides; with one protocol the request travels with its proposal.
    fileprivate func protocols(of connection: Connection) -> [ProtocolID] {
        let told = connection.identification?.protocols ?? self.host.peers.protocols(of: connection.remotePeer)
        if told.contains(TunnelProtocol.flow) { return [TunnelProtocol.flow] }
        if told.contains(TunnelProtocol.proxy) { return [TunnelProtocol.proxy] }
        return [TunnelProtocol.flow, TunnelProtocol.proxy]
    }

    @discardableResult
    fileprivate func failed(_ error: TunnelError) -> TunnelError {
        self.state.withLock { $0.failed[error.code, default: 0] += 1 }
        return error
    }
}

/// One flow on its way to be open. Confined to the loop of the peer's connection.
private final class FlowOpening {
    struct Request: Sendable {
        let target: TunnelTarget
        let transport: TransportProtocol
        let peer: PeerID
        let deadline: NIODeadline
        let early: EarlyStart?
    }

    private let request: Request
    private let opener: FlowOpener
    private let promise: EventLoopPromise<any Channel>
    private var timer: Scheduled<Void>?
    private var isDone = false
    private var isHandedOver = false

    init(_ request: Request, _ opener: FlowOpener, _ promise: EventLoopPromise<any Channel>) {
        self.request = request
        self.opener = opener
        self.promise = promise
    }

    func begin(_ connected: EventLoopFuture<Connection>) {
        let loop = connected.eventLoop.assumeIsolated()
        // Who joins a dial of others would wait as long as they do.
        self.timer = loop.scheduleTask(deadline: self.request.deadline) {
            self.fail(.late(self.request.target))
        }
        connected.assumeIsolated().whenComplete { result in
            switch result {
            case .success(let connection): self.openStream(on: connection)
            case .failure(let error): self.fail(TunnelError(error, opening: self.request.target))
            }
        }
    }

    private func openStream(on connection: Connection) {
        guard !self.isDone else { return }
        let options = OpenStreamOptions(
            allowLimitedConnection: true,
            timeout: max(.milliseconds(1), self.request.deadline - connection.eventLoop.now)
        )
        let mayBeEarly = FlowOpener.isEarlySafe(
            heard: connection.lastHeard,
            sent: connection.lastSent,
            now: connection.eventLoop.now
        )
        connection.openStream(protocols: self.opener.protocols(of: connection), options: options)
            .assumeIsolated().whenComplete { result in
                switch result {
                case .success(let stream): self.ask(stream, mayBeEarly: mayBeEarly)
                case .failure(let error): self.fail(TunnelError(error, opening: self.request.target))
                }
            }
    }

    private func ask(_ stream: NegotiatedStream, mayBeEarly: Bool) {
        guard !self.isDone else { return stream.reset() }
        let channel = stream.channel
        let isOurs = stream.protocolID == TunnelProtocol.flow
        do {
            if !isOurs, self.request.transport == .udp { try channel.keepFramesAsDatagrams() }
            try PreambleHandler.read(on: channel, deadline: self.request.deadline) { result in
                self.answered(result, on: channel, isOurs: isOurs)
            }
            channel.writeAndFlush(self.message(isOurs: isOurs, now: channel.eventLoop.now), promise: nil)
            guard isOurs, mayBeEarly, !self.isDone else { return }
            switch self.request.transport {
            // Datagrams may be lost, and who sends them knows that: they do not wait for the answer.
            case .udp: try self.hand(over: channel, isOurs: true)
            case .tcp, .sctp: self.request.early?(channel)
            }
        } catch {
            stream.reset()
            self.fail(TunnelError(error, opening: self.request.target))
        }
    }

    private func answered(_ result: Result<ByteBuffer, any Error>, on channel: any Channel, isOurs: Bool) {
        do {
            try self.check(try result.get(), isOurs: isOurs)
            if !self.isHandedOver { try self.hand(over: channel, isOurs: isOurs) }
        } catch {
            let error = TunnelError(error, opening: self.request.target)
            if self.isHandedOver {
                self.opener.failed(error)
                channel.pipeline.fireErrorCaught(error)
            } else {
                self.fail(error)
            }
            channel.closeWithReset()
        }
    }

    private func message(isOurs: Bool, now: NIODeadline) -> ByteBuffer {
        let target = self.request.target
        guard isOurs else {
            return ProxyMessage.connect(self.request.transport, to: target.address, of: target.node).framed
        }
        var message = OpenRequest(target, self.request.transport)
        // Its answer needs a part of the time.
        let milliseconds = (self.request.deadline - now).nanoseconds / 1_000_000 * 9 / 10
        message.timeoutMilliseconds = UInt32(clamping: max(1, milliseconds))
        return message.framed
    }

    private func check(_ message: ByteBuffer, isOurs: Bool) throws {
        if isOurs {
            let reply = try OpenReply(message)
            guard reply.code == .ok else { throw TunnelError(reply, opening: self.request.target) }
        } else {
            switch try ProxyMessage(message).kind {
            case .success: break
            case .failed: throw TunnelError.failedThere(self.request.target)
            case .connect:
                throw MultiformatsError(code: .unsupported, message: "a request came where an answer was due")
            }
        }
    }

    private func hand(over channel: any Channel, isOurs: Bool) throws {
        guard !self.isDone else { throw ChannelError.alreadyClosed }
        if self.request.transport == .udp {
            guard let traffic = self.opener.book.on(channel.eventLoop) else {
                throw TunnelError(code: .notRunning, message: "the stream is on no event loop of the tunnel")
            }
            try channel.pipeline.syncOperations.addDatagramHandler(isFramed: isOurs, traffic)
        }
        self.isDone = true
        self.isHandedOver = true
        self.timer?.cancel()
        let (opener, peer) = (self.opener, self.request.peer)
        channel.closeFuture.whenComplete { _ in opener.tally.leave(peer) }
        opener.state.withLock { counters in
            counters.opened += 1
            if !isOurs { counters.openedWithOriginals += 1 }
        }
        self.promise.succeed(channel)
    }

    private func fail(_ error: TunnelError) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.opener.tally.leave(self.request.peer)
        self.promise.fail(self.opener.failed(error))
    }
}

extension Channel {
    /// For datagrams of v1.17, of which each is a frame of the multiplexer. On the channel's loop.
    func keepFramesAsDatagrams() throws {
        try self.syncOptions?.setOption(YamuxMessageBoundaries(), value: true)
    }
}

extension ChannelPipeline.SynchronousOperations {
    /// Adds what makes buffers datagrams at the end of the pipeline.
    func addDatagramHandler(isFramed: Bool, _ traffic: FlowTraffic) throws {
        if isFramed {
            try self.addHandler(FramedDatagramHandler(traffic))
        } else {
            try self.addHandler(UnframedDatagramHandler(traffic))
        }
    }
}
