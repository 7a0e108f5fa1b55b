import LibP2P
import NIOCore

/// A whole exchange of messages on a stream, for tasks on its loop: one message is awaited at a time, all of them by one deadline.
/// Whoever cannot go on resets it.
final class MessageStream {
    private let stream: NegotiatedStream
    private let exchange: MessageExchange
    private let deadline: NIODeadline
    private var isFinished = false

    /// On the stream's loop; the whole exchange must be over within `timeout`.
    init(_ stream: NegotiatedStream, maximumLength: Int, timeout: TimeAmount) throws {
        self.stream = stream
        self.exchange = try MessageExchange.begin(on: stream.channel, maximumLength: maximumLength)
        self.deadline = stream.channel.eventLoop.now + timeout
    }

    func send(_ message: ByteBuffer) {
        self.exchange.write(message)
    }

    func receive() -> EventLoopFuture<ByteBuffer> {
        let loop = self.stream.channel.eventLoop
        let promise = loop.makePromise(of: ByteBuffer.self)
        self.exchange.read(within: self.deadline - loop.now) { result in
            promise.completeWith(result.mapError { $0 as any Error })
        }
        return promise.futureResult
    }

    /// Ends the exchange; what was sent reaches the peer.
    func finish() {
        self.isFinished = true
        self.exchange.finish()
    }

    /// Ends the exchange at once, unless it was finished.
    func reset() {
        if !self.isFinished { self.stream.reset() }
    }
}
