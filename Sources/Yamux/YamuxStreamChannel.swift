import DequeModule
import NIOCore
import Synchronization

/// One stream of a session, as a channel of byte buffers.
///
/// All of it lives on the event loop of the session; other threads read only `status` and what is immutable.
///
/// - Reading: what comes is delivered while a `read()` is open, at most `readBurstBytes` for one read, and waits otherwise; the
///   peer's window opens only for what was delivered.
/// - Writing: flushed writes wait here until the session's round takes them, one frame for each write that fits.
/// - Closing: `close()` ends the stream as a socket does: flushed bytes are sent, then FIN. The channel is inactive at once; what
///   is left lingers in the session, and data that comes for a closed stream, or was not read, is answered by RST. With the
///   socket option SO_LINGER set to zero, or by the outbound event ``YamuxStreamReset``, it sends RST instead.
///
/// Unchecked, as NIO wants channels to be `Sendable` and the compiler cannot see their loop: what other threads read is atomic or under a
/// lock, all else is touched on the session's loop alone.
final class YamuxStreamChannel: Channel, ChannelCore, @unchecked Sendable {  // Safe because loop-confined.
    /// As much as one read of the connection brings: who passes it on does so in one write.
    static let readBurstBytes = 128 * 1024
    /// Beyond this many waiting reads small ones are joined, so that bookkeeping stays small against the window.
    static let (separateReads, joinedReadBytes) = (1024, 64 * 1024)
    /// What one waiting read costs beside its bytes: peers may send them one by one.
    static let readOverhead = 128

    struct PendingWrite {
        var bytes: ByteBuffer
        var promise: EventLoopPromise<Void>?
    }

    /// Bytes that came and wait for a `read()`.
    struct WaitingRead {
        var bytes: ByteBuffer
        /// Memory that is reckoned for it.
        var retained: Int
    }

    struct Flags: OptionSet {
        let rawValue: UInt32
        static let autoRead = Flags(rawValue: 1)
        static let allowsRemoteHalfClosure = Flags(rawValue: 2)
        /// A `read()` has not been answered.
        static let readOpen = Flags(rawValue: 4)
        static let isDelivering = Flags(rawValue: 8)
        /// `channelReadComplete` is owed at the end of the session's read.
        static let readCompleteOwed = Flags(rawValue: 16)
        static let endDelivered = Flags(rawValue: 32)
        static let resetOnClose = Flags(rawValue: 64)
        /// The initializer has finished.
        static let isActivated = Flags(rawValue: 128)
        /// The channel is closed for its users; the session may still hold it to linger.
        static let isClosed = Flags(rawValue: 256)
        /// Bytes came that nobody will read.
        static let leftUnread = Flags(rawValue: 512)
        // In which queues of the session it is.
        static let inRing = Flags(rawValue: 1024)
        static let inDirty = Flags(rawValue: 2048)
        /// An outbound stream that waits for its turn to be opened on the wire.
        static let awaitsSlot = Flags(rawValue: 4096)
        /// It counts among those that the peer has not acknowledged.
        static let holdsSlot = Flags(rawValue: 8192)
        /// An inbound stream whose initializer has not finished.
        static let awaitsAccept = Flags(rawValue: 16384)
        /// Some reads are slices of what one read of the connection brought.
        static let holdsSlices = Flags(rawValue: 32768)
        /// One write is one frame, and one frame one read: see ``YamuxMessageBoundaries``.
        static let keepsMessages = Flags(rawValue: 65536)
        /// Not writable until the session has sent what waits in all streams.
        static let heldBack = Flags(rawValue: 131072)
    }

    private static let activeBit: UInt8 = 1
    private static let writableBit: UInt8 = 2

    let allocator: ByteBufferAllocator
    let eventLoop: any EventLoop
    let parent: (any Channel)?
    let id: UInt32
    // NIO's pipeline and its channel refer to each other; NIO's own channels declare it the same way.
    private var _pipeline: ChannelPipeline!
    private let closePromise: EventLoopPromise<Void>
    private let status = Atomic<UInt8>(2)

