import ByteStreams
import LibP2P
import Multiformats
import NIOCore

/// Exchanges length-prefixed messages on a stream, whose bytes may then go to others. Confined to the stream's loop.
///
/// It asks for bytes only while a message is awaited. What came behind the message in the same read is kept until `leave()`, whose
/// caller installs the stream's next handler in the same tick, so that no byte and no end is lost.
final class MessageExchange: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    typealias Completion = (Result<ByteBuffer, LibP2PRelayError>) -> Void

    private var context: ChannelHandlerContext?
    private var input = ByteBuffer()
    private var message: ByteBuffer?
    private var completion: Completion?
    private var timer: Scheduled<Void>?
    private var failure: LibP2PRelayError?
    /// The peer sends nothing behind what is here already.
    private var hasEnded = false
    private let maximumLength: Int

    private init(maximumLength: Int) {
        self.maximumLength = maximumLength
    }

    /// Puts an exchange at the end of the stream's pipeline.
    static func begin(
        on channel: any Channel,
        maximumLength: Int = CircuitProtocol.maximumMessageLength
    ) throws -> MessageExchange {
        let exchange = MessageExchange(maximumLength: maximumLength)
        try channel.pipeline.syncOperations.addHandler(exchange)
        return exchange
    }

    // MARK: Use

    /// Awaits the next message and calls `completion` once. After a failure nothing more is to be had from the stream.
    func read(within timeout: TimeAmount, _ completion: @escaping Completion) {
        guard let context = self.context else { return completion(.failure(Self.closed)) }
        if let failure = self.failure { return completion(.failure(failure)) }
        self.completion = completion
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: timeout) {
            self.fail(LibP2PRelayError(code: .timedOut, message: "no message in time"))
        }
        if self.cut() {
            self.complete()
        } else if self.hasEnded {
            self.fail(Self.ended)
        } else {
            context.read()
        }
    }

    func write(_ message: ByteBuffer) {
        guard let context = self.context else { return }
        var framed = ByteBuffer()
        framed.writeVarintPrefixed(message)
        context.writeAndFlush(self.wrapOutboundOut(framed), promise: nil)
    }

    /// Closes the stream behind what was sent, and a last message.
    func finish(_ message: ByteBuffer? = nil) {
        if let message { self.write(message) }
        self.context?.close(promise: nil)
    }

    func reset() {
        self.context?.channel.closeWithReset()
    }

    /// Hands the stream over, with what came behind the last message.
    /// - Throws: if the stream has failed or the peer has ended it meanwhile.
    func leave() throws(LibP2PRelayError) -> ByteBuffer {
        if let failure = self.failure { throw failure }
        guard !self.hasEnded else { throw Self.ended }
        guard let context = self.context else { throw Self.closed }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
        return self.input
    }

    // MARK: Pipeline

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        self.fail(Self.closed)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.failure == nil else { return }
        var bytes = self.unwrapInboundIn(data)
        self.input.writeBuffer(&bytes)
        if self.completion != nil, self.message == nil { _ = self.cut() }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if self.message != nil {
            self.complete()
        } else if self.completion != nil {
            context.read()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent {
            self.hasEnded = true
            if self.completion != nil, self.message == nil { self.fail(Self.ended) }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(LibP2PRelayError(code: .connectionFailed, message: "the stream has failed", cause: error))
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(Self.closed)
        context.fireChannelInactive()
    }

    // MARK: Parts

    /// Cuts the message off what has come. True if it is whole.
    private func cut() -> Bool {
        do {
            self.message = try self.input.readVarintPrefixed(maximumLength: self.maximumLength)
            return self.message != nil
        } catch {
            self.fail(LibP2PRelayError(code: .malformed, message: "no length-prefixed message", cause: error))
            return false
        }
    }

    private func complete() {
        guard let message = self.message, let completion = self.takeCompletion() else { return }
        self.message = nil
        completion(.success(message))
    }

    private func fail(_ error: LibP2PRelayError) {
        guard self.failure == nil else { return }
        self.failure = error
        self.takeCompletion()?(.failure(error))
    }

    private func takeCompletion() -> Completion? {
        defer { self.completion = nil }
        self.timer?.cancel()
        self.timer = nil
        return self.completion
    }

    private static let ended = LibP2PRelayError(code: .connectionFailed, message: "the peer has ended the stream")
    private static let closed = LibP2PRelayError(code: .connectionFailed, message: "the stream was closed")
}
