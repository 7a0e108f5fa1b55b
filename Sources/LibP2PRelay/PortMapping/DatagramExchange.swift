import NIOCore
import NIOPosix

/// Sends requests in datagrams until an answer comes or the tries are used up. One socket for each exchange.
enum DatagramExchange {
    /// The first wait; each further one is twice as long (RFC 6886, section 3.1).
    private static let firstWait = TimeAmount.milliseconds(250)

    /// - Parameters:
    ///   - isConnected: only the remote address can answer; otherwise anyone.
    ///   - requests: made for the address that the socket sends from.
    ///   - parse: nil for a datagram that is no answer.
    static func run<Answer: Sendable>(
        with remote: SocketAddress,
        isConnected: Bool,
        tries: Int,
        on loop: any EventLoop,
        requests: @escaping @Sendable (SocketAddress) throws -> [ByteBuffer],
        parse: @escaping @Sendable (ByteBuffer, SocketAddress) -> Answer?
    ) async throws -> Answer {
        let promise = loop.makePromise(of: Answer.self)
        let bootstrap = DatagramBootstrap(group: loop).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(Handler(promise: promise, parse: parse))
            }
        }
        let channel: any Channel
        do {
            channel =
                isConnected
                ? try await bootstrap.connect(to: remote).get()
                : try await bootstrap.bind(host: "0.0.0.0", port: 0).get()
        } catch {
            promise.fail(error)
            throw error
        }
        do {
            guard let local = channel.localAddress else {
                throw LibP2PRelayError(code: .mappingFailed, message: "a socket without an address")
            }
            try Self.send(try requests(local), to: remote, by: channel, left: tries, wait: Self.firstWait, promise)
        } catch {
            promise.fail(error)
        }
        promise.futureResult.whenComplete { _ in channel.close(promise: nil) }
        return try await promise.futureResult.get()
    }

    private static func send<Answer: Sendable>(
        _ requests: [ByteBuffer],
        to remote: SocketAddress,
        by channel: any Channel,
        left: Int,
        wait: TimeAmount,
        _ promise: EventLoopPromise<Answer>
    ) throws {
        guard left > 0 else {
            throw LibP2PRelayError(code: .timedOut, message: "no answer from the gateway at \(remote)")
        }
        for request in requests {
            channel.writeAndFlush(AddressedEnvelope(remoteAddress: remote, data: request), promise: nil)
        }
        channel.eventLoop.scheduleTask(in: wait) {
            guard channel.isActive else { return }
            do {
                try Self.send(requests, to: remote, by: channel, left: left - 1, wait: wait * 2, promise)
            } catch {
                promise.fail(error)
            }
        }
    }

    private final class Handler<Answer: Sendable>: ChannelInboundHandler {
        typealias InboundIn = AddressedEnvelope<ByteBuffer>

        private let promise: EventLoopPromise<Answer>
        private let parse: @Sendable (ByteBuffer, SocketAddress) -> Answer?

        init(promise: EventLoopPromise<Answer>, parse: @escaping @Sendable (ByteBuffer, SocketAddress) -> Answer?) {
            self.promise = promise
            self.parse = parse
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let datagram = self.unwrapInboundIn(data)
            if let answer = self.parse(datagram.data, datagram.remoteAddress) { self.promise.succeed(answer) }
        }

        /// Such as a port that is closed.
        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            self.promise.fail(error)
        }
    }
}
