import CLinux
import Glibc
import NIOCore

/// Two TCP sockets and a pipe for each direction between them. It owns these descriptors.
///
/// A pipe is filled only when it is empty, so what a direction holds is known, and a reader that is slow stops the reading of
/// the other side after at most `pipeBytes`.
///
/// Unchecked, as the compiler cannot see a hand-over: its maker lets go of it when it gives it to the splicer, whose one thread is
/// the only one that touches it from then on.
public final class SplicedPair: @unchecked Sendable {  // Safe because one thread has it: its maker, then the splicer.
    static let pipeBytes = 512 << 10
    /// What one direction may move before other pairs have their turn.
    private static let turnBytes = 2 << 20
    /// Fits an empty pipe of any size.
    private static let urgentReadBytes = 4096

    enum Progress {
        /// Until one of the sockets says something new.
        case waits
        case goesOn
        case finished
        case failed
    }

    private struct Side {
        var descriptor: CInt = -1
        // As the kernel told last: it tells again only after a call that would have blocked.
        var isReadable = true
        var isWritable = true
        var hasUrgentByte = false
        /// The peer sends no more. Some of what it sent may be unread.
        var hasEnded = false
        var isReadToEnd = false
    }

    private struct Direction {
        /// Reading end, writing end.
        var pipe: (CInt, CInt) = (-1, -1)
        /// Bytes in the pipe.
        var held = 0
        /// The end of the input is passed on.
        var isFinished = false
        var moved: UInt64 = 0
        var lastProgress = NIODeadline.now()
    }

    let id: UInt64
    /// Called once, on the splicer's thread.
    var onEnd: (@Sendable (SocketSplicer.Ending) -> Void)?
    var isQueued = false
    private let epoll: CInt
    private let idleTimeout: TimeAmount?
    private let lingerTimeout: TimeAmount?
    private var client = Side()
    private var server = Side()
    private var toServer = Direction()
    private var toClient = Direction()

    private init(id: UInt64, epoll: CInt, idleTimeout: TimeAmount?, lingerTimeout: TimeAmount?) {
        self.id = id
        self.epoll = epoll
        self.idleTimeout = idleTimeout
        self.lingerTimeout = lingerTimeout
    }

    deinit {
        self.close(withReset: false)
    }

    /// Duplicates both sockets, which stay the caller's. Nil if one is no TCP socket, or descriptors or memory are short.
    static func make(
        client: CInt,
        server: CInt,
        id: UInt64,
        epoll: CInt,
        idleTimeout: TimeAmount?,
        lingerTimeout: TimeAmount?
    ) -> SplicedPair? {
        guard clinux_is_tcp(client) != 0, clinux_is_tcp(server) != 0 else { return nil }
        let pair = SplicedPair(id: id, epoll: epoll, idleTimeout: idleTimeout, lingerTimeout: lingerTimeout)
        // What is open when one of these fails is closed with the pair.
        guard Self.openPipe(&pair.toServer), Self.openPipe(&pair.toClient),
            pair.watch(&pair.client, client, key: id << 1), pair.watch(&pair.server, server, key: id << 1 | 1)
        else { return nil }
        return pair
    }

    private static func openPipe(_ direction: inout Direction) -> Bool {
        var ends: [CInt] = [-1, -1]
        guard clinux_splice_pipe(&ends, CInt(Self.pipeBytes)) == 0 else { return false }
        direction.pipe = (ends[0], ends[1])
        return true
    }

    private func watch(_ side: inout Side, _ socket: CInt, key: UInt64) -> Bool {
        side.descriptor = fcntl(socket, F_DUPFD_CLOEXEC, 0)
        return side.descriptor >= 0 && clinux_epoll_add(self.epoll, side.descriptor, key) == 0
    }

    /// Takes over what the kernel told of one socket. False if that socket has failed.
    func note(_ events: UInt32, isServer: Bool, now: NIODeadline) -> Bool {
        if isServer {
            Self.note(events, of: &self.server, &self.toClient, now)
        } else {
            Self.note(events, of: &self.client, &self.toServer, now)
        }
        return events & UInt32(CLINUX_FAILED) == 0
    }

    private static func note(_ events: UInt32, of side: inout Side, _ output: inout Direction, _ now: NIODeadline) {
        func has(_ event: Int) -> Bool { events & UInt32(event) != 0 }
        if has(CLINUX_READABLE) || has(CLINUX_ENDED) { side.isReadable = true }
        if has(CLINUX_WRITABLE) { side.isWritable = true }
        if has(CLINUX_URGENT) { side.hasUrgentByte = true }
        if has(CLINUX_ENDED), !side.hasEnded {
            side.hasEnded = true
            // From here on the other side has to take some of what is left in each linger timeout.
            output.lastProgress = now
        }
    }

