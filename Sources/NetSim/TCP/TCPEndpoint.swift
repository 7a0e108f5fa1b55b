import NIOCore

/// One end of a TCP connection (RFC 9293), sans I/O: segments, writes and the passing of time go in; segments and events
/// come out, in `output` and `events`.
///
/// Segments are as long as what is written, up to 64 KiB, and there is no congestion control: a sender is held back by the
/// receiver's window, and by the loss that a timeout makes up for.
struct TCPEndpoint {
    enum State: Sendable {
        case synSent
        case synReceived
        /// With FIN sent, received, or neither.
        case established
        /// Both ends have closed, this one first: its last acknowledgement may have to be given again.
        case timeWait
        case closed
    }

    enum Event: Sendable, Hashable {
        case connected
        /// There is something to be read, or the end.
        case readable
        /// The peer has taken bytes.
        case writable
        /// The FIN of this end is acknowledged.
        case outputClosed
        case failed(Failure)
    }

    enum Failure: Sendable, Hashable {
        case refused
        case reset
        case timedOut
        case unreachable(Unreachable.Reason)
    }

    let configuration: TCPConfiguration
    private(set) var state: State
    private(set) var send: TCPSendQueue
    private(set) var receive: TCPReceiveQueue
    /// Nobody reads or writes any more.
    private var isOrphan = false
    private var closedFirst = false
    private var lingersUntil: NIODeadline?
    private var softFailure: Failure?

    var output: [TCPSegment] = []
    var events: [Event] = []

    /// The opening end.
    init(connectingAt now: NIODeadline, initialSequence: UInt64, configuration: TCPConfiguration) {
        self.configuration = configuration
        self.state = .synSent
        self.send = TCPSendQueue(configuration: configuration, initialSequence: initialSequence)
        self.receive = TCPReceiveQueue(capacity: configuration.receiveBuffer, next: 0)
        let syn = self.send.sendSYN(at: now)
        self.emit(syn)
    }

    /// The end of a listener that has got `syn`.
    init(accepting syn: TCPSegment, at now: NIODeadline, initialSequence: UInt64, configuration: TCPConfiguration) {
        self.init(connectingAt: now, initialSequence: initialSequence, configuration: configuration)
        self.output = []
        self.takeSYN(syn, at: now)
    }

    // MARK: The user

    var deadline: NIODeadline? {
        guard let lingers = self.lingersUntil else { return self.send.deadline }
        return self.send.deadline.map { min($0, lingers) } ?? lingers
    }

    /// How many bytes `write` takes now.
    var space: Int { self.state == .closed || self.send.closes ? 0 : self.send.space }
    var isEndOfInput: Bool { self.receive.isFinished && self.receive.isEmpty }

    /// Takes writes; those that fit go into one segment.
    mutating func write(_ writes: [ByteBuffer], at now: NIODeadline) {
        guard self.state != .closed, !self.send.closes else { return }
        for bytes in writes { self.send.enqueue(bytes) }
        self.pump(at: now)
    }

    mutating func read(upTo limit: Int) -> ByteBuffer? {
        let bytes = self.receive.read(upTo: limit)
        if bytes != nil, self.receive.windowIsNews, self.state == .established { self.acknowledge() }
        return bytes
    }

    /// Ends this direction after what was written.
    mutating func closeOutput(at now: NIODeadline) {
        guard self.state != .closed, !self.send.closes else { return }
        self.send.enqueueFIN()
        self.pump(at: now)
    }

    /// The user has gone. What was not read is answered by a reset, as it is lost (RFC 9293 section 3.6).
    mutating func close(at now: NIODeadline) {
        guard self.state != .closed, self.state != .timeWait, !self.isOrphan else { return }
        guard self.state == .established || self.state == .synReceived, self.receive.isEmpty else {
            return self.abort()
        }
        self.isOrphan = true
        self.closeOutput(at: now)
        self.finishIfDone(at: now)
    }

    mutating func abort() {
        if self.state == .established || self.state == .synReceived {
            self.output.append(TCPSegment([.rst, .ack], sequence: self.send.next, acknowledgement: self.receive.next))
        }
        self.end()
    }

    /// The machine has lost the connection, without a word to the peer.
    mutating func vanish() {
        self.end()
        self.output = []
    }

    // MARK: Time

    mutating func timeHasCome(_ now: NIODeadline) {
        if let lingers = self.lingersUntil, lingers <= now {
            self.end()
            return
        }
        guard let deadline = self.send.deadline, deadline <= now else { return }
        let isOpening = self.state == .synSent || self.state == .synReceived
        let limit = isOpening ? self.configuration.synRetries : self.configuration.retries
        guard self.send.timeouts < limit else { return self.fail(self.softFailure ?? .timedOut) }
        if let part = self.send.timedOut(at: now) {
            self.emit(part)
        } else {
            // A segment before the window makes the peer tell its window.
            self.emit(TCPSendQueue.Part(sequence: self.send.next - 1, flags: [], bytes: ByteBuffer()))
        }
    }

    // MARK: The network

    /// ICMP says that the peer cannot be reached. That ends a connection only while it opens (RFC 5461 section 4).
    mutating func unreachable(_ reason: Unreachable.Reason) {
        if self.state == .synSent {
            self.fail(.unreachable(reason))
        } else {
            self.softFailure = .unreachable(reason)
        }
    }

    mutating func receive(_ segment: TCPSegment, at now: NIODeadline) {
        switch self.state {
        case .closed: break
        case .synSent: self.receiveInSYNSent(segment, at: now)
        case .synReceived, .established, .timeWait: self.receiveSynchronized(segment, at: now)
        }
    }

