import ByteStreams
import Glibc
import Logging
import MeshCore
import NIOCore
import NIOPosix
import PacketDatagrams
import Synchronization

/// The port of the tunnel for datagrams, one for all peers: a socket of each family, read on one loop. What comes is handed to whoever
/// has its index, on that one's loop. Any thread.
final class DatagramPort: Sendable {
    typealias Batch = DatagramSocket.Batch

    /// Datagrams one behind the other, of each its length and where it came from.
    struct Arrivals: Sendable {
        var bytes = ByteBuffer()
        var datagrams: [(length: Int, source: TransportAddress)] = []
    }

    typealias Receiver = @Sendable (Arrivals) -> Void

    struct Counters: Sendable, Hashable {
        var sent: UInt64 = 0
        var sentBytes: UInt64 = 0
        /// The socket was full.
        var dropped: UInt64 = 0
        /// The kernel does not send them: there is no route, or a rule forbids them.
        var failed: UInt64 = 0
        var received: UInt64 = 0
        /// Of no index that is in use.
        var stray: UInt64 = 0
        /// Their receiver's loop was too far behind.
        var overrun: UInt64 = 0
    }

    /// Segments of one batch, as the kernel has it (UDP_MAX_SEGMENTS).
    static let maximumSegments = 64
    static let maximumBatchBytes = 65_000
    /// Bytes that wait for the loop of a receiver.
    static let maximumWaiting = 1 << 20
    /// Until a reader that an error has ended is made anew.
    private static let reopenDelay = TimeAmount.seconds(1)

    /// Who has an index.
    private final class Entry: Sendable {
        let loop: any EventLoop
        let receive: Receiver
        let waiting = Atomic<Int>(0)

        init(loop: any EventLoop, receive: @escaping Receiver) {
            self.loop = loop
            self.receive = receive
        }

        /// - Returns: whether there was room.
        func take(_ arrivals: Arrivals) -> Bool {
            if self.loop.inEventLoop {
                self.receive(arrivals)
                return true
            }
            let bytes = arrivals.bytes.readableBytes
            guard self.waiting.load(ordering: .relaxed) + bytes <= DatagramPort.maximumWaiting else { return false }
            self.waiting.add(bytes, ordering: .relaxed)
            self.loop.execute {
                self.waiting.subtract(bytes, ordering: .relaxed)
                self.receive(arrivals)
            }
            return true
        }
    }

    private struct State {
        var isOpen = false
        var sockets: [IPFamily: DatagramSocket] = [:]
        var readers: [IPFamily: any Channel] = [:]
        var receivers: [UInt32: Entry] = [:]
        var counters = Counters()
    }

    let loop: any EventLoop
    private let logger: Logger
    private let state = Mutex(State())

    init(loop: any EventLoop, logger: Logger) {
        self.loop = loop
        self.logger = logger
    }

    var counters: Counters { self.state.withLock { $0.counters } }

    /// What reads each socket that there is.
    var readers: [IPFamily: any Channel] { self.state.withLock { $0.readers } }

    /// How many indices are in use.
    var indices: Int { self.state.withLock { $0.receivers.count } }

    /// The port of each family that there is.
    var ports: [IPFamily: UInt16] { self.state.withLock { $0.sockets.mapValues(\.port) } }

    // MARK: Life

    /// Takes the port of both families, or of the one that there is. Without either there are no datagrams, and packets take the stream.
    func open(_ port: UInt16) async {
        self.state.withLock { $0.isOpen = true }
        for family in [IPFamily.v4, .v6] {
            do {
                let socket = try DatagramSocket(family, port: port)
                self.state.withLock { $0.sockets[family] = socket }
                self.opened(try await self.read(socket).get(), family)
            } catch {
                self.state.withLock { $0.sockets[family] = nil }
                self.logger.info(
                    "no datagrams for packets of pods",
                    metadata: ["family": "\(family)", "port": "\(port)", "error": "\(error)"]
                )
            }
        }
    }

    func close() async {
        let readers = self.state.withLock { state in
            let readers = Array(state.readers.values)
            (state.sockets, state.readers, state.receivers, state.isOpen) = ([:], [:], [:], false)
            return readers
        }
        for reader in readers { try? await reader.close() }
    }

    private func opened(_ reader: any Channel, _ family: IPFamily) {
        let isWanted = self.state.withLock { state in
            if state.isOpen { state.readers[family] = reader }
            return state.isOpen
        }
        guard isWanted else { return reader.close(promise: nil) }
        reader.closeFuture.whenComplete { [weak self] _ in self?.reopen(family) }
    }

