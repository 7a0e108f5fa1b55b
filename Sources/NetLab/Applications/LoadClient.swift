import Glibc
import MeshCore
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// Closed-loop load: as many workers as connections, each with one exchange open at a time.
enum LoadClient {
    static func run(_ options: LoadOptions) async throws -> LoadReport {
        let loops = Array(MultiThreadedEventLoopGroup.singleton.makeIterator())
        let target = options.target.description
        let start = MonotonicTime.now()
        var report = LoadReport(mode: options.mode, target: target)
        switch options.mode {
        case .http, .https, .tcp, .websocket, .udp, .connect:
            report = try await Self.collect(options, workers: options.connections, loops: loops) { loop, index in
                ExchangeWorker.run(options, share: Self.share(of: options, worker: index), start: start, on: loop)
            }
        case .throughput:
            report = try await Self.collect(options, workers: options.connections, loops: loops) { loop, _ in
                ThroughputClient.run(options, on: loop)
            }
        case .idle:
            report = try await IdleClient.run(options, loops: loops)
        }
        report.elapsed = MonotonicTime.now() - start
        // Connecting and the last answer are no part of the time in which bytes flowed.
        if options.mode == .throughput, let duration = options.duration { report.elapsed = duration }
        return report
    }

    private static func collect(
        _ options: LoadOptions,
        workers: Int,
        loops: [any EventLoop],
        _ body: (any EventLoop, Int) -> EventLoopFuture<LoadReport>
    ) async throws -> LoadReport {
        let futures = (0..<workers).map { body(loops[$0 % loops.count], $0) }
        var report = LoadReport(mode: options.mode, target: options.target.description)
        for future in futures { report.merge(try await future.get()) }
        return report
    }

    /// How many of the requests fall to one worker; nil for no limit.
    private static func share(of options: LoadOptions, worker: Int) -> Int? {
        options.requests.map { total in
            total / options.connections + (worker < total % options.connections ? 1 : 0)
        }
    }

    /// Best effort: some hosts have a hard limit.
    static func raiseFileLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    /// A failure in few words, the same for all of its kind.
    static func reason(for error: any Error) -> String {
        switch error {
        case let error as IOError: describe(errno: error.errnoCode)
        case let error as NIOConnectionError:
            error.connectionErrors.first.map { Self.reason(for: $0.error) } ?? "connect failed"
        case ChannelError.connectTimeout: "timeout while connecting"
        case let error as LoadFailure: error.rawValue
        default: "\(error)"
        }
    }
}

enum LoadFailure: String, Error {
    case timeout = "timeout"
    case closed = "closed without an answer"
    case status = "HTTP status is not 200"
    case lost = "connection lost while idle"
    case short = "server received less than was sent"
}

/// One worker of the modes that repeat an exchange. Lives on one event loop.
final class ExchangeWorker {
    private let options: LoadOptions
    private let loop: any EventLoop
    private let end: MonotonicTime?
    private let promise: EventLoopPromise<LoadReport>
    private var remaining: Int?
    private var report: LoadReport
    private var lastSuccess: MonotonicTime
    private let tls: NIOSSLContext?

    static func run(
        _ options: LoadOptions,
        share: Int?,
        start: MonotonicTime,
        on loop: any EventLoop
    ) -> EventLoopFuture<LoadReport> {
        loop.flatSubmit {
            let worker = ExchangeWorker(options, share: share, start: start, on: loop)
            worker.next()
            return worker.promise.futureResult
        }
    }

    private init(_ options: LoadOptions, share: Int?, start: MonotonicTime, on loop: any EventLoop) {
        self.options = options
        self.loop = loop
        self.end = options.duration.map { start + $0 }
        self.remaining = share
        self.promise = loop.makePromise()
        self.report = LoadReport(mode: options.mode, target: options.target.description)
        self.lastSuccess = start
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateVerification = .none
        self.tls = options.mode == .https ? try? NIOSSLContext(configuration: configuration) : nil
    }

    private static func addHandlers(
        of mode: LoadOptions.Mode,
        _ tls: NIOSSLContext?,
        _ answer: EventLoopPromise<String?>,
        to pipeline: ChannelPipeline.SynchronousOperations
    ) throws {
        switch mode {
        case .http, .https:
            if let tls { try pipeline.addHandler(NIOSSLClientHandler(context: tls, serverHostname: nil)) }
            try pipeline.addHTTPClientHandlers()
            try pipeline.addHandler(HTTPExchange(answer))
        case .tcp: try pipeline.addHandler(LineExchange(answer))
        case .websocket: try WebSocketExchange.add(to: pipeline, answer)
        case .udp, .connect, .throughput, .idle: break
        }
    }

    private func next() {
        if let end, MonotonicTime.now() >= end { return self.finish() }
        if let remaining {
            if remaining == 0 { return self.finish() }
            self.remaining = remaining - 1
        }
        let started = MonotonicTime.now()
        // The worker stays on its loop, so the callback needs no lock.
        self.exchange().assumeIsolated().whenComplete { result in
            let now = MonotonicTime.now()
            switch result {
            case .success(let answer):
                self.report.succeed(answer: answer, after: now - started)
                if now - started > self.options.late { self.report.late += 1 }
                self.report.longestGap = max(self.report.longestGap, now - self.lastSuccess)
                self.lastSuccess = now
            case .failure(let error):
                self.report.fail(LoadClient.reason(for: error))
            }
            // Never by a direct call: exchanges that fail at once would grow the stack.
            let delay = TimeAmount.nanoseconds(self.options.interval.saturatedNanoseconds)
            self.loop.assumeIsolated().scheduleTask(in: delay) { self.next() }
        }
    }

    private func finish() {
        self.report.longestGap = max(self.report.longestGap, MonotonicTime.now() - self.lastSuccess)
        self.promise.succeed(self.report)
    }

    /// One connection or one datagram and its answer, if the mode has one.
    private func exchange() -> EventLoopFuture<String?> {
        let answer = self.loop.makePromise(of: String?.self)
        let timeout = TimeAmount.nanoseconds(self.options.timeout.saturatedNanoseconds)
        let connected: EventLoopFuture<any Channel>
        switch self.options.mode {
        case .udp:
            connected = DatagramBootstrap(group: self.loop)
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 2048))
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(DatagramExchange(answer))
                    }
                }
                .connect(to: self.options.target)
        default:
            let (mode, tls) = (self.options.mode, self.tls)
            connected = ClientBootstrap(group: self.loop)
                .connectTimeout(timeout)
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try Self.addHandlers(of: mode, tls, answer, to: channel.pipeline.syncOperations)
                    }
                }
                .connect(to: self.options.target)
        }
        let timer = self.loop.scheduleTask(in: timeout) { answer.fail(LoadFailure.timeout) }
        connected.cascadeFailure(to: answer)
        if self.options.mode == .connect { connected.map { _ in nil }.cascadeSuccess(to: answer) }
        let resets = self.options.mode == .connect
        return answer.futureResult.always { _ in
            timer.cancel()
            connected.whenSuccess { channel in
                // Reset instead of TIME_WAIT, which would use all ports up.
                if resets, let socket = channel as? any SocketOptionProvider {
                    socket.setSoLinger(linger(l_onoff: 1, l_linger: 0)).whenComplete { _ in channel.close(promise: nil)
                    }
                } else {
                    channel.close(promise: nil)
                }
            }
        }
    }
}