    private mutating func receiveInSYNSent(_ segment: TCPSegment, at now: NIODeadline) {
        let acknowledges = segment.flags.contains(.ack)
        if acknowledges, segment.acknowledgement != self.send.next {
            if let refusal = segment.refusal { self.output.append(refusal) }
            return
        }
        if segment.flags.contains(.rst) {
            if acknowledges { self.fail(.refused) }
            return
        }
        guard segment.flags.contains(.syn) else { return }
        self.takeSYN(segment, at: now)
        if acknowledges { self.establish(segment, at: now) }
    }

    /// The peer's first sequence number is known. Without an acknowledgement the connection opens from both ends at once.
    private mutating func takeSYN(_ segment: TCPSegment, at now: NIODeadline) {
        self.receive = TCPReceiveQueue(capacity: self.configuration.receiveBuffer, next: segment.sequence + 1)
        self.send.peerWindow = segment.window
        self.state = .synReceived
        if !segment.flags.contains(.ack) {
            self.emit(TCPSendQueue.Part(sequence: self.send.unacknowledged, flags: .syn, bytes: ByteBuffer()))
        }
    }

    private mutating func establish(_ segment: TCPSegment, at now: NIODeadline) {
        _ = self.send.acknowledge(segment.acknowledgement, at: now)
        self.send.peerWindow = segment.window
        self.state = .established
        self.events.append(.connected)
        if segment.flags.contains(.syn) { self.acknowledge() }
        self.pump(at: now)
    }

    private mutating func receiveSynchronized(_ segment: TCPSegment, at now: NIODeadline) {
        if segment.flags.contains(.rst) {
            guard self.receive.isInWindow(segment.sequence) else { return }
            return self.fail(self.state == .synReceived ? .refused : .reset)
        }
        if segment.flags.contains(.syn) {
            if self.state == .synReceived, !segment.flags.contains(.ack) {
                return self.emit(
                    TCPSendQueue.Part(sequence: self.send.unacknowledged, flags: .syn, bytes: ByteBuffer())
                )
            }
            guard self.state == .synReceived, segment.acknowledgement == self.send.next else {
                // Again, or of another connection: the peer shall say which (RFC 5961 section 4).
                return self.acknowledge()
            }
        }
        guard segment.flags.contains(.ack), segment.acknowledgement <= self.send.next else { return }
        if self.state == .synReceived {
            guard segment.acknowledgement > self.send.unacknowledged else { return }
            self.establish(segment, at: now)
        }
        self.takeAcknowledgement(segment, at: now)
        self.takeBytes(segment, at: now)
        self.finishIfDone(at: now)
    }

    private mutating func takeAcknowledgement(_ segment: TCPSegment, at now: NIODeadline) {
        let before = self.send.unacknowledged
        let finWasAcknowledged = self.send.finIsAcknowledged
        if let lost = self.send.acknowledge(segment.acknowledgement, at: now) { self.emit(lost) }
        if segment.acknowledgement >= before { self.send.peerWindow = segment.window }
        if self.send.unacknowledged > before {
            self.events.append(.writable)
            if self.send.finIsAcknowledged, !finWasAcknowledged { self.events.append(.outputClosed) }
        } else if segment.length == 0 {
            self.send.peerAnswered()
        }
        self.pump(at: now)
    }

    private mutating func takeBytes(_ segment: TCPSegment, at now: NIODeadline) {
        guard segment.length > 0 || segment.sequence < self.receive.next else { return }
        if self.isOrphan, segment.bytes.readableBytes > 0, segment.end > self.receive.next { return self.abort() }
        let isNew = self.receive.receive(segment)
        self.acknowledge()
        if isNew { self.events.append(.readable) }
    }

    // MARK: Output and end

    private mutating func pump(at now: NIODeadline) {
        guard self.state == .established else { return }
        while let part = self.send.nextPart(at: now) {
            if part.flags.contains(.fin) { self.closedFirst = !self.receive.isFinished }
            self.emit(part)
        }
    }

    private mutating func acknowledge() {
        self.emit(TCPSendQueue.Part(sequence: self.send.next, flags: [], bytes: ByteBuffer()))
    }

    private mutating func emit(_ part: TCPSendQueue.Part) {
        var segment = TCPSegment(
            part.flags,
            sequence: part.sequence,
            window: self.receive.tellWindow(),
            bytes: part.bytes,
            pathMTU: self.configuration.mtu
        )
        if self.state != .synSent {
            segment.flags.insert(.ack)
            segment.acknowledgement = self.receive.next
        }
        self.output.append(segment)
    }

    private mutating func finishIfDone(at now: NIODeadline) {
        guard self.state == .established else { return }
        if self.send.finIsAcknowledged, self.receive.isFinished {
            self.state = self.closedFirst ? .timeWait : .closed
            self.lingersUntil = self.closedFirst ? now + self.configuration.lingerTime : nil
        } else if self.isOrphan, self.send.finIsAcknowledged, self.lingersUntil == nil {
            // The peer's FIN may never come.
            self.lingersUntil = now + self.configuration.lingerTime
        }
    }

    private mutating func fail(_ failure: Failure) {
        guard self.state != .timeWait else { return self.end() }
        self.end()
        self.events.append(.failed(failure))
    }

    private mutating func end() {
        self.state = .closed
        self.lingersUntil = nil
        self.send = TCPSendQueue(configuration: self.configuration, initialSequence: self.send.next)
    }
}
