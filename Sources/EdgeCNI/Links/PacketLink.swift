import MeshCore
import MeshInterfaces
import NIOCore
import PacketWire

/// The channels of one loop to the agent of a node, and the packets that wait for them. Confined to that loop.
///
/// Packets are sent on one channel, the newest. Those wait here, by flows, that it does not take at once: in the channel they could
/// neither overtake others nor be dropped.
final class PacketLink {
    struct Limits: Sendable, Hashable {
        var queue = FlowQueues<ByteBuffer>.Limits()
        /// Bytes that are handed to the channel at once.
        var batch = 64 << 10
        var openTimeout = TimeAmount.seconds(10)
        var firstBackoff = TimeAmount.milliseconds(250)
        var longestBackoff = TimeAmount.seconds(5)
    }

    let node: String
    private let worker: PacketWorker
    private let limits: Limits
    private(set) var channels: [PeerChannel] = []
    private(set) var sending: PeerChannel?
    private(set) var queue: FlowQueues<ByteBuffer>
    /// What goes to `sending` next, in its form.
    private var batch = FrameBatch()
    private var isPumping = false

    private(set) var isOpening = false
    private(set) var failures = 0
    private(set) var lastFailure: String?
    /// Packets of the peer whose sources are not its own.
    private(set) var spoofedPackets: UInt64 = 0
    /// Until then no channel is opened.
    private var pause: Scheduled<Void>?
    /// The last attempt has shown that the node is not to be had: senders are told.
    private var isRefusing = false
    private(set) var lastUsed: NIODeadline

    init(node: String, worker: PacketWorker, limits: Limits) {
        self.node = node
        self.worker = worker
        self.limits = limits
        self.queue = FlowQueues(limits: limits.queue)
        self.lastUsed = worker.loop.now
    }

    // MARK: To the peer

    /// Takes a packet of this loop's queue of the device; `flush` sends it on.
    func send(_ packet: UnsafeRawBufferPointer, _ sending: PacketForwarder.Sending) {
        if let target = self.ready, target.form == .framed {
            self.worker.write(packet, sending, to: &self.batch)
            if self.batch.count >= self.limits.batch { self.writeBatch(to: target) }
            return
        }
        var frame = FrameBatch(capacity: PacketFrame.headerLength + packet.count)
        self.worker.write(packet, sending, to: &frame)
        self.enqueue(frame.bytes, flow: sending.flow)
    }

    /// Takes a packet without copying it, if the channel takes it now before all others.
    /// - Returns: whether it was taken.
    func sendWhole(_ packet: ByteBuffer, _ offload: PacketOffload) -> Bool {
        guard let target = self.ready, target.form == .framed else { return false }
        self.batch.appendHeader(of: packet.readableBytes, offload)
        self.writeBatch(to: target)
        target.channel.writeAndFlush(packet, promise: nil)
        return true
    }

    /// Takes packets that another loop has read, in their frames.
    func send(_ handover: PacketHandover.Batch) {
        if let target = self.ready, target.form == .framed {
            self.writeBatch(to: target)
            target.channel.writeAndFlush(handover.frames.bytes, promise: nil)
            self.lastUsed = self.worker.loop.now
            return
        }
        var frames = handover.frames.bytes
        for (flow, length) in handover.packets {
            // Of its own: a slice would keep the whole batch.
            guard let frame = frames.readSlice(length: length) else { return }
            self.enqueue(ByteBuffer(bytes: frame.readableBytesView), flow: flow)
        }
        self.flush()
    }

    /// The channel, if it takes a packet now before all others.
    private var ready: PeerChannel? {
        guard let target = self.sending, self.queue.isEmpty, target.channel.isWritable else { return nil }
        return target
    }

    private func enqueue(_ frame: ByteBuffer, flow: UInt32) {
        if self.sending == nil, self.isRefusing || self.worker.isUnreachable(self.node) {
            return self.worker.refuse(frame)
        }
        guard self.worker.mayWait(frame.readableBytes) else { return self.worker.countOverflow(1) }
        let (bytes, dropped) = (self.queue.bytes, self.queue.dropped)
        self.queue.append(frame, bytes: frame.readableBytes, flow: flow)
        self.worker.countOverflow(self.queue.dropped - dropped)
        self.worker.waitingBytes += self.queue.bytes - bytes
        self.open()
    }

    /// Sends what was taken since the last time.
    func flush() {
        self.lastUsed = self.worker.loop.now
        if let target = self.sending { self.writeBatch(to: target) }
        self.pump()
    }

    /// Sends what waits, as far as the channel takes it.
    func pump() {
        guard !self.isPumping, !self.queue.isEmpty else { return }
        self.isPumping = true
        defer { self.isPumping = false }
        while let target = self.sending, target.channel.isWritable, !self.queue.isEmpty {
            let bytes = self.queue.bytes
            let limit = target.form == .framed ? self.limits.batch : PacketChannel.maximumOriginalWrite
            while self.batch.count < limit, let (frame, isCongested) = self.queue.next() {
                self.append(frame, isCongested, to: target)
            }
            self.worker.waitingBytes -= bytes - self.queue.bytes
            self.writeBatch(to: target)
        }
    }

