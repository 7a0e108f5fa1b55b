import DequeModule
import Glibc
import MeshCore
public import NIOCore

/// A TCP connection as a channel of byte buffers. Confined to the simulation's loop.
/// Unchecked, as the compiler cannot see it: the simulation's one thread alone touches what can change, see `Simulation`.
public final class SimulatedStreamChannel: SimulatedChannel, TCPSocketUser, @unchecked Sendable {  // as loop-confined
    private struct PendingWrite {
        var bytes: ByteBuffer
        let promise: EventLoopPromise<Void>?
    }

    private static let readSize = 64 * 1024

    private let socket: TCPSocket
    /// For the one who dials; nil once it is kept, or for an accepted connection.
    private var connected: EventLoopPromise<any Channel>?
    private var connectTimer: SimulatedLoop.Timer?
    private var isDelivering = false
    private var endIsDelivered = false
    private var outputIsClosed = false
    private var closeOutputPromise: EventLoopPromise<Void>?

    private var writes = Deque<PendingWrite>()
    /// How many of `writes` are flushed.
    private var flushed = 0
    private var unsentBytes = 0
    private var isPushing = false

    init(_ socket: TCPSocket, loop: SimulatedLoop, connected: EventLoopPromise<any Channel>?) {
        self.socket = socket
        self.connected = connected
        super.init(loop: loop)
        self.local = socket.local
        self.remote = socket.remote
        socket.user = self
    }

    override var bufferedBytes: Int { self.unsentBytes }

    // MARK: Life

    /// Sends the SYN, and waits for the connection until `deadline`.
    func connect(until deadline: NIODeadline) {
        let patience = deadline - self.loop.now
        // Cancelled by the connection as by its end.
        self.connectTimer = self.loop.schedule(at: deadline) { self.fail(ChannelError.connectTimeout(patience)) }
        self.socket.open()
    }

    func handle(_ event: TCPEndpoint.Event) {
        switch event {
        case .connected:
            if let timer = self.connectTimer { self.loop.cancel(timer) }
            let promise = self.connected
            self.connected = nil
            self.becomeActive(promise)
        case .readable: self.deliver()
        case .writable: self.push()
        case .outputClosed:
            let promise = self.closeOutputPromise
            self.closeOutputPromise = nil
            promise?.succeed()
        case .failed(let failure):
            self.fail(IOError(errnoCode: failure.errno, reason: self.isActive ? "read" : "connect"))
        }
    }

    private func fail(_ error: any Error) {
        if let promise = self.connected {
            self.connected = nil
            self.end(error: nil)
            promise.fail(error)
        } else {
            self.end(error: error)
        }
    }

    private func end(error: (any Error)?) {
        guard !self.isClosed else { return }
        if let timer = self.connectTimer { self.loop.cancel(timer) }
        self.socket.close(reset: self.settings.resetsOnClose)
        let (writes, promise) = (self.writes, self.closeOutputPromise)
        self.writes = []
        self.flushed = 0
        self.unsentBytes = 0
        self.closeOutputPromise = nil
        for write in writes { write.promise?.fail(error ?? ChannelError.ioOnClosedChannel) }
        promise?.fail(error ?? ChannelError.ioOnClosedChannel)
        self.becomeInactive(error: error)
    }