    private func reopen(_ family: IPFamily) {
        let socket = self.state.withLock { state in
            state.readers[family] = nil
            return state.sockets[family]
        }
        guard let socket else { return }
        self.loop.scheduleTask(in: Self.reopenDelay) { [weak self] in
            guard let self, self.state.withLock({ $0.sockets[family] === socket }) else { return }
            self.read(socket).whenComplete { [weak self] result in
                switch result {
                case .success(let reader): self?.opened(reader, family)
                case .failure: self?.reopen(family)
                }
            }
        }
    }

    private func read(_ socket: DatagramSocket) -> EventLoopFuture<any Channel> {
        let descriptor = socket.duplicate()
        guard descriptor >= 0 else {
            return self.loop.makeFailedFuture(IOError(errnoCode: errno, reason: "cannot duplicate a socket"))
        }
        return DatagramBootstrap(group: self.loop)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelOption(.maxMessagesPerRead, value: 16)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramPortHandler(self))
                }
            }
            .withBoundSocket(descriptor)
            .map { channel in
                // What the kernel does not grant it goes without.
                if System.supportsUDPReceiveOffload {
                    try? channel.syncOptions?.setOption(.datagramReceiveOffload, value: true)
                    try? channel.syncOptions?.setOption(.datagramReceiveSegmentSize, value: true)
                }
                return channel
            }
    }

    // MARK: Indices

    /// An index that is in use from now on, for a receiver on `loop`.
    func register(on loop: any EventLoop, _ receive: @escaping Receiver) -> UInt32 {
        self.state.withLock { state in
            while true {
                let index = UInt32.random(in: 1 ... .max)
                guard state.receivers[index] == nil else { continue }
                state.receivers[index] = Entry(loop: loop, receive: receive)
                return index
            }
        }
    }

    func forget(_ index: UInt32) { self.state.withLock { $0.receivers[index] = nil } }

    // MARK: Datagrams

    /// Sends what the sockets take; the rest is lost, as on any link.
    func send(_ batches: [Batch]) {
        let sockets = self.state.withLock { $0.sockets }
        var sent = Counters()
        for batch in batches {
            switch sockets[batch.target.address.family]?.send(batch) ?? EAFNOSUPPORT {
            case 0:
                sent.sent += UInt64(batch.count)
                sent.sentBytes += UInt64(batch.bytes.readableBytes)
            case EAGAIN, ENOBUFS: sent.dropped += UInt64(batch.count)
            default: sent.failed += UInt64(batch.count)
            }
        }
        let counted = sent
        self.state.withLock { state in
            state.counters.sent += counted.sent
            state.counters.sentBytes += counted.sentBytes
            state.counters.dropped += counted.dropped
            state.counters.failed += counted.failed
        }
    }

    /// Hands datagrams to those who have their indices. On the port's loop.
    fileprivate func dispatch(_ arrivals: [UInt32: Arrivals]) {
        let receivers = self.state.withLock { state in arrivals.keys.map { ($0, state.receivers[$0]) } }
        var seen = Counters()
        for (index, receiver) in receivers {
            guard let datagrams = arrivals[index] else { continue }
            let count = UInt64(datagrams.datagrams.count)
            seen.received += count
            guard let receiver else {
                seen.stray += count
                continue
            }
            if !receiver.take(datagrams) { seen.overrun += count }
        }
        let counted = seen
        self.state.withLock { state in
            state.counters.received += counted.received
            state.counters.stray += counted.stray
            state.counters.overrun += counted.overrun
        }
    }
}

/// Sorts what a socket reads by the indices of those who are to have it. Confined to its loop.
private final class DatagramPortHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let port: DatagramPort
    /// Of one turn of the loop: as many as `maxMessagesPerRead` brings.
    private var arrivals: [UInt32: DatagramPort.Arrivals] = [:]

    init(_ port: DatagramPort) {
        self.port = port
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        guard let source = TransportAddress(envelope.remoteAddress) else { return }
        var bytes = envelope.data
        // The kernel joins what came from one sender in one length; the last may be shorter.
        let size = envelope.metadata?.segmentSize ?? bytes.readableBytes
        while let datagram = bytes.readSlice(length: min(size, bytes.readableBytes)), datagram.readableBytes > 0 {
            guard let index = DatagramSession.index(of: datagram) else { continue }
            // Copied, so that a short one does not keep the room of the longest.
            self.arrivals[index, default: .init()].bytes.writeImmutableBuffer(datagram)
            self.arrivals[index]?.datagrams.append((datagram.readableBytes, source))
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        let arrivals = self.arrivals
        self.arrivals.removeAll(keepingCapacity: true)
        self.port.dispatch(arrivals)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}