    private func append(_ frame: ByteBuffer, _ isCongested: Bool, to target: PeerChannel) {
        switch target.form {
        case .framed:
            self.worker.withPacket(of: frame) { packet, content, offload in
                let tells = isCongested && IPPacket.understandsCongestion(content)
                self.batch.append(packet, content, offload, edit: tells ? self.worker.markCongestion : nil)
            }
        case .original:
            self.worker.withOriginals(of: frame) { packet in
                // No write holds more than its agent takes at once.
                if self.batch.count + packet.count > PacketChannel.maximumOriginalWrite {
                    self.writeBatch(to: target)
                }
                self.batch.append(plain: packet)
            }
        }
    }

    private func writeBatch(to target: PeerChannel) {
        guard !self.batch.isEmpty else { return }
        target.channel.writeAndFlush(self.batch.take(), promise: nil)
    }

    // MARK: From the peer

    func receive(_ packet: UnsafeRawBufferPointer, _ offload: PacketOffload) {
        guard self.worker.receive(packet, offload, from: self.node) == .spoofed else { return }
        // Once: the figures tell how many.
        if self.spoofedPackets == 0 { self.worker.tellOfSpoofing(by: self.node) }
        self.spoofedPackets &+= 1
    }

    func refuse(_ error: any Error) {
        self.worker.refuseStream(of: self.node, error)
    }

    // MARK: Channels

    /// Takes a channel of this loop.
    func add(_ packets: PacketChannel, isOpened: Bool) {
        let added = PeerChannel(packets, isOpened: isOpened, link: self)
        do {
            try added.join()
        } catch {
            packets.channel.close(promise: nil)
            return
        }
        if isOpened {
            // Made anew on a better way, or after a peer's: the old one is done.
            for old in self.channels where old.isOpened { old.end() }
        }
        self.channels.append(added)
        self.lastUsed = self.worker.loop.now
        self.choose()
        self.recover()
    }

    func ended(_ channel: PeerChannel) {
        self.channels.removeAll { $0 === channel }
        guard self.sending === channel else { return }
        self.choose()
    }

    private func choose() {
        let chosen = self.channels.last { $0.isSending }
        if chosen !== self.sending {
            // It is in the form of another channel, and may be in its way to nobody.
            self.batch.clear()
            self.sending = chosen
        }
        if self.sending == nil, !self.queue.isEmpty { self.open() }
        self.pump()
    }

    /// Opens a channel if packets wait for one.
    private func open() {
        guard self.sending == nil, self.pause == nil else { return }
        self.beginOpening()
    }

    /// There is a better way to the node than that of `channel`: another takes over from it.
    func renew(_ channel: PeerChannel) {
        guard self.sending === channel else { return channel.end() }
        self.beginOpening()
    }

    private func beginOpening() {
        guard !self.isOpening else { return }
        self.isOpening = true
        self.worker.openChannel(to: self.node, within: self.limits.openTimeout)
    }

    /// An attempt to open has led to a channel, of this loop or of another.
    func opened() {
        self.isOpening = false
    }

    func failedToOpen(_ error: any Error) {
        self.isOpening = false
        self.lastFailure = "\(error)"
        guard self.sending == nil else { return }
        self.failures += 1
        self.isRefusing = (error as? TunnelError)?.code.isLasting ?? false
        if self.isRefusing { self.refuseAll() }
        let doublings = min(self.failures - 1, 10)
        let backoff = min(self.limits.firstBackoff * (1 << doublings), self.limits.longestBackoff)
        self.pause?.cancel()
        self.pause = self.worker.loop.assumeIsolated().scheduleTask(in: backoff) {
            self.pause = nil
            self.isRefusing = false
            if !self.queue.isEmpty { self.open() }
        }
    }

    private func refuseAll() {
        for frame in self.takeAll() { self.worker.refuse(frame) }
    }

    /// The node can be reached, or could be: what failed before counts no more.
    func recover() {
        (self.failures, self.isRefusing) = (0, false)
        self.pause?.cancel()
        self.pause = nil
        if !self.queue.isEmpty { self.open() }
    }

    /// Removes the packets that wait.
    func takeAll() -> [ByteBuffer] {
        self.worker.waitingBytes -= self.queue.bytes
        var frames: [ByteBuffer] = []
        frames.reserveCapacity(self.queue.count)
        while let (frame, _) = self.queue.next() { frames.append(frame) }
        return frames
    }

    // MARK: End

    /// Ends what nobody has used since `time`.
    /// - Returns: whether nothing is left of the link.
    func sweep(idleSince time: NIODeadline) -> Bool {
        guard self.lastUsed < time, self.channels.allSatisfy({ $0.lastRead < time }) else { return false }
        for channel in self.channels where channel.isOpened { channel.close() }
        return self.channels.isEmpty && self.queue.isEmpty && !self.isOpening
    }

    func close() {
        self.pause?.cancel()
        self.pause = nil
        _ = self.takeAll()
        for channel in self.channels { channel.close() }
    }
}

extension TunnelError.Code {
    /// Whether trying again at once is of no use, so that senders are better told.
    fileprivate var isLasting: Bool {
        switch self {
        case .noPath, .unknownNode, .unreachable, .refused, .notAllowed: true
        case .overloaded, .timedOut, .badAnswer, .notRunning: false
        }
    }
}
