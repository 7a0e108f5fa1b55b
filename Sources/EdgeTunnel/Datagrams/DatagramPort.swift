import ByteStreams
import Glibc
import Logging
import MeshCore
import NIOCore
import NIOPosix
import PacketDatagrams
import Synchronization

/// The port of the tunnel for datagrams, one for all peers: a socket of each family, on one loop. What comes is handed to whoever has
/// its index, on that one's loop. Any thread.
final class DatagramPort: Sendable {
    /// A datagram, and where it came from.
    typealias Arrival = (datagram: ByteBuffer, source: TransportAddress)
    typealias Receiver = @Sendable ([Arrival]) -> Void

    /// Datagrams of one length, but for the last, which may be shorter: one system call, or one buffer of the network card.
    struct Batch: Sendable {
        var bytes: ByteBuffer
        var segmentSize: Int
        var target: TransportAddress
    }

    struct Counters: Sendable, Hashable {
        var batchesSent: UInt64 = 0
        var bytesSent: UInt64 = 0
        /// The socket took no more.
        var batchesDropped: UInt64 = 0
        var datagramsReceived: UInt64 = 0
        /// Of no index that is in use.
        var strayDatagrams: UInt64 = 0
        /// Sockets that an error has ended; they are made anew.
        var socketsLost: UInt64 = 0
    }

    /// Segments of one batch, as the kernel has it (UDP_MAX_SEGMENTS).
    static let maximumSegments = 64
    static let maximumBatchBytes = 65_000
    private static let socketBuffer = 4 << 20
    /// Until a socket that was lost is made anew.
    private static let reopenDelay = TimeAmount.seconds(1)

    private struct Entry {
        let loop: any EventLoop
        let receive: Receiver
    }

    private struct State {
        var isOpen = false
        var channels: [IPFamily: any Channel] = [:]
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

    /// The socket of each family that there is.
    var sockets: [IPFamily: any Channel] { self.state.withLock { $0.channels } }

    /// How many indices are in use.
    var indices: Int { self.state.withLock { $0.receivers.count } }

    /// The port of each family that there is.
    var ports: [IPFamily: UInt16] {
        self.sockets.compactMapValues { $0.localAddress?.port.flatMap { UInt16(exactly: $0) } }
    }

    // MARK: Life

    /// Takes the port of both families, or of the one that there is. Without either there are no datagrams, and packets take the stream.
    func open(_ port: UInt16) async {
        self.state.withLock { $0.isOpen = true }
        for family in [IPFamily.v4, .v6] {
            do {
                self.opened(try await self.bind(port, family).get(), family)
            } catch {
                self.logger.info(
                    "no datagrams for packets",
                    metadata: ["family": "\(family)", "port": "\(port)", "error": "\(error)"]
                )
            }
        }
    }

    func close() async {
        let channels = self.state.withLock { state in
            defer { (state.channels, state.receivers, state.isOpen) = ([:], [:], false) }
            return Array(state.channels.values)
        }
        for channel in channels { try? await channel.close() }
    }

    private func opened(_ channel: any Channel, _ family: IPFamily) {
        let isWanted = self.state.withLock { state in
            if state.isOpen { state.channels[family] = channel }
            return state.isOpen
        }
        guard isWanted, let port = channel.localAddress?.port.flatMap({ UInt16(exactly: $0) }) else {
            return channel.close(promise: nil)
        }
        // An error of one datagram, such as that there is no route, ends the whole socket.
        channel.closeFuture.whenComplete { [weak self] _ in self?.reopen(port, family) }
    }

    private func reopen(_ port: UInt16, _ family: IPFamily) {
        let isWanted = self.state.withLock { state in
            state.channels[family] = nil
            if state.isOpen { state.counters.socketsLost += 1 }
            return state.isOpen
        }
        guard isWanted else { return }
        self.loop.scheduleTask(in: Self.reopenDelay) { [weak self] in
            guard let self, self.state.withLock({ $0.isOpen }) else { return }
            self.bind(port, family).whenComplete { [weak self] result in
                switch result {
                case .success(let channel): self?.opened(channel, family)
                case .failure: self?.reopen(port, family)
                }
            }
        }
    }