    var session: YamuxHandler?
    var machine: YamuxStreamStateMachine
    var flags: Flags = []
    var waterMark: ChannelOptions.Types.WriteBufferWaterMark

    private(set) var reads = Deque<WaitingRead>()
    /// How many of `reads` keep no more memory than they need.
    private var settledReads = 0
    /// Memory that `reads` keeps alive.
    private(set) var retainedBytes = 0
    private var burst = 0
    /// What one `read()` brings at most; see ``YamuxStream/limitReads(of:to:)``.
    var readLimit = YamuxStreamChannel.readBurstBytes

    var writes = Deque<PendingWrite>()
    /// How many of `writes` are flushed.
    var flushed = 0
    /// How many of `writes` have no bytes.
    var emptyWrites = 0
    var unsentBytes = 0
    private var closeOutputPromise: EventLoopPromise<Void>?

    init(id: UInt32, session: YamuxHandler, parent: any Channel, inbound: Bool, configuration: YamuxConfiguration) {
        self.id = id
        self.session = session
        self.parent = parent
        self.allocator = parent.allocator
        self.eventLoop = parent.eventLoop
        self.closePromise = parent.eventLoop.makePromise()
        self.machine = YamuxStreamStateMachine(inbound: inbound, now: parent.eventLoop.now)
        self.waterMark = configuration.writeBufferWaterMark
        self.flags = [.autoRead]
        self._pipeline = ChannelPipeline(channel: self)
    }

    var pipeline: ChannelPipeline { self._pipeline }
    var closeFuture: EventLoopFuture<Void> { self.closePromise.futureResult }
    var localAddress: SocketAddress? { self.parent?.localAddress }
    var remoteAddress: SocketAddress? { self.parent?.remoteAddress }
    var isActive: Bool { self.status.load(ordering: .relaxed) & Self.activeBit != 0 }
    var isWritable: Bool { self.status.load(ordering: .relaxed) & Self.writableBit != 0 }
    var _channelCore: any ChannelCore { self }

    private func set(_ bit: UInt8, _ value: Bool) {
        // Only the event loop writes, so that nothing can come between the load and the store.
        let status = self.status.load(ordering: .relaxed)
        self.status.store(value ? status | bit : status & ~bit, ordering: .relaxed)
    }

    func localAddress0() throws -> SocketAddress {
        guard let address = self.localAddress else { throw ChannelError.operationUnsupported }
        return address
    }

    func remoteAddress0() throws -> SocketAddress {
        guard let address = self.remoteAddress else { throw ChannelError.operationUnsupported }
        return address
    }

    func register0(promise: EventLoopPromise<Void>?) { promise?.fail(ChannelError.operationUnsupported) }
    func bind0(to: SocketAddress, promise: EventLoopPromise<Void>?) { promise?.fail(ChannelError.operationUnsupported) }
    func connect0(to: SocketAddress, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }
    func channelRead0(_ data: NIOAny) {}
    func errorCaught0(error: any Error) {}

    func triggerUserOutboundEvent0(_ event: Any, promise: EventLoopPromise<Void>?) {
        guard let event = event as? YamuxStreamReset else {
            promise?.fail(ChannelError.operationUnsupported)
            return
        }
        self.reset(code: event.code)
        promise?.succeed()
    }

    // MARK: Life

    /// The initializer has finished: the stream's users take over.
    func activate() {
        guard !self.flags.contains(.isClosed) else { return }
        self.flags.insert(.isActivated)
        self.set(Self.activeBit, true)
        self.pipeline.fireChannelActive()
        if self.flags.contains(.autoRead) { self.pipeline.read() }
        self.deliver()
        // What was flushed by the initializer could not go before.
        if self.flushed > 0 || self.machine.output == .ending { self.session?.wantsToSend(self) }
    }

