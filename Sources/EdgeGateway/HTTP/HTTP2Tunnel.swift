import ByteStreams
import NIOCore

/// Joins a stream that is a tunnel, such as a WebSocket (RFC 8441 section 5), with the backend's connection: DATA frames on one
/// side, bytes on the other, and END_STREAM for the end of a direction. Each side is read only while the other takes what comes.
///
/// It stands at the end of the pipeline of the backend's channel, and is confined to its loop.
final class HTTP2Tunnel: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let worker: GatewayWorker
    private var stream: HTTP2ServerStream?
    private var context: ChannelHandlerContext?
    private var readWanted = false
    private var clientHasEnded = false
    private var backendHasEnded = false
    private var idle: LazyDeadline?
    private var linger: LazyDeadline?
    /// What was left for a side whose other has ended, when it was looked at last.
    private var leftBefore = 0

    init(_ stream: HTTP2ServerStream, worker: GatewayWorker) {
        self.stream = stream
        self.worker = worker
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    /// Begins to read both sides.
    func start() {
        if let timeout = self.worker.limits.streamIdleTimeout {
            self.idle = LazyDeadline(on: self.worker.loop) { [weak self] in self?.reset() }
            self.idle?.set(timeout)
        }
        self.readBackend()
        self.stream?.readRequest()
    }

    private func touch() {
        if let timeout = self.worker.limits.streamIdleTimeout { self.idle?.set(timeout) }
    }

    // MARK: From the client

    func clientSent(_ bytes: ByteBuffer) {
        self.touch()
        self.worker.glue.clientToServerBytes &+= UInt64(bytes.readableBytes)
        self.context?.write(self.wrapOutboundOut(bytes), promise: nil)
    }

    /// All that has come so far is told.
    func clientPaused() {
        self.context?.flush()
        if self.context?.channel.isWritable ?? false { self.stream?.readRequest() }
    }

    func clientEnded() {
        guard !self.clientHasEnded else { return }
        self.clientHasEnded = true
        self.context?.flush()
        if self.backendHasEnded { return self.closeBackend() }
        self.context?.close(mode: .output, promise: nil)
        self.boundLinger()
    }

    func clientBecameWritable() {
        if self.readWanted { self.readBackend() }
    }

    /// - Parameter isReset: the client does not want what is on its way, either.
    func streamClosed(isReset: Bool) {
        self.stream = nil
        self.idle?.cancel()
        if isReset { self.context?.channel.closeWithReset() } else { self.closeBackend() }
    }

    // MARK: From the backend

    private func readBackend() {
        guard let stream = self.stream, !self.backendHasEnded else { return }
        self.readWanted = !stream.isWritable
        if !self.readWanted { self.context?.read() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.touch()
        self.worker.glue.serverToClientBytes &+= UInt64(bytes.readableBytes)
        self.stream?.send(bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.stream?.flush()
        self.readBackend()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.stream?.readRequest() }
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent, !self.backendHasEnded {
            self.endStream()
            if self.clientHasEnded { self.closeBackend() } else { self.boundLinger() }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.reset() }

    func channelInactive(context: ChannelHandlerContext) {
        self.idle?.cancel()
        self.linger?.cancel()
        if !self.backendHasEnded { self.endStream() }
        let stream = self.stream
        self.stream = nil
        // What the client still sends is wanted by nobody.
        if !self.clientHasEnded { stream?.abort() }
        context.fireChannelInactive()
    }

    private func endStream() {
        self.backendHasEnded = true
        self.stream?.endTunnel()
    }

    /// Once all is with the kernel: a close at once would drop it.
    private func closeBackend() {
        guard let context = self.context else { return }
        let promise = context.eventLoop.makePromise(of: Void.self)
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        promise.futureResult.whenComplete { _ in bound.value.close(promise: nil) }
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer()), promise: promise)
        self.boundLinger()
    }

    private func reset() {
        let stream = self.stream
        self.stream = nil
        self.idle?.cancel()
        self.linger?.cancel()
        stream?.abort()
        self.context?.channel.closeWithReset()
    }

    // MARK: Lingering

    /// When one side has ended, some of what is left for the other has to be taken in each linger timeout, else both are reset: a
    /// peer that stopped reading would hold the tunnel for ever.
    private func boundLinger() {
        self.leftBefore = self.left
        guard self.leftBefore > 0 else { return }
        if self.linger == nil {
            self.linger = LazyDeadline(on: self.worker.loop) { [weak self] in self?.lingered() }
        }
        self.linger?.set(self.worker.limits.lingerTimeout)
    }

    private func lingered() {
        guard self.left >= self.leftBefore, self.left > 0 else { return self.boundLinger() }
        self.worker.glue.lingered &+= 1
        self.reset()
    }

    private var left: Int {
        let toClient = self.backendHasEnded ? self.stream?.unsent ?? 0 : 0
        guard self.clientHasEnded || self.stream == nil else { return toClient }
        return toClient + ((try? self.context?.channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0)
    }
}