    private func bind(_ port: UInt16, _ family: IPFamily) -> EventLoopFuture<any Channel> {
        @Sendable func option(_ level: CInt, _ name: CInt) -> ChannelOptions.Types.SocketOption {
            .init(level: .init(rawValue: level), name: .init(rawValue: name))
        }
        let (ip4, ip6) = (CInt(IPPROTO_IP), CInt(IPPROTO_IPV6))
        var bootstrap = DatagramBootstrap(group: self.loop)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelOption(.maxMessagesPerRead, value: 16)
            .channelOption(.writeBufferWaterMark, value: .init(low: 1 << 20, high: 4 << 20))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramPortHandler(self))
                }
            }
        // Datagrams are not to be cut on the way, whatever the kernel has heard of it: the path's own probes tell.
        if family == .v4 {
            bootstrap = bootstrap.channelOption(option(ip4, IP_MTU_DISCOVER), value: Int(IP_PMTUDISC_PROBE))
        } else {
            bootstrap = bootstrap.channelOption(option(ip6, IPV6_MTU_DISCOVER), value: Int(IPV6_PMTUDISC_PROBE))
                .channelOption(option(ip6, IPV6_V6ONLY), value: 1)
        }
        let address = TransportAddress(family == .v4 ? .v4(.any) : .v6(.any), port)
        return bootstrap.bind(to: SocketAddress(address)).map { channel in
            // What the kernel does not grant it goes without.
            for name in [SO_SNDBUFFORCE, SO_RCVBUFFORCE] {
                try? channel.syncOptions?.setOption(option(SOL_SOCKET, name), value: Self.socketBuffer)
            }
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
        guard self.loop.inEventLoop else { return self.loop.execute { self.send(batches) } }
        let channels = self.sockets
        var counters = Counters()
        for batch in batches {
            guard let channel = channels[batch.target.address.family], channel.isWritable else {
                counters.batchesDropped += 1
                continue
            }
            let isOne = batch.bytes.readableBytes <= batch.segmentSize
            let envelope = AddressedEnvelope(
                remoteAddress: SocketAddress(batch.target),
                data: batch.bytes,
                metadata: isOne
                    ? nil
                    : .init(ecnState: .transportNotCapable, packetInfo: nil, segmentSize: batch.segmentSize)
            )
            channel.write(envelope, promise: nil)
            counters.batchesSent += 1
            counters.bytesSent += UInt64(batch.bytes.readableBytes)
        }
        for channel in channels.values { channel.flush() }
        let sent = counters
        self.state.withLock { state in
            state.counters.batchesSent += sent.batchesSent
            state.counters.bytesSent += sent.bytesSent
            state.counters.batchesDropped += sent.batchesDropped
        }
    }

    /// Hands datagrams to those who have their indices. On the port's loop.
    fileprivate func dispatch(_ arrivals: [UInt32: [Arrival]]) {
        let entries = self.state.withLock { state in
            for (index, datagrams) in arrivals {
                state.counters.datagramsReceived += UInt64(datagrams.count)
                if state.receivers[index] == nil { state.counters.strayDatagrams += UInt64(datagrams.count) }
            }
            return arrivals.compactMap { index, datagrams in state.receivers[index].map { ($0, datagrams) } }
        }
        for (entry, datagrams) in entries {
            if entry.loop.inEventLoop {
                entry.receive(datagrams)
            } else {
                entry.loop.execute { entry.receive(datagrams) }
            }
        }
    }
}

/// Cuts what a socket reads into datagrams. Confined to its loop.
private final class DatagramPortHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let port: DatagramPort
    /// Of one turn of the loop: as many as `maxMessagesPerRead` brings.
    private var arrivals: [UInt32: [DatagramPort.Arrival]] = [:]

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
            self.arrivals[index, default: []].append((datagram, source))
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        let arrivals = self.arrivals
        self.arrivals.removeAll(keepingCapacity: true)
        self.port.dispatch(arrivals)
    }

    /// A datagram that some link on the way does not take, or an ICMP error of one before: the probes tell.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}