    func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard !self.flags.contains(.isClosed) else {
            promise?.fail(ChannelError.alreadyClosed)
            return
        }
        switch mode {
        case .input:
            promise?.fail(ChannelError.operationUnsupported)
        case .output:
            guard self.machine.beginEnd() else {
                promise?.fail(ChannelError.outputClosed)
                return
            }
            self.closeOutputPromise = promise
            self.failUnflushedWrites(ChannelError.outputClosed)
            self.session?.wantsToSend(self)
        case .all:
            if self.flags.contains(.resetOnClose) {
                self.reset(code: 0)
            } else {
                self.closeGracefully()
            }
            promise?.succeed()
        }
    }

    private func closeGracefully() {
        guard let session = self.session else { return }
        self.failUnflushedWrites(ChannelError.ioOnClosedChannel)
        if self.machine.isFinished || (self.machine.opening == .idle && self.flushed == 0) {
            // The peer has its end, or never hears of it: there is nothing to linger for.
            self.leaveSession(error: nil)
        } else {
            if !self.reads.isEmpty { self.flags.insert(.leftUnread) }
            _ = self.machine.beginEnd()
            self.becomeInactive(error: nil)
            session.linger(self)
        }
    }

    /// Tells the peer that the stream is void, and drops what is pending.
    func reset(code: UInt32, error: (any Error)? = nil) {
        guard let session = self.session else { return }
        if self.machine.opening != .idle { session.queueReset(self.id, code: code) }
        self.leaveSession(error: error)
    }

    /// The end of a stream: of both sides, by the peer's reset, or of the session.
    func end(error: (any Error)?) {
        guard self.session != nil else { return }
        if error == nil || self.machine.inputEnded {
            // The peer finished its part before: what it sent is whole.
            self.flushReads()
            self.deliverEnd()
        }
        self.leaveSession(error: error)
    }

    private func leaveSession(error: (any Error)?) {
        guard let session = self.session else { return }
        self.machine.reset()
        session.finished(self)
        self.becomeInactive(error: error)
        self.flushed = 0
        while let write = self.writes.popFirst() { self.fail(write, error ?? ChannelError.ioOnClosedChannel) }
        self.session = nil
    }

    private func becomeInactive(error: (any Error)?) {
        self.dropReads()
        guard !self.flags.contains(.isClosed) else { return }
        self.flags.insert(.isClosed)
        self.set(Self.activeBit, false)
        self.set(Self.writableBit, false)
        let promise = self.closeOutputPromise
        self.closeOutputPromise = nil
        promise?.fail(error ?? ChannelError.alreadyClosed)
        if let error { self.pipeline.fireErrorCaught(error) }
        if self.flags.contains(.isActivated) { self.pipeline.fireChannelInactive() }
        // Handlers may still be in the middle of what closed the channel.
        self.eventLoop.assumeIsolated().execute {
            self.removeHandlers(pipeline: self.pipeline)
            self.closePromise.succeed()
        }
    }

    // MARK: Reading

    /// Takes payload from the session. It is delivered now if a read is open.
    func receive(_ payload: ByteBuffer) {
        guard self.reads.isEmpty, self.flags.contains(.isActivated), self.beginsOrContinuesBurst() else {
            self.keep(payload)
            return
        }
        var rest = payload
        let part = self.take(from: &rest, beyond: self.burst)
        self.burst += part.readableBytes
        self.flags.insert(.isDelivering)
        self.pipeline.fireChannelRead(part)
        self.flags.remove(.isDelivering)
        self.session?.consumed(part.readableBytes, by: self)
        if rest.readableBytes > 0, self.session != nil, !self.flags.contains(.isClosed) { self.keep(rest) }
    }

    /// What of the bytes a read still takes that has brought `count`: all, unless reads are limited.
    private func take(from bytes: inout ByteBuffer, beyond count: Int) -> ByteBuffer {
        let room = self.readLimit < Self.readBurstBytes ? max(1, self.readLimit - count) : bytes.readableBytes
        return bytes.readSlice(length: min(room, bytes.readableBytes)) ?? bytes
    }

    /// One `read()` is answered by all that one read of the connection brings, up to a bound.
    private func beginsOrContinuesBurst() -> Bool {
        if self.flags.contains(.readCompleteOwed) { return self.burst < self.readLimit }
        guard self.canDeliver, !self.flags.contains(.isDelivering), let session = self.session else { return false }
        self.flags.remove(.readOpen)
        self.flags.insert(.readCompleteOwed)
        self.burst = 0
        session.owesReadComplete(self)
        return true
    }

    private var canDeliver: Bool {
        self.flags.isSuperset(of: [.readOpen, .isActivated]) && !self.flags.contains(.isClosed)
    }

    /// The session's read is over.
    func completeRead() {
        if self.flags.contains(.readCompleteOwed) {
            self.flags.remove(.readCompleteOwed)
            guard !self.flags.contains(.isClosed) else { return }
            self.pipeline.fireChannelReadComplete()
            if self.flags.contains(.autoRead), !self.flags.contains(.isClosed) { self.pipeline.read() }
            self.deliver()
        }
        self.settleReads()
    }

    func read0() {
        guard !self.flags.contains(.isClosed) else { return }
        self.flags.insert(.readOpen)
        self.deliver()
    }

    /// Answers open reads with what waits. A read from within a delivery is answered by the same loop.
    func deliver() {
        let busy: Flags = [.isDelivering, .readCompleteOwed]
        guard self.flags.isDisjoint(with: busy) else { return }
        self.flags.insert(.isDelivering)
        while self.canDeliver, !self.reads.isEmpty {
            self.flags.remove(.readOpen)
            var burst = 0
            while burst < self.readLimit, !self.flags.contains(.isClosed), let bytes = self.popRead(beyond: burst) {
                burst += bytes.readableBytes
                self.pipeline.fireChannelRead(bytes)
            }
            self.session?.consumed(burst, by: self)
            guard !self.flags.contains(.isClosed) else { break }
            self.pipeline.fireChannelReadComplete()
            if self.flags.contains(.autoRead), !self.flags.contains(.isClosed) { self.pipeline.read() }
        }
        self.flags.remove(.isDelivering)
        self.deliverEndIfDue()
    }

    /// The end of the peer's bytes is told when all of them are delivered.
    func deliverEndIfDue() {
        let busy: Flags = [.isDelivering, .readCompleteOwed, .endDelivered, .isClosed]
        guard self.machine.inputEnded, self.reads.isEmpty, self.flags.isDisjoint(with: busy),
            self.flags.contains(.isActivated)
        else { return }
        self.deliverEnd()
        guard !self.flags.contains(.isClosed) else { return }
        if self.machine.isFinished {
            self.end(error: nil)
        } else if !self.flags.contains(.allowsRemoteHalfClosure) {
            self.closeGracefully()
        }
    }

    private func deliverEnd() {
        guard !self.flags.contains(.endDelivered), self.flags.contains(.isActivated) else { return }
        self.flags.insert(.endDelivered)
        if self.flags.contains(.allowsRemoteHalfClosure) {
            self.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        }
    }

    /// Delivers what waits, read or not: nothing will come after it.
    private func flushReads() {
        guard self.flags.contains(.isActivated), !self.reads.isEmpty, !self.flags.contains(.isClosed) else { return }
        while let bytes = self.popRead(), !self.flags.contains(.isClosed) { self.pipeline.fireChannelRead(bytes) }
        self.pipeline.fireChannelReadComplete()
    }

    private func keep(_ payload: ByteBuffer) {
        var payload = payload
        if self.reads.count >= Self.separateReads, !self.flags.contains(.keepsMessages),
            let last = self.reads.indices.last,
            self.reads[last].bytes.readableBytes + payload.readableBytes <= Self.joinedReadBytes
        {
            self.reads[last].bytes.writeBuffer(&payload)
            self.settle(last)
            return
        }
        let retained = payload.readableBytes + Self.readOverhead
        self.reads.append(WaitingRead(bytes: payload, retained: retained))
        self.count(retained: retained)
        guard !self.flags.contains(.holdsSlices) else { return }
        self.flags.insert(.holdsSlices)
        if !self.flags.contains(.readCompleteOwed) { self.session?.owesReadComplete(self) }
    }

    /// What waits longer than the read of the connection that brought it must not keep all of that read's buffer.
    private func settleReads() {
        guard self.flags.contains(.holdsSlices) else { return }
        self.flags.remove(.holdsSlices)
        for index in self.settledReads..<self.reads.count { self.settle(index) }
        self.settledReads = self.reads.count
    }

    private func settle(_ index: Int) {
        let bytes = self.reads[index].bytes
        if bytes.readableBytes < bytes.storageCapacity / 2 {
            var copy = self.allocator.buffer(capacity: bytes.readableBytes)
            copy.writeImmutableBuffer(bytes)
            self.reads[index].bytes = copy
        }
        let retained = self.reads[index].bytes.storageCapacity + Self.readOverhead
        self.count(retained: retained - self.reads[index].retained)
        self.reads[index].retained = retained
    }

    /// Takes what waits first, or as much of it as a read takes that has brought `count` bytes.
    private func popRead(beyond count: Int? = nil) -> ByteBuffer? {
        if let count, self.readLimit < Self.readBurstBytes, !self.reads.isEmpty {
            let part = self.take(from: &self.reads[0].bytes, beyond: count)
            // All of its memory is held as long as some of it waits.
            if self.reads[0].bytes.readableBytes > 0 { return part }
            _ = self.popRead()
            return part
        }
        guard let read = self.reads.popFirst() else { return nil }
        if self.settledReads > 0 { self.settledReads -= 1 }
        self.count(retained: -read.retained)
        return read.bytes
    }

    private func dropReads() {
        self.reads = []
        self.settledReads = 0
        self.count(retained: -self.retainedBytes)
    }

    private func count(retained: Int) {
        self.retainedBytes += retained
        self.session?.countUnread(retained)
    }

    // MARK: Writing

    func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard let session = self.session, !self.flags.contains(.isClosed) else {
            promise?.fail(ChannelError.ioOnClosedChannel)
            return
        }
        guard self.machine.output == .open else {
            promise?.fail(ChannelError.outputClosed)
            return
        }
        guard let bytes = self.tryUnwrapData(data, as: ByteBuffer.self) else {
            promise?.fail(ChannelError.operationUnsupported)
            return
        }
        if let refusal = session.refusal(ofWriting: bytes.readableBytes) {
            promise?.fail(refusal)
            return
        }
        self.writes.append(PendingWrite(bytes: bytes, promise: promise))
        if bytes.readableBytes == 0 { self.emptyWrites += 1 }
        self.unsentBytes += bytes.readableBytes
        session.countUnsent(bytes.readableBytes)
        let isFull =
            self.unsentBytes > self.waterMark.high || session.isCongested
            || self.holdsTooMuch(beyond: Self.tightHighWaterMark)
        if isFull, self.isWritable {
            session.holdBack(self)
            self.set(Self.writableBit, false)
            self.pipeline.fireChannelWritabilityChanged()
        }
    }

    func flush0() {
        guard self.flushed < self.writes.count else { return }
        self.flushed = self.writes.count
        if self.flags.contains(.isActivated) { self.session?.wantsToSend(self) }
    }

    /// The session has sent some of the writes.
    func didSend() {
        guard self.unsentBytes < self.waterMark.low, !self.isWritable, !self.flags.contains(.isClosed),
            !self.holdsTooMuch(beyond: Self.tightHighWaterMark / 2), !(self.session?.holdBack(self) ?? false)
        else { return }
        self.set(Self.writableBit, true)
        self.pipeline.fireChannelWritabilityChanged()
    }

    /// The FIN has left.
    func didSendEnd() {
        let promise = self.closeOutputPromise
        self.closeOutputPromise = nil
        promise?.succeed()
        guard !self.flags.contains(.isClosed) else { return }
        self.pipeline.fireUserInboundEventTriggered(ChannelEvent.outputClosed)
    }

    private func failUnflushedWrites(_ error: any Error) {
        while self.writes.count > self.flushed, let write = self.writes.popLast() { self.fail(write, error) }
    }

    private func fail(_ write: PendingWrite, _ error: any Error) {
        if write.bytes.readableBytes == 0 { self.emptyWrites -= 1 }
        self.unsentBytes -= write.bytes.readableBytes
        self.session?.countUnsent(-write.bytes.readableBytes)
        write.promise?.fail(error)
    }
}
