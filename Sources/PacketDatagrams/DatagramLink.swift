public import MeshCore
public import NIOCore

/// Datagrams between two agents that have a stream: keys, agreed upon by the stream and renewed, and the way that they take. No I/O;
/// time is given. Confined to its owner.
public struct DatagramLink: Sendable {
    public struct Configuration: Sendable {
        public var path = DatagramPath.Configuration()
        /// After which the opener asks for new keys.
        public var rekeyInterval: Duration = .seconds(600)
        /// Datagrams of one direction after which it does.
        public var rekeyCount: UInt64 = 1 << 30
        /// For an answer, before it asks again.
        public var answerTimeout: Duration = .seconds(10)
        /// For datagrams of former keys that are still on their way.
        public var keyOverlap: Duration = .seconds(10)
        /// Between tries to find a way where there was none: the first, and the longest.
        public var retryBase: Duration = .seconds(2)
        public var retryCap: Duration = .seconds(60)
        /// The round trip below which packets go by the stream; nil: none is so short.
        public var nearRoundTrip: Duration?
        /// Which addresses that a peer tells of itself are tried.
        public var admits: @Sendable (TransportAddress) -> Bool = { _ in true }

        public init() {}
    }

    public enum Output: Sendable, Hashable {
        /// To the peer, by the stream.
        case hello(ByteBuffer)
        case datagram(ByteBuffer, to: TransportAddress)
        /// What comes for this index is this link's no more.
        case forget(UInt32)
    }

    public struct Counters: Sendable, Hashable {
        public var sent: UInt64 = 0
        public var received: UInt64 = 0
        /// Datagrams that were not proven, came twice, or too late.
        public var refused: UInt64 = 0
        public var agreements: UInt64 = 0
        public var waysTaken: UInt64 = 0
        /// Ways that were in use and answered no more.
        public var waysLost: UInt64 = 0

        public init() {}
    }

    public let role: DatagramExchange.Role
    public private(set) var counters = Counters()
    private let configuration: Configuration
    private let parties: DatagramParties
    private let prefersAES: Bool
    private var path: DatagramPath?
    /// The keys in use, those that the peer has not used yet, and those of before.
    private var current: DatagramSession?
    private var next: DatagramSession?
    private var former: DatagramSession?
    private var asked: (exchange: DatagramExchange, bytes: ByteBuffer)?
    private var askAt: MonotonicTime?
    private var forgetAt: MonotonicTime?
    private var retry: Backoff
    /// Questions that were not answered, in a row.
    private var questions = 0
    /// No way was found; the next question is for another try.
    private var isRetrying = false
    /// Indices of keys that are used no more.
    private var forgotten: [UInt32] = []

    private static let maximumDoublings = 6

    public init(
        _ role: DatagramExchange.Role,
        of parties: DatagramParties,
        prefersAES: Bool,
        configuration: Configuration = Configuration(),
        now: MonotonicTime
    ) {
        self.role = role
        self.parties = parties
        self.prefersAES = prefersAES
        self.configuration = configuration
        self.retry = Backoff(base: configuration.retryBase, cap: configuration.retryCap)
        if role == .opener { self.askAt = now }
    }

    /// Bytes of a packet that a datagram may hold now; nil while there is no way.
    public var maximumPacket: Int? {
        guard let path, self.current != nil, let route = path.route else { return nil }
        return route.length - DatagramSession.overhead
    }

    public var address: TransportAddress? { self.path?.route?.address }
    public var roundTrip: Duration? { self.path?.roundTrip }
    /// Both have keys.
    public var isAgreed: Bool { self.current != nil }

    /// Packets go by the stream in spite of the way, as it is so short that what the stream loses costs next to nothing: then the stream
    /// carries more for the same work.
    public var isNear: Bool {
        guard let least = self.path?.leastRoundTrip, let limit = self.configuration.nearRoundTrip else { return false }
        return least < limit
    }
    public var usesAES: Bool? { self.current?.usesAES }

    // MARK: Agreement

    /// The opener is to ask the peer for keys.
    public func isToAsk(now: MonotonicTime) -> Bool { self.askAt.map { $0 <= now } ?? false }

    /// The peer cannot be asked before.
    public mutating func postpone(until time: MonotonicTime) { self.askAt = time }

