import NIOCore
import NIOHPACK
import NIOHTTP2

/// One HTTP/2 connection to a backend. Confined to its loop.
final class HTTP2Upstream {
    private let channel: any Channel
    private let multiplexer: NIOHTTP2Handler.StreamMultiplexer
    private let limits: GatewayLimits
    private(set) var openStreams = 0 {
        didSet { if self.openStreams == 0 { self.idleSince = self.channel.eventLoop.now } }
    }
    private var idleSince: NIODeadline

    /// Puts HTTP/2 on `channel`, which reads by itself from now on: flow control holds each stream back.
    init(on channel: any Channel, limits: GatewayLimits) throws {
        self.channel = channel
        self.limits = limits
        self.idleSince = channel.eventLoop.now
        self.multiplexer = try channel.pipeline.syncOperations.configureHTTP2Pipeline(
            mode: .client,
            connectionConfiguration: HTTP2Bounds.connection(limits, isServer: false),
            streamConfiguration: HTTP2Bounds.stream(limits)
        ) { stream in stream.close() }
        try channel.pipeline.syncOperations.addHandler(HTTP2UpstreamGuard())
        try channel.syncOptions?.setOption(.autoRead, value: true)
    }

    var hasRoom: Bool { self.channel.isActive && self.openStreams < self.limits.streamsPerConnection }

    func isIdle(since time: NIODeadline) -> Bool { self.openStreams == 0 && self.idleSince <= time }

    /// Opens a stream; `onStream` is called with it once it can be used.
    func open(_ onStream: @escaping (Result<any UpstreamStream, any Error>) -> Void) {
        self.openStreams += 1
        let promise = self.channel.eventLoop.makePromise(of: (any Channel).self)
        let (limits, loop) = (self.limits, self.channel.eventLoop)
        self.multiplexer.createStreamChannel(promise: promise) { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.syncOptions?.setOption(.autoRead, value: false)
                let handler = HTTP2UpstreamStream(limits: limits)
                try channel.pipeline.syncOperations.addHandler(handler)
            }
        }
        let connection = NIOLoopBound(self, eventLoop: loop)
        promise.futureResult.assumeIsolated().whenComplete { result in
            switch result {
            case .success(let channel):
                channel.closeFuture.whenComplete { _ in connection.value.openStreams -= 1 }
                onStream(
                    Result<any UpstreamStream, any Error> {
                        try channel.pipeline.syncOperations.handler(type: HTTP2UpstreamStream.self)
                    }
                )
            case .failure(let error):
                connection.value.openStreams -= 1
                onStream(.failure(error))
            }
        }
    }

    func close() { self.channel.close(promise: nil) }
}

/// Ends a connection whose backend does not keep to HTTP/2, so that its streams fail: nothing more would come on them.
private final class HTTP2UpstreamGuard: ChannelInboundHandler {
    typealias InboundIn = HTTP2Frame

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // What belongs to a stream that was cancelled may still be on its way.
        if error is NIOHTTP2Errors.StreamError || error is NIOHTTP2Errors.NoSuchStream { return }
        context.close(promise: nil)
    }
}

/// Settings for both sides.
enum HTTP2Bounds {
    static let streamWindow = 256 * 1024
    static let connectionWindow = 1024 * 1024
    /// Content of one stream that waits for its peer.
    static let highWaterMark = 64 * 1024
    static let lowWaterMark = 16 * 1024

    static func connection(_ limits: GatewayLimits, isServer: Bool) -> NIOHTTP2Handler.ConnectionConfiguration {
        var configuration = NIOHTTP2Handler.ConnectionConfiguration()
        configuration.initialSettings = [
            HTTP2Setting(parameter: .maxConcurrentStreams, value: limits.streamsPerConnection),
            HTTP2Setting(parameter: .maxHeaderListSize, value: limits.headBytes),
            HTTP2Setting(parameter: .initialWindowSize, value: Self.streamWindow),
        ]
        configuration.initialSettings.append(
            isServer
                ? HTTP2Setting(parameter: .enableConnectProtocol, value: 1)
                : HTTP2Setting(parameter: .enablePush, value: 0)
        )
        configuration.targetWindowSize = Self.connectionWindow
        configuration.maximumBufferedControlFrames = 1_000
        return configuration
    }

