import Glibc
import LibP2PSecurity
import NIOCore
import NIOPosix
import PeerIdentity

/// What encrypting a connection costs: both ends on one loop of this process, over loopback TCP.
///
/// One core does the work of two hosts and the kernel's besides, so each host alone moves about twice as much per core.
struct SecurityBenchmark {
    var megabytes: Int
    var handshakes: Int

    func run(into report: inout Report) async throws {
        let identity = (KeyPair.generate(), KeyPair.generate())
        let key = PreSharedKey(originalFileBytes: "benchmark".utf8)
        let noise = (try NoiseSecurity(identity: identity.0), try NoiseSecurity(identity: identity.1))
        let tls = (try TLSSecurity(identity: identity.0), try TLSSecurity(identity: identity.1))
        typealias Case = (
            name: String, psk: PreSharedKey?, client: (any SecurityProtocol)?, server: (any SecurityProtocol)?
        )
        let cases: [Case] = [
            ("plain TCP", nil, nil, nil), ("PSK", key, nil, nil), ("Noise", nil, noise.0, noise.1),
            ("Noise + PSK", key, noise.0, noise.1), ("TLS", nil, tls.0, tls.1), ("TLS + PSK", key, tls.0, tls.1),
        ]
        for item in cases {
            writeError("measuring \(item.name) …\n")
            let ends = SecuredEnds(psk: item.psk, client: item.client, server: item.server)
            for (name, size) in [("64 KiB", 65_536), ("1 KiB", 1024)] {
                let cost = try await ends.transfer(bytes: self.megabytes << 20, writes: size)
                report.add("\(item.name), \(name) writes, both ends on one core", cost.megabytesPerSecond, "MB/s")
                report.add("\(item.name), \(name) writes, CPU of both ends", cost.cpuSecondsPerGigabyte, "s/GB")
            }
            if item.client != nil {
                let rate = try await ends.connect(times: self.handshakes)
                report.add("\(item.name), connections made, both ends on one core", rate, "1/s")
            }
        }
    }
}

/// Makes pairs of secured channels on one loop.
private struct SecuredEnds: Sendable {
    struct Cost {
        var megabytesPerSecond: Double
        var cpuSecondsPerGigabyte: Double
    }

    var psk: PreSharedKey?
    var client: (any SecurityProtocol)?
    var server: (any SecurityProtocol)?

    /// Moves `bytes` one way in writes of a size, flushed 64 KiB at a time, for as long as the channel is writable.
    func transfer(bytes: Int, writes size: Int) async throws -> Cost {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let received = group.next().makePromise(of: Void.self)
        let (listener, address) = try await self.listen(group) { channel in
            try channel.pipeline.syncOperations.addHandler(Sink(expected: bytes, done: received))
        }
        let begin = (NIODeadline.now(), clock())
        let connection = try await self.dial(address, group) { channel in
            try channel.pipeline.syncOperations.addHandler(Source(bytes: bytes, size: size))
        }
        try await received.futureResult.get()
        let seconds = Double((NIODeadline.now() - begin.0).nanoseconds) / 1e9
        let cpu = Double(clock() - begin.1) / Double(CLOCKS_PER_SEC)
        try await connection.close().get()
        try await listener.close().get()
        try await group.shutdownGracefully()
        return Cost(
            megabytesPerSecond: Double(bytes) / 1e6 / seconds,
            cpuSecondsPerGigabyte: cpu / (Double(bytes) / 1e9)
        )
    }

    /// Makes connections one after the other.
    /// - Returns: how many a second, from the dial to both sides being sure of each other.
    func connect(times: Int) async throws -> Double {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let (listener, address) = try await self.listen(group) { _ in }
        let begin = NIODeadline.now()
        for _ in 0..<times {
            let ready = group.next().makePromise(of: Void.self)
            let connection = try await self.dial(address, group) { _ in ready.succeed(()) }
            try await ready.futureResult.get()
            connection.close(promise: nil)
        }
        let seconds = Double((NIODeadline.now() - begin).nanoseconds) / 1e9
        try await listener.close().get()
        try await group.shutdownGracefully()
        return Double(times) / seconds
    }

