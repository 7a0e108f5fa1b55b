import MeshCore
import NIOCore
import NIOPosix

/// Moves bytes over one connection for the given time.
final class ThroughputClient: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let options: LoadOptions
    private let finished: EventLoopPromise<LoadReport>
    private var report: LoadReport
    private var isSending = false
    private var sent: UInt64 = 0
    private var serverCount = ByteBuffer()

    private init(_ options: LoadOptions, _ finished: EventLoopPromise<LoadReport>) {
        self.options = options
        self.finished = finished
        self.report = LoadReport(mode: options.mode, target: options.target.description)
    }

    static func run(_ options: LoadOptions, on loop: any EventLoop) -> EventLoopFuture<LoadReport> {
        let finished = loop.makePromise(of: LoadReport.self)
        ClientBootstrap(group: loop)
            .connectTimeout(.nanoseconds(options.timeout.saturatedNanoseconds))
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(
                .recvAllocator,
                value: AdaptiveRecvByteBufferAllocator(minimum: 4096, initial: 65_536, maximum: 262_144)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ThroughputClient(options, finished))
                }
            }
            .connect(to: options.target)
            .whenFailure { error in
                var report = LoadReport(mode: options.mode, target: options.target.description)
                report.fail(LoadClient.reason(for: error))
                finished.succeed(report)
            }
        return finished.futureResult
    }

    func channelActive(context: ChannelHandlerContext) {
        let direction = self.options.uploads ? BulkServer.upload : BulkServer.download
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(integer: direction)), promise: nil)
        let duration = TimeAmount.nanoseconds((self.options.duration ?? .seconds(5)).saturatedNanoseconds)
        let context = NIOLoopBound(context, eventLoop: context.eventLoop)
        let handler = NIOLoopBound(self, eventLoop: context.value.eventLoop)
        context.value.eventLoop.scheduleTask(in: duration) { handler.value.timeIsUp(context: context.value) }
        self.isSending = self.options.uploads
        if self.isSending { self.send(context: context.value) }
    }

    private func send(context: ChannelHandlerContext) {
        while self.isSending, context.channel.isWritable {
            self.sent += UInt64(BulkServer.chunk.readableBytes)
            context.writeAndFlush(self.wrapOutboundOut(BulkServer.chunk), promise: nil)
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.send(context: context)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        if self.options.uploads {
            self.serverCount.writeBuffer(&bytes)
        } else {
            self.report.bytes += UInt64(bytes.readableBytes)
        }
    }

    private func timeIsUp(context: ChannelHandlerContext) {
        self.isSending = false
        if self.options.uploads {
            context.close(mode: .output, promise: nil)
        } else {
            self.report.succeeded = 1
            context.close(promise: nil)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event as? ChannelEvent == .inputClosed { context.close(promise: nil) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if let count = self.serverCount.readInteger(as: UInt64.self) {
            self.report.bytes = count
            if count == self.sent { self.report.succeeded = 1 } else { self.report.fail(LoadFailure.short.rawValue) }
        }
        if self.report.succeeded == 0, self.report.failures.isEmpty { self.report.fail(LoadFailure.closed.rawValue) }
        self.finished.succeed(self.report)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.report.fail(LoadClient.reason(for: error))
        context.close(promise: nil)
    }
}

/// Opens connections and holds them without sending a byte.
enum IdleClient {
    /// Connections being opened at a time, below every listen backlog.
    private static let batch = 128

    static func run(_ options: LoadOptions, loops: [any EventLoop]) async throws -> LoadReport {
        var report = LoadReport(mode: options.mode, target: options.target.description)
        var channels: [any Channel] = []
        while channels.count + report.failed < options.connections {
            let open = channels.count + report.failed
            let attempts = (open..<min(open + Self.batch, options.connections)).map { index in
                let started = MonotonicTime.now()
                return ClientBootstrap(group: loops[index % loops.count])
                    .connectTimeout(.nanoseconds(options.timeout.saturatedNanoseconds))
                    .connect(to: options.target)
                    .map { ($0, MonotonicTime.now() - started) }
            }
            for attempt in attempts {
                do {
                    let (channel, latency) = try await attempt.get()
                    channels.append(channel)
                    report.latency.record(latency)
                } catch {
                    report.fail(LoadClient.reason(for: error))
                }
            }
        }
        try await Task.sleep(for: options.duration ?? .seconds(5))
        for channel in channels {
            if channel.isActive { report.succeeded += 1 } else { report.fail(LoadFailure.lost.rawValue) }
            channel.close(promise: nil)
        }
        return report
    }
}