    /// Moves what can be moved without waiting.
    func move(now: NIODeadline) -> Progress {
        let up = Self.move(&self.toServer, from: &self.client, to: &self.server, now)
        let down = Self.move(&self.toClient, from: &self.server, to: &self.client, now)
        if up == .failed || down == .failed { return .failed }
        if up == .finished && down == .finished { return .finished }
        return up == .goesOn || down == .goesOn ? .goesOn : .waits
    }

    private static func move(
        _ direction: inout Direction,
        from source: inout Side,
        to target: inout Side,
        _ now: NIODeadline
    ) -> Progress {
        var turn = 0
        while turn < Self.turnBytes {
            if direction.held == 0 {
                if direction.isFinished { return .finished }
                if source.isReadToEnd {
                    guard shutdown(target.descriptor, CInt(SHUT_WR)) == 0 else { return .failed }
                    direction.isFinished = true
                    return .finished
                }
                guard source.isReadable else { return .waits }
                let count = clinux_splice(source.descriptor, direction.pipe.1, Self.pipeBytes)
                if count > 0 {
                    direction.held = count
                } else if count < 0, errno == EINTR {
                    continue
                } else if count < 0, errno == EAGAIN, !source.hasUrgentByte {
                    source.isReadable = false
                    return .waits
                } else if count == 0 || errno == EAGAIN {
                    // The end, or an urgent byte.
                    guard Self.readOn(&source, into: &direction) else { return .failed }
                    continue
                } else {
                    return .failed
                }
            }
            guard target.isWritable else { return .waits }
            let count = clinux_splice(direction.pipe.0, target.descriptor, direction.held)
            if count > 0 {
                direction.held -= count
                direction.moved &+= UInt64(count)
                direction.lastProgress = now
                turn += count
            } else if count < 0, errno == EINTR {
                continue
            } else if count < 0, errno == EAGAIN {
                target.isWritable = false
            } else {
                return .failed
            }
        }
        return .goesOn
    }

    /// splice(2) never goes past an urgent byte, and takes it for the end where the end has come behind it. recv(2) leaves it
    /// out and goes on, as where bytes are copied, and tells the end for certain.
    private static func readOn(_ source: inout Side, into direction: inout Direction) -> Bool {
        withUnsafeTemporaryAllocation(byteCount: Self.urgentReadBytes, alignment: 1) { buffer in
            let count = recv(source.descriptor, buffer.baseAddress, buffer.count, CInt(MSG_DONTWAIT))
            if count > 0 {
                direction.held = count
                return write(direction.pipe.1, buffer.baseAddress, count) == count
            }
            source.hasUrgentByte = false
            if count == 0 {
                source.hasEnded = true
                source.isReadToEnd = true
            }
            return count == 0 || errno == EAGAIN
        }
    }

    /// Bytes that went to the server and to the client since the last call.
    func takeMoved() -> (toServer: UInt64, toClient: UInt64) {
        defer {
            self.toServer.moved = 0
            self.toClient.moved = 0
        }
        return (self.toServer.moved, self.toClient.moved)
    }

    /// When the pair ends if nothing moves until then, and how that is called.
    var deadline: (time: NIODeadline, ending: SocketSplicer.Ending)? {
        let lastProgress = max(self.toServer.lastProgress, self.toClient.lastProgress)
        var earliest = self.idleTimeout.map { (time: lastProgress + $0, ending: SocketSplicer.Ending.idle) }
        func linger(_ side: Side, _ output: Direction) {
            guard let lingerTimeout, side.hasEnded, !output.isFinished else { return }
            let time = output.lastProgress + lingerTimeout
            if earliest.map({ time < $0.time }) ?? true { earliest = (time, .lingered) }
        }
        linger(self.client, self.toServer)
        linger(self.server, self.toClient)
        return earliest
    }

    /// Closes all descriptors.
    /// - Parameter withReset: what is unsent is dropped, and both peers see it.
    func close(withReset: Bool) {
        for socket in [self.client.descriptor, self.server.descriptor] where socket >= 0 {
            // As long as another descriptor of the socket is open, closing this one does not take it from the epoll set.
            _ = clinux_epoll_remove(self.epoll, socket)
            if withReset {
                var none = Glibc.linger(l_onoff: 1, l_linger: 0)
                setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, socklen_t(MemoryLayout<Glibc.linger>.size))
            }
            Glibc.close(socket)
        }
        for end in [self.toServer.pipe.0, self.toServer.pipe.1, self.toClient.pipe.0, self.toClient.pipe.1]
        where end >= 0 { Glibc.close(end) }
        self.client.descriptor = -1
        self.server.descriptor = -1
        self.toServer.pipe = (-1, -1)
        self.toClient.pipe = (-1, -1)
    }
}