    private func listen(
        _ group: MultiThreadedEventLoopGroup,
        _ whenSecured: @escaping @Sendable (any Channel) throws -> Void
    ) async throws -> (any Channel, SocketAddress) {
        let listener = try await ServerBootstrap(group: group)
            .childChannelInitializer { self.secure($0, .responder, whenSecured) }
            .bind(host: "127.0.0.1", port: 0).get()
        guard let address = listener.localAddress else { throw BenchmarkError("a listener without an address") }
        return (listener, address)
    }

    private func dial(
        _ address: SocketAddress,
        _ group: MultiThreadedEventLoopGroup,
        _ whenSecured: @escaping @Sendable (any Channel) throws -> Void
    ) async throws -> any Channel {
        try await ClientBootstrap(group: group)
            .channelInitializer { self.secure($0, .initiator, whenSecured) }
            .connect(to: address).get()
    }

    /// Adds the layers; with a PSK the header goes first, as multistream-select would send it.
    private func secure(
        _ channel: any Channel,
        _ role: ConnectionRole,
        _ whenSecured: @escaping @Sendable (any Channel) throws -> Void
    ) -> EventLoopFuture<Void> {
        do {
            if let psk {
                try PrivateNetwork.add(to: channel, key: psk)
                try channel.pipeline.syncOperations.addHandler(Header())
            }
            guard let security = role == .initiator ? self.client : self.server else {
                try whenSecured(channel)
                return channel.eventLoop.makeSucceededVoidFuture()
            }
            security.secure(channel, role: role, expectedPeer: nil, muxers: ["/yamux/1.0.0"], received: nil)
                .assumeIsolated().whenSuccess { _ in try? whenSecured(channel) }
            return channel.eventLoop.makeSucceededVoidFuture()
        } catch {
            return channel.eventLoop.makeFailedFuture(error)
        }
    }
}

/// Stands for multistream-select: writes its header in front of the first write and takes the other's away.
private final class Header: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer

    private static let header = [0x13] + Array("/multistream/1.0.0\n".utf8)
    private var missing = Header.header.count

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(NIOAny(ByteBuffer(bytes: Self.header)), promise: nil)
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.missing > 0 else { return context.fireChannelRead(data) }
        var bytes = self.unwrapInboundIn(data)
        let skipped = min(self.missing, bytes.readableBytes)
        self.missing -= skipped
        bytes.moveReaderIndex(forwardBy: skipped)
        if bytes.readableBytes > 0 { context.fireChannelRead(NIOAny(bytes)) }
    }
}

/// Writes for as long as the channel takes it.
private final class Source: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private static let flushLength = 65_536
    private let piece: ByteBuffer
    private var left: Int

    init(bytes: Int, size: Int) {
        self.piece = ByteBuffer(repeating: 0x5A, count: size)
        self.left = bytes
    }

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { self.fill(context) }
    }

    func channelActive(context: ChannelHandlerContext) { self.fill(context) }

    func channelWritabilityChanged(context: ChannelHandlerContext) { self.fill(context) }

    private func fill(_ context: ChannelHandlerContext) {
        while self.left > 0, context.channel.isWritable {
            var unflushed = 0
            while self.left > 0, unflushed < Self.flushLength {
                context.write(NIOAny(self.piece), promise: nil)
                unflushed += self.piece.readableBytes
                self.left -= self.piece.readableBytes
            }
            context.flush()
        }
    }
}

/// Counts what comes.
private final class Sink: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private var left: Int
    private let done: EventLoopPromise<Void>

    init(expected: Int, done: EventLoopPromise<Void>) {
        self.left = expected
        self.done = done
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.left -= self.unwrapInboundIn(data).readableBytes
        if self.left <= 0 { self.done.succeed(()) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.done.fail(error) }
}