    public override func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard !self.isClosed else {
            promise?.fail(ChannelError.alreadyClosed)
            return
        }
        switch mode {
        case .all:
            if let connected = self.connected {
                self.connected = nil
                connected.fail(ChannelError.ioOnClosedChannel)
            }
            self.end(error: nil)
            promise?.succeed()
        case .output:
            guard !self.outputIsClosed else {
                promise?.fail(ChannelError.outputClosed)
                return
            }
            self.outputIsClosed = true
            self.closeOutputPromise = promise
            while self.writes.count > self.flushed, let write = self.writes.popLast() {
                self.unsentBytes -= write.bytes.readableBytes
                write.promise?.fail(ChannelError.outputClosed)
            }
            self.push()
        case .input:
            promise?.fail(ChannelError.operationUnsupported)
        }
    }

    // MARK: Reading

    public override func read0() {
        guard self.isActive else { return }
        self.readIsOpen = true
        self.deliver()
    }

    /// Answers open reads with what has come. A read from within a delivery is answered by the same loop.
    private func deliver() {
        guard self.isActive, !self.isDelivering else { return }
        self.isDelivering = true
        while self.readIsOpen, !self.isClosed, !self.socket.endpoint.receive.isEmpty {
            self.readIsOpen = false
            var count = 0
            while count < self.settings.messagesPerRead, !self.isClosed,
                let bytes = self.socket.read(upTo: Self.readSize)
            {
                count += 1
                self.pipeline.fireChannelRead(bytes)
            }
            guard !self.isClosed else { break }
            self.pipeline.fireChannelReadComplete()
            if self.settings.autoRead, !self.isClosed { self.pipeline.read() }
        }
        self.isDelivering = false
        self.deliverEnd()
    }

    private func deliverEnd() {
        guard !self.isClosed, !self.endIsDelivered, self.socket.endpoint.isEndOfInput else { return }
        self.endIsDelivered = true
        if self.settings.allowsRemoteHalfClosure {
            self.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
            self.closeIfBothEnded()
        } else {
            self.end(error: nil)
        }
    }

    private func closeIfBothEnded() {
        if self.endIsDelivered, self.outputIsClosed, self.writes.isEmpty { self.end(error: nil) }
    }

    // MARK: Writing

    public override func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard !self.isClosed, !self.outputIsClosed else {
            promise?.fail(self.isClosed ? ChannelError.ioOnClosedChannel : ChannelError.outputClosed)
            return
        }
        guard let bytes = self.tryUnwrapData(data, as: ByteBuffer.self) else {
            promise?.fail(ChannelError.operationUnsupported)
            return
        }
        self.writes.append(PendingWrite(bytes: bytes, promise: promise))
        self.unsentBytes += bytes.readableBytes
        if self.unsentBytes > self.settings.waterMark.high { self.setWritable(false) }
    }

    public override func flush0() {
        self.flushed = self.writes.count
        self.push()
    }

    /// Gives the socket what it has room for.
    private func push() {
        guard self.isActive, !self.isPushing else { return }
        self.isPushing = true
        while let (bytes, promises) = self.nextWrites() {
            self.socket.write(bytes)
            for promise in promises { promise.succeed() }
        }
        self.isPushing = false
        guard !self.isClosed else { return }
        if self.unsentBytes < self.settings.waterMark.low { self.setWritable(true) }
        if self.outputIsClosed, self.writes.isEmpty, !self.isClosed, !self.socket.endpoint.send.closes {
            self.socket.closeOutput()
            self.pipeline.fireUserInboundEventTriggered(ChannelEvent.outputClosed)
            self.closeIfBothEnded()
        }
    }

    private func nextWrites() -> ([ByteBuffer], [EventLoopPromise<Void>])? {
        var space = self.socket.endpoint.space
        guard self.flushed > 0, !self.isClosed, space > 0 else { return nil }
        var (taken, promises): ([ByteBuffer], [EventLoopPromise<Void>]) = ([], [])
        while self.flushed > 0, space > 0 || self.writes[0].bytes.readableBytes == 0 {
            if let part = self.writes[0].bytes.readSlice(length: min(space, self.writes[0].bytes.readableBytes)) {
                space -= part.readableBytes
                self.unsentBytes -= part.readableBytes
                taken.append(part)
            }
            guard self.writes[0].bytes.readableBytes == 0 else { break }
            if let promise = self.writes.removeFirst().promise { promises.append(promise) }
            self.flushed -= 1
        }
        return (taken, promises)
    }
}

extension TCPEndpoint.Failure {
    var errno: CInt {
        switch self {
        case .refused, .unreachable(.port): ECONNREFUSED
        case .reset: ECONNRESET
        case .timedOut: ETIMEDOUT
        case .unreachable(.network): ENETUNREACH
        case .unreachable(.host): EHOSTUNREACH
        case .unreachable(.prohibited): EACCES
        }
    }
}
