import Glibc
import MeshTesting
import NIOCore
import NIOEmbedded
import NIOPosix
import Synchronization
import Testing

@testable import ByteStreams

/// On a socket of its own: what NIO does after an error is what counts.
@Suite(.timeLimit(.minutes(2))) struct AcceptPauseTests {
    private final class Listener: Sendable {
        let channel: any Channel
        private let state: State

        final class State: Sendable {
            let told = Mutex<[Bool]>([])
            let acceptedAt = Mutex<[NIODeadline]>([])
        }

        var told: [Bool] { self.state.told.withLock { $0 } }
        var acceptedAt: [NIODeadline] { self.state.acceptedAt.withLock { $0 } }

        init() async throws {
            let state = State()
            self.state = state
            self.channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .serverChannelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let pause = AcceptPause { _, isFirst in state.told.withLock { $0.append(isFirst) } }
                        try channel.pipeline.syncOperations.addHandler(pause)
                    }
                }
                .childChannelInitializer { channel in
                    state.acceptedAt.withLock { $0.append(.now()) }
                    return channel.eventLoop.makeSucceededVoidFuture()
                }
                .bind(host: "127.0.0.1", port: 0).get()
        }

        /// As when accept(2) fails, `times` in one go of the loop.
        /// - Returns: a time before that.
        func fail(_ code: CInt, times: Int = 1) async throws -> NIODeadline {
            try await self.channel.eventLoop.submit {
                let before = NIODeadline.now()
                for _ in 0..<times {
                    self.channel.pipeline.syncOperations.fireErrorCaught(IOError(errnoCode: code, reason: "accept"))
                }
                return before
            }.get()
        }

        func connect() async throws {
            let client = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(to: try #require(self.channel.localAddress)).get()
            try await client.close()
        }

        var isAccepting: Bool {
            get async throws { try await self.channel.getOption(.autoRead).get() }
        }
    }

    @Test(
        "a shortage stops accepting for a while, is told, and goes by itself",
        arguments: [EMFILE, ENFILE, ENOBUFS, ENOMEM]
    )
    func pauses(_ code: CInt) async throws {
        let listener = try await Listener()
        let failed = try await listener.fail(code, times: 2)
        #expect(listener.told == [true])
        // The kernel takes it; the listener does after its rest, however late that is.
        try await listener.connect()
        try await eventually("it accepts again") { listener.acceptedAt.count == 1 }
        #expect(listener.acceptedAt[0] >= failed + AcceptPause.duration)

        // It has accepted: the next shortage is news. One after that is not.
        _ = try await listener.fail(code)
        try await eventually("its rest is over") { try await listener.isAccepting }
        _ = try await listener.fail(code)
        #expect(listener.told == [true, true, false])
        try await listener.channel.close()
    }

    @Test func otherErrorsGoOn() throws {
        final class Errors: ChannelInboundHandler {
            typealias InboundIn = any Channel
            var count = 0
            func errorCaught(context: ChannelHandlerContext, error: any Error) { self.count += 1 }
        }
        let errors = Errors()
        let channel = EmbeddedChannel()
        let pause = AcceptPause { _, _ in Issue.record("nothing is short") }
        try channel.pipeline.syncOperations.addHandlers([pause, errors])
        channel.pipeline.fireErrorCaught(IOError(errnoCode: ECONNABORTED, reason: "accept"))
        #expect(errors.count == 1)
        _ = try channel.finish()
    }
}
