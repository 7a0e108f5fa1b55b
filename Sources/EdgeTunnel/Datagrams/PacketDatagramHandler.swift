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
    private static let hellosPerSecond = 0.2
    private static let helloBurst = 5.0

    struct Surroundings: Sendable {
        /// Where this node may be reached by datagrams now.
        var addresses: @Sendable () -> [TransportAddress]
        /// The peer agrees on datagrams; nil: it has not told yet what it does.
        var isOffered: @Sendable () -> Bool?
        /// Is told what packets go by, with the handler's figures; nil at the end.
        var tell: @Sendable (PacketWay?) -> Void
    }

    /// A frame whose packet is the next write.
    private struct Begun {
        var head: PacketFrameCutter.Head
        /// Nil: it has gone by the stream.
        var header: ByteBuffer?
    }

    /// Between looks whether the peer has told what it does, and whether it does more than it told.
    private static let firstLook = Duration.milliseconds(500)
    private static let laterLook = Duration.seconds(30)

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
    /// What is written to the channel is frames.
    private var isFramed = true
    private var begun: Begun?
    private var hasDelivered = false

    init(
        _ role: DatagramExchange.Role,
        of parties: DatagramParties,
        port: DatagramPort,
        prefersAES: Bool,
        configuration: DatagramLink.Configuration,
        surroundings: Surroundings,
        now: MonotonicTime
    ) {
        self.port = port
        self.surroundings = surroundings
        self.link = DatagramLink(
            role,
            of: parties,
            prefersAES: prefersAES,
            configuration: configuration,
            now: now
        )
        self.sending = DatagramBatches()
        self.hellos = TokenBucket(rate: Self.hellosPerSecond, burst: Self.helloBurst, now: now)
    }

    /// What packets go by now.
    var way: PacketWay {
        PacketWay(
            reason: self.reason,
            address: self.link.address,
            roundTrip: self.link.roundTrip,
            maximumPacket: self.link.maximumPacket,
            usesAES: self.link.usesAES,
            counters: self.link.counters
        )
    }

    /// Why packets go by the stream; nil: they go by datagrams.
    private var reason: PacketWay.Reason? {
        guard self.link.isAgreed else { return .notAgreed }
        guard self.link.maximumPacket != nil else { return .noWay }
        return self.link.isNear ? .near : nil
    }

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
        guard self.context != nil else { return }
        self.surroundings.tell(self.way)
        self.surroundings.tell(nil)
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
    private func take(_ arrivals: DatagramPort.Arrivals) {
        guard let context else { return }
        let now = self.now
        var frames = context.channel.allocator.buffer(capacity: arrivals.bytes.readableBytes)
        var hasControl = false
        arrivals.bytes.withUnsafeReadableBytes { bytes in
            var rest = bytes
            for (length, source) in arrivals.datagrams {
                let datagram = UnsafeRawBufferPointer(rebasing: rest.prefix(length))
                rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(length))
                if let outputs = self.take(datagram, from: source, into: &frames, now: now) {
                    hasControl = true
                    self.handle(outputs)
                }
            }
        }
        if frames.readableBytes > 0 {
            context.fireChannelRead(self.wrapInboundOut(frames))
            context.fireChannelReadComplete()
        }
        if hasControl { self.wake() }
    }

    /// Appends the frame of a packet.
    /// - Returns: what is to be sent for a datagram that is for this side; nil for others.
    private func take(
        _ datagram: UnsafeRawBufferPointer,
        from source: TransportAddress,
        into frames: inout ByteBuffer,
        now: MonotonicTime
    ) -> [DatagramLink.Output]? {
        let start = frames.writerIndex
        frames.writeRepeatingByte(0, count: PacketFrameCutter.headerLength)
        let received = self.link.receive(datagram, from: source, into: &frames, now: now)
        if case .packet(let isPartial) = received,
            PacketFrameCutter.finish(frameAt: start, isChecksumPartial: isPartial, of: &frames)
        {
            return nil
        }
        frames.moveWriterIndex(to: start)
        guard case .control(let outputs) = received else { return nil }
        return outputs
    }

    // MARK: Outbound

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let bytes = self.unwrapOutboundIn(data)
        if let begun = self.begun.take() {
            return self.write(packet: bytes, of: begun, context: context, promise: promise)
        }
        guard self.isFramed else { return context.write(data, promise: promise) }
        let write = bytes.withUnsafeReadableBytes { PacketFrameCutter.write(of: $0) }
        // Nothing tells frames from packets any more: the stream carries what there is, as it is.
        if write == .unknown { self.isFramed = false }
        guard write != .unknown, self.reason == nil, let most = self.link.maximumPacket, let address = self.link.address
        else {
            if case .headed(let head) = write { self.begun = Begun(head: head, header: nil) }
            return context.write(data, promise: promise)
        }
        if case .headed(let head) = write {
            let header = bytes.getSlice(
                at: bytes.writerIndex - PacketFrameCutter.headerLength,
                length: PacketFrameCutter.headerLength
            )
            self.begun = Begun(head: head, header: header)
        }
        // What does not fit goes by the stream, in its order.
        var rest = ByteBuffer()
        bytes.withUnsafeReadableBytes { bytes in
            PacketFrameCutter.forEachFrame(in: bytes) { frame, packet, offload in
                if !self.send(packet, offload, most, to: address) { rest.writeBytes(frame) }
            }
        }
        if rest.readableBytes > 0 {
            context.write(self.wrapOutboundOut(rest), promise: promise)
        } else {
            promise?.succeed()
        }
    }

    /// Writes the packet whose frame the last write has begun.
    private func write(
        packet bytes: ByteBuffer,
        of begun: Begun,
        context: ChannelHandlerContext,
        promise: EventLoopPromise<Void>?
    ) {
        if bytes.readableBytes != begun.head.length { self.isFramed = false }
        guard let header = begun.header else { return context.write(self.wrapOutboundOut(bytes), promise: promise) }
        if self.isFramed, self.reason == nil, let most = self.link.maximumPacket, let address = self.link.address,
            bytes.withUnsafeReadableBytes({ self.send($0, begun.head.offload, most, to: address) })
        {
            promise?.succeed()
            return
        }
        context.write(self.wrapOutboundOut(header), promise: nil)
        context.write(self.wrapOutboundOut(bytes), promise: promise)
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
        guard offload.segmentSize > 0 || packet.count > most else {
            return self.seal(packet, isChecksumPartial: offload.isChecksumPartial, to: address)
        }
        guard let parsed = try? IPPacket(parsing: packet),
            let segments = PacketSegments(offload, of: parsed, packet, fitting: most)
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
        if self.link.isToAsk(now: now) { self.ask(now: now) }
        self.surroundings.tell(self.way)
        self.schedule()
    }

    private func ask(now: MonotonicTime) {
        let isOffered = self.surroundings.isOffered()
        guard isOffered == true else {
            // It would take the question for a frame that is none.
            return self.link.postpone(until: now + (isOffered == nil ? Self.firstLook : Self.laterLook))
        }
        self.handle(
            self.link.ask(index: self.newIndex(), addresses: self.surroundings.addresses(), now: now)
        )
    }

    private func schedule() {
        self.timer?.cancel()
        self.timerTime = self.link.wakeTime
        guard let time = self.timerTime, let loop = self.context?.eventLoop else { return }
        self.timer = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(time.nanoseconds)) { self.wake() }
    }
}
