import NIOCore
import NIOPosix
import PeerIdentity
import Testing

@testable import LibP2PSecurity

/// What needs a real transport: half-closes, kernel buffers, and reading on demand.
@Suite struct SecuritySocketTests {
    /// Collects until the other side has finished, then calls back once.
    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private var bytes: [UInt8] = []
        private let readsOnDemand: Bool
        private var atEnd: (([UInt8], ChannelHandlerContext) -> Void)?
        private let done: EventLoopPromise<[UInt8]>

        init(
            readsOnDemand: Bool = false,
            done: EventLoopPromise<[UInt8]>,
            atEnd: (([UInt8], ChannelHandlerContext) -> Void)? = nil
        ) {
            self.readsOnDemand = readsOnDemand
            self.done = done
            self.atEnd = atEnd
        }

        func handlerAdded(context: ChannelHandlerContext) {
            guard self.readsOnDemand else { return }
            try? context.channel.syncOptions?.setOption(.autoRead, value: false)
            context.read()
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.bytes += self.unwrapInboundIn(data).readableBytesView
            if self.readsOnDemand { context.read() }
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case .some(.inputClosed) = event as? ChannelEvent { self.end(context) }
        }

        func channelInactive(context: ChannelHandlerContext) { self.end(context) }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.done.fail(error) }

        private func end(_ context: ChannelHandlerContext) {
            let atEnd = self.atEnd
            self.atEnd = nil
            atEnd?(self.bytes, context)
            self.done.succeed(self.bytes)
        }
    }

    private static let request = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    private static let answer = (0..<2_000_000).map { UInt8(truncatingIfNeeded: $0 &* 13) }

    /// A side that has said all can still be answered: the request's end arrives as an end of input, the answer whole.
    @Test(.timeLimit(.minutes(1)), arguments: SecurityKind.allCases, [false, true])
    func halfClose(_ kind: SecurityKind, readsOnDemand: Bool) async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loop = group.next()
        let server = try kind.make(KeyPair.generate())
        let client = try kind.make(KeyPair.generate())
        let atServer = loop.makePromise(of: [UInt8].self)
        let atClient = loop.makePromise(of: [UInt8].self)

        let listener = try await ServerBootstrap(group: group)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            // Added before the channel is active, as a listener does.
            .childChannelInitializer { channel in
                server.secure(channel, role: .responder, expectedPeer: nil, muxers: [], received: nil)
                    .assumeIsolated().whenComplete { result in
                        do {
                            _ = try result.get()
                            let collector = Collector(readsOnDemand: readsOnDemand, done: atServer) { _, context in
                                context.writeAndFlush(NIOAny(ByteBuffer(bytes: Self.answer))).assumeIsolated()
                                    .whenComplete { _ in context.close(promise: nil) }
                            }
                            try channel.pipeline.syncOperations.addHandler(collector)
                        } catch {
                            atServer.fail(error)
                        }
                    }
                return channel.eventLoop.makeSucceededVoidFuture()
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(listener.localAddress)
        _ = try await ClientBootstrap(group: group)
            .channelOption(.allowRemoteHalfClosure, value: true)
            // Before the first byte can be read: the fake's server speaks at once.
            .channelInitializer { connection in
                client.secure(connection, role: .initiator, expectedPeer: nil, muxers: [], received: nil)
                    .assumeIsolated().whenComplete { result in
                        do {
                            _ = try result.get()
                            try connection.pipeline.syncOperations.addHandler(Collector(done: atClient))
                            connection.write(ByteBuffer(bytes: Self.request[..<10]), promise: nil)
                            connection.writeAndFlush(ByteBuffer(bytes: Self.request[10...]), promise: nil)
                            connection.close(mode: .output, promise: nil)
                        } catch {
                            atClient.fail(error)
                        }
                    }
                return connection.eventLoop.makeSucceededVoidFuture()
            }
            .connect(to: address).get()
        #expect(try await atServer.futureResult.get() == Self.request)
        #expect(try await atClient.futureResult.get() == Self.answer)
        try await listener.close().get()
        try await group.shutdownGracefully()
    }
}
