import DequeModule
import NIOCore

/// The sending half of a connection: what is in flight, what waits, and when it is sent again (RFC 6298). Sans I/O.
struct TCPSendQueue {
    private struct Flight {
        let sequence: UInt64
        let flags: TCPSegment.Flags
        let bytes: ByteBuffer
        var sentAt: NIODeadline
        /// Its acknowledgement tells no round trip (Karn's algorithm).
        var isRetransmission = false

        var end: UInt64 {
            self.sequence + UInt64(self.bytes.readableBytes) + (self.flags.isDisjoint(with: [.syn, .fin]) ? 0 : 1)
        }
    }

    /// What a segment is made of; the rest is the receiving half's.
    struct Part {
        let sequence: UInt64
        let flags: TCPSegment.Flags
        let bytes: ByteBuffer
    }

    private let configuration: TCPConfiguration
    private var inFlight = Deque<Flight>()
    private var unsent = Deque<ByteBuffer>()
    private var finIsWanted = false
    private(set) var finIsSent = false
    /// The first byte that is not acknowledged, and the next to be sent.
    private(set) var unacknowledged: UInt64
    private(set) var next: UInt64
    /// Bytes that are unsent or in flight.
    private(set) var queuedBytes = 0
    var peerWindow = 0

    private var smoothed: TimeAmount?
    private var variation = TimeAmount.zero
    private var timeout: TimeAmount
    private(set) var timeouts = 0
    /// After a timeout, what was sent before it is taken for lost until it is acknowledged (RFC 6582).
    private var recoversUntil: UInt64 = 0
    private(set) var deadline: NIODeadline?

    init(configuration: TCPConfiguration, initialSequence: UInt64) {
        self.configuration = configuration
        self.unacknowledged = initialSequence
        self.next = initialSequence
        self.timeout = configuration.initialTimeout
    }

    var space: Int { max(0, self.configuration.sendBuffer - self.queuedBytes) }
    var synIsAcknowledged: Bool { self.inFlight.first.map { !$0.flags.contains(.syn) } ?? true }
    var finIsAcknowledged: Bool { self.finIsSent && self.inFlight.isEmpty }
    var closes: Bool { self.finIsWanted }

    mutating func sendSYN(at now: NIODeadline) -> Part {
        self.send([.syn], ByteBuffer(), at: now)
    }

    mutating func enqueue(_ bytes: ByteBuffer) {
        guard bytes.readableBytes > 0 else { return }
        self.unsent.append(bytes)
        self.queuedBytes += bytes.readableBytes
    }

    mutating func enqueueFIN() {
        self.finIsWanted = true
    }

    /// The next segment that the peer's window has room for.
    mutating func nextPart(at now: NIODeadline) -> Part? {
        let room = self.peerWindow - Int(self.next - self.unacknowledged)
        if let first = self.unsent.first {
            guard room > 0 else {
                // Nobody would tell that the window is open again if the peer's word got lost (RFC 9293 section 3.8.6.1).
                if self.deadline == nil { self.deadline = now + self.timeout }
                return nil
            }
            let limit = min(room, TCPConfiguration.maximumSegment)
            var bytes = first
            self.unsent.removeFirst()
            if bytes.readableBytes > limit, let head = bytes.readSlice(length: limit) {
                self.unsent.prepend(bytes)
                bytes = head
            }
            while let other = self.unsent.first, bytes.readableBytes + other.readableBytes <= limit {
                bytes.writeImmutableBuffer(other)
                self.unsent.removeFirst()
            }
            return self.send([], bytes, at: now)
        }
        guard self.finIsWanted, !self.finIsSent else { return nil }
        self.finIsSent = true
        return self.send([.fin], ByteBuffer(), at: now)
    }

    private mutating func send(_ flags: TCPSegment.Flags, _ bytes: ByteBuffer, at now: NIODeadline) -> Part {
        let flight = Flight(sequence: self.next, flags: flags, bytes: bytes, sentAt: now)
        self.inFlight.append(flight)
        self.next = flight.end
        if self.inFlight.count == 1 { self.deadline = now + self.timeout }
        return Part(sequence: flight.sequence, flags: flags, bytes: bytes)
    }

    /// Takes an acknowledgement. What is lost for sure is given back, to be sent again.
    mutating func acknowledge(_ number: UInt64, at now: NIODeadline) -> Part? {
        guard number > self.unacknowledged, number <= self.next else { return nil }
        self.unacknowledged = number
        while let first = self.inFlight.first, first.end <= number {
            self.inFlight.removeFirst()
            self.queuedBytes -= first.bytes.readableBytes
            if !first.isRetransmission, self.recoversUntil < first.end { self.measure(now - first.sentAt) }
        }
        self.timeouts = 0
        self.deadline = self.inFlight.isEmpty ? nil : now + self.timeout
        guard number < self.recoversUntil, !self.inFlight.isEmpty else { return nil }
        return self.again(at: now)
    }

    /// Nothing came for too long. Gives back what is to be sent again, or nil to ask the peer for its window.
    mutating func timedOut(at now: NIODeadline) -> Part? {
        self.timeouts += 1
        self.timeout = min(self.timeout * 2, self.configuration.maximumTimeout)
        self.deadline = now + self.timeout
        self.recoversUntil = self.next
        return self.inFlight.isEmpty ? nil : self.again(at: now)
    }

    private mutating func again(at now: NIODeadline) -> Part {
        self.inFlight[0].isRetransmission = true
        self.inFlight[0].sentAt = now
        let first = self.inFlight[0]
        return Part(sequence: first.sequence, flags: first.flags, bytes: first.bytes)
    }

    /// The peer answers a question for its window: it lives.
    mutating func peerAnswered() {
        guard self.inFlight.isEmpty else { return }
        self.timeouts = 0
        self.deadline = nil
    }

    private mutating func measure(_ roundTrip: TimeAmount) {
        if let smoothed = self.smoothed {
            let error = abs(smoothed.nanoseconds - roundTrip.nanoseconds)
            self.variation = .nanoseconds((3 * self.variation.nanoseconds + error) / 4)
            self.smoothed = .nanoseconds((7 * smoothed.nanoseconds + roundTrip.nanoseconds) / 8)
        } else {
            self.smoothed = roundTrip
            self.variation = .nanoseconds(roundTrip.nanoseconds / 2)
        }
        let timeout = (self.smoothed ?? roundTrip) + self.variation * 4
        self.timeout = min(max(timeout, self.configuration.minimumTimeout), self.configuration.maximumTimeout)
    }
}
