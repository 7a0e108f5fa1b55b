import DequeModule
import NIOCore

/// The frames of one flush. Headers and small payloads are gathered in one buffer; larger payloads go as they are, between
/// slices of it.
struct YamuxOutboundBatch {
    /// Copying this much costs less than one more piece for everything below: a record to seal, an entry to write.
    static let copiedPayloadBytes = 4096

    private var gathered = ByteBuffer()
    /// What the batch before had gathered: under steady load the buffer has its size from the start.
    private var expectedBytes = 0
    private var payloads: [(offset: Int, bytes: ByteBuffer)] = []
    private(set) var byteCount = 0
    var promises: [EventLoopPromise<Void>] = []
    /// Streams whose writes are in the batch, with whether their FIN is.
    var senders: [(stream: YamuxStreamChannel, sentEnd: Bool)] = []

    var isEmpty: Bool { self.byteCount == 0 && self.senders.isEmpty }

    mutating func append(_ header: YamuxFrameHeader) {
        if self.gathered.capacity == 0 { self.gathered.reserveCapacity(max(256, self.expectedBytes)) }
        header.write(to: &self.gathered)
        self.byteCount += YamuxFrameHeader.byteCount
    }

    mutating func append(_ header: YamuxFrameHeader, _ payload: ByteBuffer) {
        self.append(header)
        self.byteCount += payload.readableBytes
        if payload.readableBytes <= Self.copiedPayloadBytes {
            self.gathered.writeImmutableBuffer(payload)
        } else {
            self.payloads.append((self.gathered.writerIndex, payload))
        }
    }

    /// Passes the batch on in pieces and begins an empty one.
    mutating func take(_ write: (ByteBuffer) -> Void) {
        for (offset, payload) in self.payloads {
            if let slice = self.gathered.readSlice(length: offset - self.gathered.readerIndex) { write(slice) }
            write(payload)
        }
        if self.gathered.readableBytes > 0 { write(self.gathered.slice()) }
        self.payloads.removeAll(keepingCapacity: true)
        self.byteCount = 0
        self.expectedBytes = self.gathered.writerIndex
        // The slices hold the old storage.
        self.gathered = ByteBuffer()
    }
}

extension YamuxHandler {
    /// Bytes between two looks at the writability of the connection. With the frame that exceeds it and what encryption adds,
    /// a batch stays below 256 KiB: buffers of the next power of two would be mapped and unmapped for each.
    static let batchBytes = 128 * 1024
    /// Batches in one go, before other work of the event loop has its turn.
    static let batchesPerTurn = 8

    // MARK: For streams

    func wantsToSend(_ stream: YamuxStreamChannel) {
        guard !stream.flags.contains(.inRing), !stream.flags.contains(.awaitsSlot), stream.canSend,
            stream.flags.contains(.isActivated)
        else { return }
        stream.flags.insert(.inRing)
        self.ring.append(stream)
        self.scheduleTick()
    }

    func markDirty(_ stream: YamuxStreamChannel) {
        guard !stream.flags.contains(.inDirty) else { return }
        stream.flags.insert(.inDirty)
        self.dirty.append(stream)
        self.scheduleTick()
    }

    func queueReset(_ id: UInt32, code: UInt32) {
        guard self.phase == .active else { return }
        // A peer that makes us answer must read the answers; our own resets are as many as our streams.
        let bound =
            self.configuration.maximumPendingControlFrames + self.configuration.maximumInboundStreams
            + self.configuration.maximumOutboundStreams
        guard self.resets.count < bound else {
            self.fail(.limit("the peer opens streams and does not read that they are refused"))
            return
        }
        self.resets.append((id, code))
        self.scheduleTick()
    }

    /// Everything of one tick of the event loop leaves in one flush.
    func scheduleTick() {
        guard !self.isTickScheduled, self.phase == .active, let context = self.context else { return }
        // The loop that is sending sees for itself what there is to send.
        guard !self.isSending || !self.readCompletesOwed.isEmpty else { return }
        self.isTickScheduled = true
        context.eventLoop.assumeIsolated().execute { self.tick() }
    }

