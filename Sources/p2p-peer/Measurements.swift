import Glibc
import LibP2P
import Multiformats
import NIOCore
import PeerTesting

/// What benchmarks ask of a peer: figures, one to a line, as `NAME NUMBER UNIT`.
struct Measurements {
    let host: Host
    let address: Multiaddr

    /// Connects again and again, one after the other.
    func handshakes(_ count: Int) async throws {
        let begin = (NIODeadline.now(), Self.cpu())
        for _ in 0..<count {
            let connection = try await self.host.connect(to: self.address, options: DialOptions(reuse: .never))
            connection.close()
        }
        let seconds = Double((NIODeadline.now() - begin.0).nanoseconds) / 1e9
        print("handshakes \(Double(count) / seconds) /s")
        print("cpu \((Self.cpu() - begin.1) / Double(count) * 1e6) us/handshake")
    }

    /// The time to open a stream, negotiated, and that of 64 bytes there and back.
    func latency(_ connection: Connection, _ count: Int) async throws {
        var opens: [Int64] = []
        for _ in 0..<count {
            let begin = NIODeadline.now()
            let stream = try await connection.openStream(
                protocols: [TestProtocol.echo.id],
                options: OpenStreamOptions(waitForAnswer: true)
            ).get()
            opens.append((NIODeadline.now() - begin).nanoseconds)
            stream.channel.close(promise: nil)
        }
        Self.printPercentiles("open", opens)
        let rounds = try await connection.openStream(protocols: [TestProtocol.echo.id]).flatMap { stream in
            let promise = stream.channel.eventLoop.makePromise(of: [Int64].self)
            do {
                try stream.channel.pipeline.syncOperations.addHandler(RoundTrips(count: count, promise))
            } catch {
                promise.fail(error)
            }
            return promise.futureResult
        }.get()
        Self.printPercentiles("roundtrip", rounds)
    }

    /// Holds connections open, until it is killed.
    func holdConnections(_ count: Int) async throws {
        for _ in 1..<count {
            _ = try await self.host.connect(to: self.address, options: DialOptions(reuse: .never))
        }
        try await self.hold()
    }

    /// Holds streams open, each after a few bytes there and back, until it is killed.
    func holdStreams(_ connection: Connection, _ count: Int) async throws {
        for _ in 0..<count {
            let stream = try await connection.openStream(
                protocols: [TestProtocol.echo.id],
                options: OpenStreamOptions(waitForAnswer: true)
            ).get()
            try await stream.channel.writeAndFlush(ByteBuffer(string: "hello"))
        }
        try await self.hold()
    }

    private func hold() async throws {
        print("holding")
        fflush(nil)
        while true { try await Task.sleep(for: .seconds(3600)) }
    }

    /// Seconds of CPU time of this process.
    static func cpu() -> Double {
        Double(clock()) / Double(CLOCKS_PER_SEC)
    }

    private static func printPercentiles(_ name: String, _ values: [Int64]) {
        let sorted = values.sorted()
        print("\(name)-p50 \(Double(sorted[sorted.count / 2]) / 1000) us")
        print("\(name)-p99 \(Double(sorted[sorted.count * 99 / 100]) / 1000) us")
    }
}

/// Sends 64 bytes when the last 64 are back.
private final class RoundTrips: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private static let message = ByteBuffer(repeating: 0x40, count: 64)
    private let count: Int
    private let promise: EventLoopPromise<[Int64]>
    private var times: [Int64] = []
    private var sent = NIODeadline.now()
    private var received = 0

    init(count: Int, _ promise: EventLoopPromise<[Int64]>) {
        self.count = count
        self.promise = promise
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.send(context)
        context.read()
    }

    private func send(_ context: ChannelHandlerContext) {
        self.sent = .now()
        self.received = 0
        context.writeAndFlush(self.wrapOutboundOut(Self.message), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.received += self.unwrapInboundIn(data).readableBytes
        guard self.received == 64 else { return }
        self.times.append((NIODeadline.now() - self.sent).nanoseconds)
        if self.times.count == self.count {
            self.promise.succeed(self.times)
            context.close(promise: nil)
        } else {
            self.send(context)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.read()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.promise.fail(error)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.promise.fail(ChannelError.eof)
    }
}