    /// Asks the peer for keys, with where this node may be reached now.
    public mutating func ask(index: UInt32, addresses: [TransportAddress], now: MonotonicTime) -> [Output] {
        var outputs: [Output] = []
        if let asked { outputs.append(.forget(asked.exchange.hello.index)) }
        let exchange = DatagramExchange(index: index, addresses: addresses, prefersAES: self.prefersAES)
        let bytes = exchange.hello.buffer
        self.asked = (exchange, bytes)
        // A peer that never answers does not speak this.
        self.askAt = now + self.configuration.answerTimeout * (1 << min(self.questions, Self.maximumDoublings))
        self.questions += 1
        self.isRetrying = false
        return outputs + [.hello(bytes)]
    }

    /// A hello has come by the stream.
    /// - Parameters:
    ///   - index: for the keys that follow, if it asks; the opener, who is only answered, needs none.
    ///   - addresses: where this node may be reached.
    /// - Throws: if it is none, or none that this side may get: the stream is of no more use.
    public mutating func received(
        hello bytes: ByteBuffer,
        index: UInt32,
        addresses: [TransportAddress],
        now: MonotonicTime
    ) throws -> [Output] {
        let hello = try DatagramHello(bytes)
        var outputs: [Output] = []
        let session: DatagramSession
        switch self.role {
        case .opener:
            // One that answers an earlier question comes too late.
            guard let asked, hello.answered == asked.exchange.hello.index else { return [] }
            session = try asked.exchange.session(
                .opener,
                of: self.parties,
                asked: asked.bytes,
                answer: bytes,
                remote: hello
            )
            self.asked = nil
            self.questions = 0
            self.askAt = now + self.configuration.rekeyInterval
            self.replace(by: session, now: now)
            self.path?.confirm(now: now)
        case .acceptor:
            guard hello.answered == nil else { throw DatagramError(.malformed) }
            let exchange = DatagramExchange(
                index: index,
                addresses: addresses,
                prefersAES: self.prefersAES,
                answering: hello
            )
            let answer = exchange.hello.buffer
            session = try exchange.session(
                .acceptor,
                of: self.parties,
                asked: bytes,
                answer: answer,
                remote: hello
            )
            outputs.append(.hello(answer))
            if let next { self.forgotten.append(next.ownIndex) }
            self.next = nil
            if self.path?.route == nil {
                self.replace(by: session, now: now)
            } else {
                // The peer may not have the answer yet: it shows by a datagram that it has.
                self.next = session
            }
        }
        self.counters.agreements += 1
        let places = hello.addresses.filter(self.configuration.admits)
        if self.path == nil {
            self.path = DatagramPath(candidates: places, configuration: self.configuration.path, now: now)
        } else {
            self.path?.add(places, now: now)
        }
        return outputs
    }

    private mutating func replace(by session: DatagramSession, now: MonotonicTime) {
        if let former { self.forgotten.append(former.ownIndex) }
        (self.former, self.current) = (self.current, session)
        self.forgetAt = now + self.configuration.keyOverlap
    }

    // MARK: Datagrams

    /// Appends a datagram with a packet to `buffer`; false if there is no way for it now.
    public mutating func seal(
        _ packet: UnsafeRawBufferPointer,
        isChecksumPartial: Bool = false,
        into buffer: inout ByteBuffer
    ) -> Bool {
        let start = buffer.writerIndex
        do throws(DatagramError) {
            try self.current?.seal(isChecksumPartial ? .partialPacket : .packet, packet, into: &buffer)
        } catch {
            buffer.moveWriterIndex(to: start)
            return false
        }
        self.counters.sent += 1
        return buffer.writerIndex > start
    }

    /// Packets were sealed and go out.
    public mutating func sent(now: MonotonicTime) {
        self.path?.used(now: now)
        if self.role == .opener, self.asked == nil, let current, current.used >= self.configuration.rekeyCount {
            self.askAt = now
        }
    }

    /// What a datagram is for its receiver.
    public enum Received: Sendable, Hashable {
        /// The packet was appended to the buffer.
        case packet(isChecksumPartial: Bool)
        /// Nothing for the receiver; there may be something to be sent.
        case control([Output])
        case refused
    }

