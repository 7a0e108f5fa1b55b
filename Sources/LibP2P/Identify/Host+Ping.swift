public import Multiformats
public import NIOCore
import Synchronization

extension Host {
    /// How many bytes a ping has (libp2p/specs, ping).
    static let pingLength = 32

    func handlePing() {
        self.handle(.ping, options: HandlerOptions(allowLimitedConnection: true)) { stream in
            let channel = stream.channel
            return channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(PingResponder())
                channel.read()
            }
        }
    }

    /// Measures the round trip to a peer that is connected.
    public func ping(_ peer: PeerID, timeout: TimeAmount = .seconds(10)) -> EventLoopFuture<TimeAmount> {
        let connection = self.state.withLock {
            $0.connections.best(to: peer, allowLimited: true, directOnly: false)
        }
        guard let connection else {
            return self.clock.makeFailedFuture(
                LibP2PError(code: .connectionClosed, message: "there is no connection to \(peer)")
            )
        }
        return connection.ping(timeout: timeout)
    }
}

extension Connection {
    /// Measures the round trip by a stream of `/ipfs/ping/1.0.0`. Completes on the connection's event loop.
    public func ping(timeout: TimeAmount = .seconds(10)) -> EventLoopFuture<TimeAmount> {
        let host = self.host
        let options = OpenStreamOptions(allowLimitedConnection: true, timeout: timeout)
        return self.openStream(protocols: [.ping], options: options).flatMap { stream in
            let channel = stream.channel
            var payload = ByteBuffer()
            for _ in 0..<(Host.pingLength / 8) { payload.writeInteger(host.configuration.randomNumber()) }
            let promise = channel.eventLoop.makePromise(of: TimeAmount.self)
            do {
                try channel.pipeline.syncOperations.addHandler(
                    PingRequester(payload: payload, timeout: timeout, promise: promise)
                )
                try channel.syncOptions?.setOption(.autoRead, value: true)
            } catch {
                promise.fail(error)
            }
            promise.futureResult.whenComplete { result in
                switch result {
                case .success(let time):
                    self.state.withLock { $0.roundTripTime = time }
                    channel.close(promise: nil)
                case .failure: stream.reset()
                }
            }
            return promise.futureResult
        }
    }
}

/// Sends back what a peer sends. The next read waits for the last answer to be written, so that nothing piles up.
private final class PingResponder: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var answer = ByteBuffer()

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.answer.writeBuffer(&bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        let answer = self.answer
        self.answer = ByteBuffer()
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        context.writeAndFlush(self.wrapOutboundOut(answer)).whenSuccess { bound.value.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }
}

/// Sends one ping and waits for its return.
private final class PingRequester: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let payload: ByteBuffer
    private let timeout: TimeAmount
    private let promise: EventLoopPromise<TimeAmount>
    private var received = ByteBuffer()
    private var sent = NIODeadline.uptimeNanoseconds(0)
    private var timer: Scheduled<Void>?
    private var isDone = false

    init(payload: ByteBuffer, timeout: TimeAmount, promise: EventLoopPromise<TimeAmount>) {
        self.payload = payload
        self.timeout = timeout
        self.promise = promise
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.sent = context.eventLoop.now
        context.writeAndFlush(self.wrapOutboundOut(self.payload), promise: nil)
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: self.timeout) {
            self.finish(.failure(LibP2PError(code: .timedOut, message: "no answer to a ping in time")))
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.finish(.failure(Self.closed))
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return }
        var bytes = self.unwrapInboundIn(data)
        self.received.writeBuffer(&bytes)
        guard self.received.readableBytes >= self.payload.readableBytes else { return }
        if self.received == self.payload {
            self.finish(.success(context.eventLoop.now - self.sent))
        } else {
            self.finish(.failure(LibP2PError(code: .malformed, message: "a ping came back changed")))
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.finish(.failure(Self.closed))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.finish(.failure(error))
    }

    private func finish(_ result: Result<TimeAmount, any Error>) {
        guard !self.isDone else { return }
        self.isDone = true
        self.timer?.cancel()
        self.promise.completeWith(result)
    }

    private static let closed = LibP2PError(code: .connectionClosed, message: "the stream of a ping was closed")
}