    private func tick() {
        self.isTickScheduled = false
        self.completeReads()
        self.send()
    }

    /// So much waits to be sent that whoever writes is told to stop, however little it has written: many streams with a little each
    /// would otherwise reach the bound at which writes fail.
    var isCongested: Bool { self.unsentBytes > self.configuration.maximumUnsentBytes / 2 }

    /// Tells whether the session is congested, and remembers the stream until it is not.
    @discardableResult
    func holdBack(_ stream: YamuxStreamChannel) -> Bool {
        guard self.isCongested else { return false }
        if !stream.flags.contains(.heldBack) {
            stream.flags.insert(.heldBack)
            self.heldBack.append(stream)
        }
        return true
    }

    private func releaseHeldBack() {
        guard !self.heldBack.isEmpty, self.unsentBytes < self.configuration.maximumUnsentBytes / 4 else { return }
        let streams = self.heldBack
        self.heldBack = []
        for stream in streams {
            stream.flags.remove(.heldBack)
            stream.didSend()
        }
    }

    // MARK: Sending

    private var hasOutput: Bool {
        !self.ring.isEmpty || !self.dirty.isEmpty || !self.pongs.isEmpty || !self.resets.isEmpty
            || self.pingToSend != nil || (!self.opening.isEmpty && self.hasSlot)
    }

    private var hasSlot: Bool { self.unacknowledged < self.configuration.unacknowledgedStreams }

    /// Sends what can be, unless it is on the stack already: then the loop below does.
    func send() {
        guard !self.isSending, self.phase == .active, let context = self.context else { return }
        self.isSending = true
        var batches = 0
        while self.phase == .active, self.hasOutput, context.channel.isWritable {
            guard batches < Self.batchesPerTurn else {
                self.continueLater(context)
                break
            }
            batches += 1
            self.gatherControlFrames(now: context.eventLoop.now)
            self.gatherData()
            self.flush(context)
        }
        self.isSending = false
        self.releaseHeldBack()
        self.watchForStall(context)
    }

    /// Goes on after the event loop has read: a task without a delay would run before it reads.
    private func continueLater(_ context: ChannelHandlerContext) {
        guard !self.isTickScheduled else { return }
        self.isTickScheduled = true
        context.eventLoop.assumeIsolated().scheduleTask(in: .microseconds(20)) { self.tick() }
    }

    private func gatherControlFrames(now: NIODeadline) {
        if let value = self.pingToSend {
            self.pingToSend = nil
            self.batch.append(YamuxFrameHeader(.ping, .syn, length: value))
        }
        while let value = self.pongs.popFirst() { self.batch.append(YamuxFrameHeader(.ping, .ack, length: value)) }
        self.openStreamsInTurn()
        for _ in 0..<self.dirty.count {
            guard let stream = self.dirty.popFirst() else { break }
            stream.flags.remove(.inDirty)
            guard stream.session != nil else { continue }
            // A stream that is about to send data gives its SYN or ACK to it.
            let delta = self.takeWindowUpdate(of: stream, now: now)
            guard delta != nil || (stream.machine.owesFlags && !stream.flags.contains(.inRing)) else { continue }
            let flags = stream.machine.takeFlags()
            self.batch.append(YamuxFrameHeader(.windowUpdate, flags, streamID: stream.id, length: delta ?? 0))
        }
        while let (id, code) = self.resets.popFirst() {
            self.batch.append(YamuxFrameHeader(.windowUpdate, .rst, streamID: id, length: code))
        }
    }

    private func openStreamsInTurn() {
        while self.hasSlot, let stream = self.opening.popFirst() {
            stream.flags.remove(.awaitsSlot)
            guard stream.session != nil else { continue }
            stream.flags.insert(.holdsSlot)
            self.unacknowledged += 1
            self.wantsToSend(stream)
            if !stream.flags.contains(.inDirty) {
                stream.flags.insert(.inDirty)
                self.dirty.append(stream)
            }
        }
    }