    /// Appends the packet that a datagram holds to `buffer`.
    public mutating func receive(
        _ datagram: UnsafeRawBufferPointer,
        from address: TransportAddress,
        into buffer: inout ByteBuffer,
        now: MonotonicTime
    ) -> Received {
        let start = buffer.writerIndex
        do throws(DatagramError) {
            let kind = try self.open(datagram, into: &buffer, now: now)
            self.counters.received += 1
            self.path?.heard(from: address, now: now)
            switch kind {
            case .packet: return .packet(isChecksumPartial: false)
            case .partialPacket: return .packet(isChecksumPartial: true)
            case .probe, .answer, nil:
                let length = buffer.writerIndex - start
                let content = buffer.getSlice(at: start, length: length) ?? ByteBuffer()
                buffer.moveWriterIndex(to: start)
                return .control(self.received(kind, content, from: address, now: now))
            }
        } catch {
            buffer.moveWriterIndex(to: start)
            self.counters.refused += 1
            return .refused
        }
    }

    private mutating func open(
        _ datagram: UnsafeRawBufferPointer,
        into buffer: inout ByteBuffer,
        now: MonotonicTime
    ) throws(DatagramError) -> DatagramKind? {
        guard datagram.count >= DatagramSession.overhead else { throw DatagramError(.malformed) }
        let index = UInt32(bigEndian: datagram.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        if index == self.current?.ownIndex { return try self.current?.open(datagram, into: &buffer) }
        if index == self.former?.ownIndex { return try self.former?.open(datagram, into: &buffer) }
        guard var next, index == next.ownIndex else { throw DatagramError(.malformed) }
        let kind = try next.open(datagram, into: &buffer)
        // The peer has the new keys.
        self.next = nil
        self.replace(by: next, now: now)
        return kind
    }

    private mutating func received(
        _ kind: DatagramKind?,
        _ content: ByteBuffer,
        from address: TransportAddress,
        now: MonotonicTime
    ) -> [Output] {
        guard let number = content.getInteger(at: content.readerIndex, as: UInt64.self) else { return [] }
        switch kind {
        case .probe:
            let answer = ByteBuffer(integer: number)
            return self.sealed(.answer, answer).map { [.datagram($0, to: address)] } ?? []
        case .answer:
            self.path?.answered(number, now: now)
            if self.path?.route != nil { self.retry.reset() }
        case .packet, .partialPacket, nil: break
        }
        return []
    }

    private mutating func sealed(_ kind: DatagramKind, _ content: ByteBuffer) -> ByteBuffer? {
        var datagram = ByteBuffer()
        do {
            try content.withUnsafeReadableBytes { try self.current?.seal(kind, $0, into: &datagram) }
        } catch {
            return nil
        }
        return datagram.readableBytes > 0 ? datagram : nil
    }

    // MARK: Time

    public mutating func networkChanged(now: MonotonicTime) {
        self.path?.networkChanged(now: now)
        // The peer is to know the new addresses.
        if self.role == .opener { self.askAt = now }
    }

    public var wakeTime: MonotonicTime? {
        [self.path?.wakeTime, self.askAt, self.forgetAt].compactMap { $0 }.min()
    }

    /// What is to be done now. The opener then looks whether it is to ask.
    public mutating func wake(now: MonotonicTime, using generator: inout some RandomNumberGenerator) -> [Output] {
        var outputs: [Output] = []
        if let forgetAt, forgetAt <= now {
            self.forgetAt = nil
            if let former { self.forgotten.append(former.ownIndex) }
            self.former = nil
        }
        outputs += self.forgotten.map { .forget($0) }
        self.forgotten = []
        for probe in self.path?.wake(now: now, using: &generator) ?? [] {
            var content = ByteBuffer()
            content.writeInteger(probe.number)
            content.writeRepeatingByte(0, count: max(0, probe.length - DatagramSession.overhead - 8))
            if let datagram = self.sealed(.probe, content) { outputs.append(.datagram(datagram, to: probe.address)) }
        }
        if self.role == .opener, self.asked == nil, !self.isRetrying, let path, path.isLost {
            self.isRetrying = true
            // Addresses may be others by then, and NATs are opened from both sides at the same time.
            let pause = now + self.retry.next(using: &generator)
            self.askAt = min(self.askAt ?? pause, pause)
        }
        if let path { (self.counters.waysTaken, self.counters.waysLost) = (path.changes, path.losses) }
        return outputs
    }
}
