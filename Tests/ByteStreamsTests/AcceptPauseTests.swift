import Glibc
import NIOCore
import NIOEmbedded
import Testing

@testable import ByteStreams

@Suite struct AcceptPauseTests {
    /// Counts the reads that reach the socket.
    private final class Reads: ChannelOutboundHandler {
        typealias OutboundIn = Never
        var count = 0
        func read(context: ChannelHandlerContext) { self.count += 1 }
    }

    private final class Errors: ChannelInboundHandler {
        typealias InboundIn = any Channel
        var count = 0
        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.count += 1 }
    }

    private func failure(_ code: CInt) -> IOError { IOError(errnoCode: code, reason: "accept") }

    @Test(
        "a shortage stops accepting for a while, is told, and goes by itself",
        arguments: [EMFILE, ENFILE, ENOBUFS, ENOMEM]
    )
    func pauses(_ code: CInt) throws {
        let (reads, errors) = (Reads(), Errors())
        var told: [Bool] = []
        let pause = AcceptPause { error, isFirst in
            #expect(error.errnoCode == code)
            told.append(isFirst)
        }
        let channel = EmbeddedChannel()
        try channel.pipeline.syncOperations.addHandlers([reads, pause, errors])
        func fail() {
            channel.pipeline.fireErrorCaught(self.failure(code))
            // As a socket does that reads by itself.
            channel.pipeline.read()
        }
        channel.pipeline.read()
        #expect(reads.count == 1)
        fail()
        fail()
        #expect(reads.count == 1 && told == [true] && errors.count == 0)
        channel.embeddedEventLoop.advanceTime(by: AcceptPause.duration - .nanoseconds(1))
        #expect(reads.count == 1)
        channel.embeddedEventLoop.advanceTime(by: .nanoseconds(1))
        #expect(reads.count == 2)
        // Still short.
        fail()
        #expect(told == [true, false])
        channel.embeddedEventLoop.advanceTime(by: AcceptPause.duration)
        #expect(reads.count == 3)
        // It has accepted again: the next shortage is news.
        channel.pipeline.fireChannelRead(EmbeddedChannel() as any Channel)
        fail()
        #expect(told == [true, false, true])
        _ = try channel.finish()
    }

    @Test func otherErrorsGoOn() throws {
        let (reads, errors) = (Reads(), Errors())
        let channel = EmbeddedChannel()
        let pause = AcceptPause { _, _ in Issue.record("nothing is short") }
        try channel.pipeline.syncOperations.addHandlers([reads, pause, errors])
        channel.pipeline.fireErrorCaught(self.failure(ECONNABORTED))
        channel.pipeline.read()
        #expect(reads.count == 1 && errors.count == 1)
        _ = try channel.finish()
    }
}
