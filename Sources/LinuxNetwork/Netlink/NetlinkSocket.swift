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
    private var chunk = [UInt8](repeating: 0, count: 65536)

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

    /// Sends the bytes as one datagram, growing the socket's buffer to fit (the kernel takes a batch only whole).
    func send(_ bytes: [UInt8]) throws(LinuxNetworkError) {
        guard bytes.count <= Self.maximumRequest else {
            throw LinuxNetworkError(
                .tooLarge,
                "netlink request of \(bytes.count) bytes, at most \(Self.maximumRequest)"
            )
        }
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

    /// The messages of the next datagram. ENOBUFS means that the kernel dropped some: callers must not trust what they have.
    func receive() throws(LinuxNetworkError) -> [NetlinkMessage] {
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
            return try NetlinkMessage.parse(self.chunk[..<count])
        }
    }

    /// One request that is answered by an acknowledgement, by a message, or (a dump) by many.
    @discardableResult
    func request(
        type: UInt16,
        flags: NetlinkWriter.Flags,
        what: String,
        _ body: (inout NetlinkWriter) -> Void
    ) throws(LinuxNetworkError) -> [NetlinkMessage] {
        let sequence = self.reserveSequences(1)
        var writer = NetlinkWriter()
        writer.begin(type: type, flags: flags.union([.request]), sequence: sequence)
        body(&writer)
        writer.end()
        try self.send(writer.bytes)
        var answers: [NetlinkMessage] = []
        while true {
            for message in try self.receive() where message.sequence == sequence {
                switch message.type {
                case NetlinkMessage.noop: continue
                case NetlinkMessage.done: return answers
                case NetlinkMessage.error:
                    let (number, text) = try message.acknowledgement()
                    guard number != 0 else { return answers }
                    throw LinuxNetworkError(.system(number), text.map { "\(what) (\($0))" } ?? what)
                default:
                    answers.append(message)
                    // Neither a dump nor acknowledged: the one answer is all there is (ctnetlink marks even that as one of many).
                    if flags.isDisjoint(with: [.ack, .dump]) { return answers }
                }
            }
        }
    }

    /// Sends a batch whose last message, `lastSequence`, wants an acknowledgement; returns when the kernel has committed it.
    /// On error nothing of the batch is in force.
    func commit(_ batch: [UInt8], lastSequence: UInt32, what: String) throws(LinuxNetworkError) {
        try self.send(batch)
        while true {
            for message in try self.receive() where message.type == NetlinkMessage.error {
                let (number, text) = try message.acknowledgement()
                if number != 0 {
                    self.discardPending()
                    throw LinuxNetworkError(.system(number), text.map { "\(what) (\($0))" } ?? what)
                }
                if message.sequence == lastSequence { return }
            }
        }
    }

    private func discardPending() {
        while recv(self.descriptor, &self.chunk, self.chunk.count, Int32(MSG_DONTWAIT)) > 0 {}
    }
}
