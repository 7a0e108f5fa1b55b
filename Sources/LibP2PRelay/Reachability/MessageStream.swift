import LibP2P
import Multiformats
import NIOCore

/// Sends and receives messages framed by their length on a stream, one asked for at a time. Confined to the stream's loop.
///
/// Reads no more than is asked for; a message that is too long, late or cut off fails what waits and resets the stream.
final class MessageStream: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let stream: NegotiatedStream
    private let maximumLength: Int
    private var buffer = ByteBuffer()
    private var waiting: EventLoopPromise<ByteBuffer>?
    private var failure: (any Error)?
    private var timer: Scheduled<Void>?

    /// On the stream's loop; the whole exchange must be over within `timeout`.
    init(_ stream: NegotiatedStream, maximumLength: Int, timeout: TimeAmount) throws {
        self.stream = stream
        self.maximumLength = maximumLength
        try stream.channel.pipeline.syncOperations.addHandler(self)
        self.timer = stream.channel.eventLoop.assumeIsolated().scheduleTask(in: timeout) {
            self.fail(LibP2PRelayError(code: .timedOut, message: "\(stream.connection.remotePeer) is too slow"))
        }
    }

    func send(_ message: ByteBuffer) {
        var framed = ByteBuffer()
        framed.writeVarintPrefixed(message)
        self.stream.channel.writeAndFlush(framed, promise: nil)
    }

    /// The next message. One call at a time.
    func receive() -> EventLoopFuture<ByteBuffer> {
        let promise = self.stream.channel.eventLoop.makePromise(of: ByteBuffer.self)
        if let failure = self.failure {
            promise.fail(failure)
        } else {
            self.waiting = promise
            self.deliver()
            if self.waiting != nil { self.stream.channel.read() }
        }
        return promise.futureResult
    }

    /// Ends the exchange; what was sent reaches the peer.
    func finish() {
        guard self.failure == nil else { return }
        self.end(LibP2PRelayError(code: .unexpected, message: "the stream has ended"))
        self.stream.channel.close(promise: nil)
    }

    /// Ends the exchange with a reset.
    func fail(_ error: any Error) {
        guard self.failure == nil else { return }
        self.end(error)
        self.stream.reset()
    }

    private func end(_ error: any Error) {
        self.failure = error
        self.timer?.cancel()
        self.waiting?.fail(error)
        self.waiting = nil
    }

    private func deliver() {
        guard let promise = self.waiting else { return }
        do throws(MultiformatsError) {
            guard let message = try self.buffer.readVarintPrefixed(maximumLength: self.maximumLength) else { return }
            self.buffer.discardReadBytes()
            self.waiting = nil
            promise.succeed(message)
        } catch {
            self.fail(error)
        }
    }

    // MARK: Handler

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.buffer.writeBuffer(&bytes)
        self.deliver()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if self.waiting != nil { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent, self.waiting != nil else { return }
        self.fail(LibP2PRelayError(code: .unexpected, message: "the peer ended the stream before its message"))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(error)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(LibP2PRelayError(code: .unexpected, message: "the stream was closed before its end"))
        context.fireChannelInactive()
    }
}
