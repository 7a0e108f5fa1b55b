import ByteStreams
import MeshCore
import NIOCore
import PacketDatagrams
import PacketWire

/// Sends packets of a framed channel by datagrams where there is a way for them, and hands over those that come so as frames, as if they
/// had come by the channel. Both agents agree on that by frames of their own, which whoever has the channel never sees. Confined to the
/// channel's loop.
final class PacketDatagramHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// The network of this machine has changed; fired through the pipeline.
    struct NetworkChanged {}

    /// Questions of a peer for keys: a second, and at once.
    private static let hellosPerSecond = 1.0
    private static let helloBurst = 5.0

    struct Surroundings: Sendable {
        /// Where this node may be reached by datagrams now.
        var addresses: @Sendable () -> [TransportAddress]
        /// The peer has told that it agrees on datagrams.
        var isUnderstood: @Sendable () -> Bool
    }

    /// Between looks whether the peer has told what it understands.
    private static let patience = TimeAmount.milliseconds(500)

    private let port: DatagramPort
    private let surroundings: Surroundings
    private var link: DatagramLink
    private var cutter = PacketFrameCutter()
    private var sending: DatagramBatches
    private var indices: Set<UInt32> = []
    private var hellos: TokenBucket
    private var timer: Scheduled<Void>?
    private var timerTime: MonotonicTime?
    private var context: ChannelHandlerContext?
    private var generator = SystemRandomNumberGenerator()
    private var scratch: [UInt8] = []
    private var hasDelivered = false

    init(
        _ role: DatagramExchange.Role,
        port: DatagramPort,
        prefersAES: Bool,
        configuration: DatagramLink.Configuration,
        surroundings: Surroundings,
        now: MonotonicTime
    ) {
        self.port = port
        self.surroundings = surroundings
        self.link = DatagramLink(role, prefersAES: prefersAES, configuration: configuration, now: now)
        self.sending = DatagramBatches()
        self.hellos = TokenBucket(rate: Self.hellosPerSecond, burst: Self.helloBurst, now: now)
    }

    /// Packets and probes of this channel.
    var counters: DatagramLink.Counters { self.link.counters }

    /// Bytes of a packet that goes by a datagram; nil while there is no way.
    var maximumPacket: Int? { self.link.maximumPacket }

    // MARK: Life

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.wake() }
    }

    func channelActive(context: ChannelHandlerContext) {
        self.wake()
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.end()
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.end() }

    private func end() {
        self.context = nil
        self.timer?.cancel()
        self.timer = nil
        for index in self.indices { self.port.forget(index) }
        self.indices = []
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard event is NetworkChanged else { return context.fireUserInboundEventTriggered(event) }
        self.link.networkChanged(now: self.now)
        self.wake()
    }

    // MARK: Inbound

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        do {
            for piece in self.cutter.take(self.unwrapInboundIn(data)) {
                switch piece {
                case .frames(let bytes):
                    self.hasDelivered = true
                    context.fireChannelRead(self.wrapInboundOut(bytes))
                case .message(let bytes): try self.received(hello: bytes)
                }
            }
        } catch {
            context.fireErrorCaught(error)
            context.channel.closeWithReset()
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        let hasDelivered = self.hasDelivered
        self.hasDelivered = false
        context.completeRead(hasDelivered)
    }

    private func received(hello: ByteBuffer) throws {
        guard self.link.role == .opener || self.hellos.take(now: self.now) else { return }
        let index = self.link.role == .acceptor ? self.newIndex() : 0
        self.handle(
            try self.link.received(hello: hello, index: index, addresses: self.surroundings.addresses(), now: self.now)
        )
        self.wake()
    }

    /// Datagrams have come for this link.
    private func take(_ arrivals: [DatagramPort.Arrival]) {
        guard let context else { return }
        let now = self.now
        var frames = context.channel.allocator.buffer(capacity: arrivals.reduce(0) { $0 + $1.datagram.readableBytes })
        var hasControl = false
        for arrival in arrivals {
            let start = frames.writerIndex
            frames.writeRepeatingByte(0, count: PacketFrameCutter.headerLength)
            let received = arrival.datagram.withUnsafeReadableBytes {
                self.link.receive($0, from: arrival.source, into: &frames, now: now)
            }
            if case .packet(let isPartial) = received,
                PacketFrameCutter.finish(frameAt: start, isChecksumPartial: isPartial, of: &frames)
            {
                continue
            }
            frames.moveWriterIndex(to: start)
            guard case .control(let outputs) = received else { continue }
            hasControl = true
            self.handle(outputs)
        }
        if frames.readableBytes > 0 {
            context.fireChannelRead(self.wrapInboundOut(frames))
            context.fireChannelReadComplete()
        }
        if hasControl { self.wake() }
    }

    // MARK: Outbound

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let frames = self.unwrapOutboundIn(data)
        guard let most = self.link.maximumPacket, let address = self.link.address else {
            return context.write(data, promise: promise)
        }
        // What does not fit goes by the stream, in its order.
        var rest = ByteBuffer()
        let isWhole = frames.withUnsafeReadableBytes { bytes in
            PacketFrameCutter.forEachFrame(in: bytes) { frame, packet, offload in
                if !self.send(packet, offload, most, to: address) { rest.writeBytes(frame) }
            }
        }
        guard isWhole else { return context.write(data, promise: promise) }
        if rest.readableBytes > 0 {
            context.write(self.wrapOutboundOut(rest), promise: promise)
        } else {
            promise?.succeed()
        }
    }

    func flush(context: ChannelHandlerContext) {
        self.flushDatagrams()
        context.flush()
    }

    private func flushDatagrams() {
        let batches = self.sending.finish()
        guard !batches.isEmpty else { return }
        self.port.send(batches)
        self.link.sent(now: self.now)
        // The link may want to be looked at sooner than before.
        if let wake = self.link.wakeTime, wake < self.timerTime ?? MonotonicTime(nanoseconds: .max) { self.schedule() }
    }

    /// Seals a packet, or those that it stands for; false if it is to go by the stream.
    private func send(
        _ packet: UnsafeRawBufferPointer,
        _ offload: PacketOffload,
        _ most: Int,
        to address: TransportAddress
    ) -> Bool {
        guard offload.segmentSize > 0 else {
            guard packet.count <= most else { return false }
            return self.seal(packet, isChecksumPartial: offload.isChecksumPartial, to: address)
        }
        guard let parsed = try? IPPacket(parsing: packet),
            let segments = try? PacketSegments(offload, of: parsed, packet), segments.maximumLength <= most
        else { return false }
        if self.scratch.count < segments.maximumLength {
            self.scratch = [UInt8](repeating: 0, count: segments.maximumLength)
        }
        for index in 0..<segments.count {
            let isSealed = self.scratch.withUnsafeMutableBytes { scratch in
                let length = segments.write(index, of: packet, to: scratch)
                let segment = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(scratch)[..<length])
                return self.seal(segment, isChecksumPartial: false, to: address)
            }
            // Lost, as the whole cannot go by the stream any more; the keys are about to be renewed.
            guard isSealed else { return index > 0 }
        }
        return true
    }

    private func seal(
        _ packet: UnsafeRawBufferPointer,
        isChecksumPartial: Bool,
        to address: TransportAddress
    ) -> Bool {
        self.sending.append(length: packet.count + DatagramSession.overhead, to: address) { buffer in
            self.link.seal(packet, isChecksumPartial: isChecksumPartial, into: &buffer)
        }
    }

    // MARK: Link

    private var now: MonotonicTime { MonotonicTime(self.context?.eventLoop.now ?? .now()) }

    private func newIndex() -> UInt32 {
        guard let loop = self.context?.eventLoop else { return 0 }
        let bound = NIOLoopBound(self, eventLoop: loop)
        let index = self.port.register(on: loop) { bound.value.take($0) }
        self.indices.insert(index)
        return index
    }

    private func handle(_ outputs: [DatagramLink.Output]) {
        var batches: [DatagramPort.Batch] = []
        for output in outputs {
            switch output {
            case .hello(let bytes):
                guard let context, let frame = PacketFrameCutter.frame(message: bytes) else { continue }
                context.writeAndFlush(self.wrapOutboundOut(frame), promise: nil)
            case .datagram(let bytes, let target):
                batches.append(DatagramPort.Batch(bytes: bytes, segmentSize: bytes.readableBytes, target: target))
            case .forget(let index):
                self.indices.remove(index)
                self.port.forget(index)
            }
        }
        if !batches.isEmpty { self.port.send(batches) }
    }

    private func wake() {
        guard self.context != nil else { return }
        let now = self.now
        self.handle(self.link.wake(now: now, using: &self.generator))
        guard self.link.isToAsk(now: now) else { return self.schedule() }
        guard self.surroundings.isUnderstood() else {
            // It would take the question for a frame that is none. Without a name for it, it is one that never will understand.
            return self.schedule(at: now + .nanoseconds(Self.patience.nanoseconds))
        }
        self.handle(
            self.link.ask(index: self.newIndex(), addresses: self.surroundings.addresses(), now: now)
        )
        self.schedule()
    }

    private func schedule() { self.schedule(at: self.link.wakeTime) }

    private func schedule(at time: MonotonicTime?) {
        self.timer?.cancel()
        self.timerTime = time
        guard let time, let loop = self.context?.eventLoop else { return }
        self.timer = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(time.nanoseconds)) { self.wake() }
    }
}