    private func takeWindowUpdate(of stream: YamuxStreamChannel, now: NIODeadline) -> UInt32? {
        guard !stream.machine.inputEnded, !stream.flags.contains(.isClosed) else { return nil }
        return stream.machine.receiveWindow.takeUpdate(
            now: now,
            roundTripTime: self.roundTrip.time,
            maximum: self.configuration.maximumWindowBytes
        ) { wanted in
            guard self.configuration.unreadBudget?.mayGrow() ?? true else { return 0 }
            let granted = min(wanted, max(0, self.configuration.windowGrowthBudget - self.windowGrowth))
            self.windowGrowth += granted
            return granted
        }
    }

    /// One frame of each stream in turn.
    private func gatherData() {
        while self.batch.byteCount < Self.batchBytes, let stream = self.ring.popFirst() {
            stream.flags.remove(.inRing)
            guard stream.session != nil else { continue }
            self.gatherFrame(of: stream)
        }
    }

    private func gatherFrame(of stream: YamuxStreamChannel) {
        self.takeEmptyWrites(of: stream)
        if stream.flushed > 0, stream.canSend, var write = stream.writes.popFirst() {
            let size = write.bytes.readableBytes
            let count = min(size, self.configuration.maximumPayloadBytes, Int(stream.machine.sendWindow))
            let header = YamuxFrameHeader(
                .data,
                stream.machine.takeFlags(),
                streamID: stream.id,
                length: UInt32(clamping: count)
            )
            if count == size {
                stream.flushed -= 1
                if let promise = write.promise { self.batch.promises.append(promise) }
                self.batch.append(header, write.bytes)
            } else if let part = write.bytes.readSlice(length: count) {
                self.batch.append(header, part)
                stream.writes.prepend(write)
            }
            stream.machine.sent(count)
            stream.unsentBytes -= count
            self.countUnsent(-count)
            self.takeEmptyWrites(of: stream)
        }
        // FIN has a frame of its own: go-yamux takes the flag before the payload of its frame, and may lose that.
        let ends = stream.flushed == 0 && stream.machine.output == .ending
        if ends {
            let flags = stream.machine.takeFlags().union(.fin)
            self.batch.append(YamuxFrameHeader(.windowUpdate, flags, streamID: stream.id))
            stream.machine.sentEnd()
        } else if stream.canSend {
            stream.flags.insert(.inRing)
            self.ring.append(stream)
        } else if stream.machine.owesFlags {
            // It had only empty writes.
            self.batch.append(YamuxFrameHeader(.windowUpdate, stream.machine.takeFlags(), streamID: stream.id))
        }
        self.batch.senders.append((stream, ends))
    }

    /// A write of nothing only tells its writer that all before it has left.
    private func takeEmptyWrites(of stream: YamuxStreamChannel) {
        while stream.beginsWithEmptyWrite, let write = stream.writes.popFirst() {
            stream.flushed -= 1
            stream.emptyWrites -= 1
            if let promise = write.promise { self.batch.promises.append(promise) }
        }
    }

    private func flush(_ context: ChannelHandlerContext) {
        let hasBytes = self.batch.byteCount > 0
        self.batch.take { context.write(self.wrapOutboundOut($0), promise: nil) }
        let promises = self.batch.promises
        let senders = self.batch.senders
        self.batch.promises.removeAll(keepingCapacity: false)
        self.batch.senders.removeAll(keepingCapacity: false)
        if hasBytes {
            context.flush()
            self.events.sent()
        }
        // Only now may others act: the session is whole again.
        for promise in promises { promise.succeed() }
        for (stream, sentEnd) in senders where stream.session != nil {
            stream.didSend()
            if sentEnd { self.ended(stream) }
        }
    }

    private func ended(_ stream: YamuxStreamChannel) {
        stream.didSendEnd()
        guard stream.session != nil else { return }
        if stream.machine.isFinished {
            // Unless bytes wait for a reader: then the stream ends behind them.
            if !stream.flags.isDisjoint(with: [.endDelivered, .isClosed]) { stream.end(error: nil) }
        } else if stream.flags.contains(.leftUnread) {
            stream.reset(code: 0)
        }
    }
}