    static func stream(_ limits: GatewayLimits) -> NIOHTTP2Handler.StreamConfiguration {
        var configuration = NIOHTTP2Handler.StreamConfiguration()
        configuration.targetWindowSize = Self.streamWindow
        configuration.outboundBufferSizeHighWatermark = Self.highWaterMark
        configuration.outboundBufferSizeLowWatermark = Self.lowWaterMark
        configuration.streamResetFrameRateLimit.maximumCount = limits.resetsPerConnection
        return configuration
    }
}

/// One request over HTTP/2 to a backend. Confined to its loop.
final class HTTP2UpstreamStream: ChannelInboundHandler, UpstreamStream {
    typealias InboundIn = HTTP2Frame.FramePayload
    typealias OutboundOut = HTTP2Frame.FramePayload

    var observer: (any UpstreamObserver)?
    private let limits: GatewayLimits
    private var context: ChannelHandlerContext?
    private var hasAnswered = false
    private var isEnded = false
    private var isReading = false

    init(limits: GatewayLimits) { self.limits = limits }

    var isWritable: Bool { self.context?.channel.isWritable ?? false }

    func send(_ head: RequestHead) {
        guard let context = self.context else { return self.fail(.reset(isStale: true)) }
        let frame = HTTP2Frame.FramePayload.Headers(
            headers: HTTP2Heads.encode(head),
            endStream: head.body == .none
        )
        self.isEnded = head.body == .none
        context.write(self.wrapOutboundOut(.headers(frame)), promise: nil)
    }

    func write(_ bytes: ByteBuffer) {
        guard bytes.readableBytes > 0 else { return }
        self.context?.write(self.wrapOutboundOut(.data(.init(data: .byteBuffer(bytes)))), promise: nil)
    }

    func end(_ trailers: HeaderFields?) {
        guard !self.isEnded, let context = self.context else { return }
        self.isEnded = true
        let frame: HTTP2Frame.FramePayload =
            if let trailers {
                .headers(.init(headers: HTTP2Heads.encode(trailers), endStream: true))
            } else {
                .data(.init(data: .byteBuffer(ByteBuffer()), endStream: true))
            }
        context.write(self.wrapOutboundOut(frame), promise: nil)
    }

    func flush() { self.context?.flush() }

    func read() {
        guard !self.isReading, let context = self.context else { return }
        self.isReading = true
        context.read()
    }

    func cancel() {
        self.observer = nil
        self.context?.close(promise: nil)
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch self.unwrapInboundIn(data) {
        case .headers(let frame):
            if !self.hasAnswered {
                guard let head = HTTP2Heads.response(frame.headers, ends: frame.endStream, limits: self.limits) else {
                    return self.fail(.malformed("a response whose head is none"))
                }
                if head.isInformational {
                    self.observer?.upstreamInformed(head)
                } else {
                    self.hasAnswered = true
                    self.observer?.upstreamAnswered(head)
                    if frame.endStream { self.done(nil) }
                }
            } else if frame.endStream {
                self.done(HTTP2Heads.trailers(frame.headers))
            }
        case .data(let frame):
            if case .byteBuffer(let bytes) = frame.data, bytes.readableBytes > 0 { self.observer?.upstreamSent(bytes) }
            if frame.endStream { self.done(nil) }
        default: break
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.isReading = false
        if self.hasAnswered { self.observer?.upstreamReadComplete() } else { self.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.observer?.upstreamBecameWritable() }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let closed = error as? NIOHTTP2Errors.StreamClosed, closed.errorCode == .refusedStream {
            self.fail(.refused)
        } else {
            self.fail(.reset(isStale: false))
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(.reset(isStale: false))
        context.fireChannelInactive()
    }

    private func done(_ trailers: HeaderFields?) {
        let observer = self.observer
        self.observer = nil
        // What is left of the request is wanted by nobody.
        if !self.isEnded { self.context?.close(promise: nil) }
        observer?.upstreamEnded(trailers)
    }

    private func fail(_ failure: UpstreamFailure) {
        let observer = self.observer
        self.observer = nil
        self.context?.close(promise: nil)
        observer?.upstreamFailed(failure)
    }
}
