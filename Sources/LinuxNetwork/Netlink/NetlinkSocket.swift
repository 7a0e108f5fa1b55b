import Glibc

/// A blocking netlink socket of one thread or task at a time. Every wait has a timeout.
final class NetlinkSocket {
    enum Family: Int32 {
        case route = 0
        case netfilter = 12
    }

    /// The largest request that we send at once: a batch of 1.5 million elements.
    static let maximumRequest = 128 << 20

    let descriptor: Int32
    private var sequence: UInt32 = 1
    private var sendBuffer = 0
    /// More than the kernel puts into one datagram (32 KiB).
    private var chunk = [UInt8](repeating: 0, count: 65536)
    /// An answer was not read to its end.
    private var hasLeftovers = false

    private static let listingAttempts = 8

    init(_ family: Family, groups: [UInt32] = [], timeoutMilliseconds: Int = 5000) throws(LinuxNetworkError) {
        self.descriptor = socket(16, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), family.rawValue)
        guard self.descriptor >= 0 else { throw systemError("cannot open a netlink socket (\(family))") }
        var address: (UInt16, UInt16, UInt32, UInt32) = (16, 0, 0, 0)
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(self.descriptor, $0, 12) }
        }
        guard bound == 0 else { throw systemError("cannot bind a netlink socket (\(family))") }
        // NETLINK_CAP_ACK, NETLINK_EXT_ACK: best effort, they only make errors shorter and clearer.
        self.option(level: 270, 10, 1)
        self.option(level: 270, 11, 1)
        self.option(level: SOL_SOCKET, 33, 4 << 20)
        for group in groups where self.option(level: 270, 1, Int32(group)) != 0 {
            throw systemError("cannot join netlink group \(group)")
        }
        var time = timeval(tv_sec: timeoutMilliseconds / 1000, tv_usec: timeoutMilliseconds % 1000 * 1000)
        setsockopt(self.descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(self.descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(self.descriptor) }

    @discardableResult
    private func option(level: Int32, _ name: Int32, _ value: Int32) -> Int32 {
        var value = value
        return setsockopt(self.descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Reserves `count` sequence numbers and returns the first.
    func reserveSequences(_ count: Int) -> UInt32 {
        defer { self.sequence = self.sequence &+ UInt32(truncatingIfNeeded: count) }
        return self.sequence
    }

    /// The number that the next request will have.
    var nextSequence: UInt32 { self.sequence }

    /// Sends the bytes as one datagram, growing the socket's buffer to fit (the kernel takes a batch only whole).
    func send(_ bytes: [UInt8]) throws(LinuxNetworkError) {
        guard bytes.count <= Self.maximumRequest else {
            throw LinuxNetworkError(
                .tooLarge,
                "netlink request of \(bytes.count) bytes, at most \(Self.maximumRequest)"
            )
        }
        if self.hasLeftovers { self.discardPending() }
        if bytes.count + 4096 > self.sendBuffer {
            self.sendBuffer = max(bytes.count + 4096, 256 << 10)
            self.option(level: SOL_SOCKET, 32, Int32(self.sendBuffer))
        }
        while true {
            let sent = bytes.withUnsafeBytes { Glibc.send(self.descriptor, $0.baseAddress, $0.count, 0) }
            if sent >= 0 { return }
            if errno != EINTR { throw systemError("cannot send a netlink request of \(bytes.count) bytes") }
        }
    }

    /// The messages of the next datagram. ENOBUFS means that the kernel dropped some: what came so
    /// far is not to be trusted.
    func receive() throws(LinuxNetworkError) -> [NetlinkMessage] {
        self.hasLeftovers = true
        while true {
            let count = self.chunk.withUnsafeMutableBytes {
                recv(self.descriptor, $0.baseAddress, $0.count, Int32(MSG_TRUNC))
            }
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN { throw LinuxNetworkError(.timeout, "no netlink answer in time") }
                throw systemError("cannot receive from netlink")
            }
            guard count <= self.chunk.count else {
                throw LinuxNetworkError(
                    .malformed,
                    "netlink datagram of \(count) bytes, expected at most \(self.chunk.count)"
                )
            }
            let messages = try NetlinkMessage.parse(self.chunk[..<count])
            self.hasLeftovers = false
            return messages
        }
    }

    /// One request that is answered by an acknowledgement or by a message, which is returned.
    @discardableResult
    func request(
        type: UInt16,
        flags: NetlinkWriter.Flags,
        what: String,
        _ body: (inout NetlinkWriter) -> Void
    ) throws(LinuxNetworkError) -> NetlinkMessage? {
        let sequence = try self.start(type: type, flags: flags, body)
        var answer: NetlinkMessage?
        while true {
            for message in try self.receive() where message.sequence == sequence {
                switch message.type {
                case NetlinkMessage.noop: continue
                case NetlinkMessage.done: return answer
                case NetlinkMessage.error:
                    try Self.check(message, what)
                    return answer
                default:
                    answer = message
                    // Not acknowledged: the one answer is all there is (ctnetlink marks even that as one of many).
                    if !flags.contains(.ack) { return answer }
                }
            }
        }
    }

    /// Calls `each` with every message of a listing as it comes. False: the kernel's tables changed meanwhile
    /// (`NLM_F_DUMP_INTR`), so that something may be missing or told twice.
    @discardableResult
    func dump(
        type: UInt16,
        what: String,
        _ body: (inout NetlinkWriter) -> Void,
        each: (NetlinkMessage) throws(LinuxNetworkError) -> Void
    ) throws(LinuxNetworkError) -> Bool {
        let sequence = try self.start(type: type, flags: .dump, body)
        var isConsistent = true
        var failure: LinuxNetworkError?
        while true {
            for message in try self.receive() where message.sequence == sequence {
                if message.flags & 0x10 != 0 { isConsistent = false }
                switch message.type {
                case NetlinkMessage.noop: continue
                case NetlinkMessage.error, NetlinkMessage.done:
                    if let failure { throw failure }
                    try Self.check(message, what)
                    return isConsistent
                default:
                    // A listing is read to its end whatever happens: the kernel runs one at a time for a socket.
                    guard failure == nil else { continue }
                    do { try each(message) } catch { failure = error }
                }
            }
        }
    }

    /// A listing at one moment: anew if the kernel's tables changed meanwhile.
    func list(
        type: UInt16,
        what: String,
        _ body: (inout NetlinkWriter) -> Void
    ) throws(LinuxNetworkError) -> [NetlinkMessage] {
        for _ in 0..<Self.listingAttempts {
            var answers: [NetlinkMessage] = []
            let isConsistent = try self.dump(type: type, what: what, body) { (message) throws(LinuxNetworkError) in
                answers.append(message)
            }
            if isConsistent { return answers }
        }
        throw LinuxNetworkError(
            .system(EINTR),
            "\(what): the tables changed during each of \(Self.listingAttempts) readings"
        )
    }

    private func start(
        type: UInt16,
        flags: NetlinkWriter.Flags,
        _ body: (inout NetlinkWriter) -> Void
    ) throws(LinuxNetworkError) -> UInt32 {
        let sequence = self.reserveSequences(1)
        var writer = NetlinkWriter()
        writer.begin(type: type, flags: flags.union([.request]), sequence: sequence)
        body(&writer)
        writer.end()
        try self.send(try writer.finished())
        return sequence
    }

    /// Throws what an error message, or the end of a listing, says.
    private static func check(_ message: NetlinkMessage, _ what: String) throws(LinuxNetworkError) {
        if message.type == NetlinkMessage.done {
            guard message.payload.count >= 4 else { return }
            let code = message.payload.native(Int32.self, at: 0)
            if code < 0 { throw LinuxNetworkError(.system(0 &- code), what) }
        } else {
            let (number, text) = try message.acknowledgement()
            if number != 0 { throw LinuxNetworkError(.system(number), text.map { "\(what) (\($0))" } ?? what) }
        }
    }

    /// Sends a batch numbered from `first` on, whose last message, `last`, wants an acknowledgement; returns when the kernel has
    /// committed it. On error nothing of the batch is in force; only `LinuxNetworkError.Code.unconfirmed` leaves that open.
    func commit(_ batch: [UInt8], first: UInt32, last: UInt32, what: String) throws(LinuxNetworkError) {
        try self.send(batch)
        while true {
            let messages: [NetlinkMessage]
            do { messages = try self.receive() } catch {
                throw LinuxNetworkError(.unconfirmed, "\(what): the kernel's answer is missing", cause: error)
            }
            // A late answer to an earlier batch has another number.
            for message in messages
            where message.type == NetlinkMessage.error && message.sequence &- first <= last &- first {
                do { try Self.check(message, what) } catch {
                    self.discardPending()
                    throw error
                }
                if message.sequence == last { return }
            }
        }
    }

    /// Sends messages numbered from `first` on, the last of which wants an acknowledgement, in one datagram; returns how many
    /// failed with `errno`. Throws on any other error.
    func pipeline(
        _ messages: [UInt8],
        first: UInt32,
        last: UInt32,
        tolerating tolerated: Int32,
        what: String
    ) throws(LinuxNetworkError) -> Int {
        try self.send(messages)
        var failed = 0
        while true {
            for message in try self.receive()
            where message.type == NetlinkMessage.error && message.sequence &- first <= last &- first {
                do { try Self.check(message, what) } catch {
                    guard error.errno == tolerated else {
                        self.discardPending()
                        throw error
                    }
                    failed += 1
                }
                if message.sequence == last { return failed }
            }
        }
    }

    /// Reads away what nobody waits for any more, the rest of a running listing too.
    private func discardPending() {
        self.hasLeftovers = false
        while true {
            let count = recv(self.descriptor, &self.chunk, self.chunk.count, Int32(MSG_DONTWAIT))
            if count < 0, errno != ENOBUFS, errno != EINTR { return }
        }
    }
}
