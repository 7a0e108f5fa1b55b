import NIOCore
import NIOEmbedded
import Testing

@testable import LibP2P

/// The handler that agrees on a stream's protocol, on a channel without a network.
@Suite struct StreamNegotiatorTests {
    final class Recorder: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        var events: [String] = []

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.events.append(String(buffer: self.unwrapInboundIn(data)))
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case .inputClosed? = event as? ChannelEvent { self.events.append("end") }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            self.events.append("error \((error as? LibP2PError).map { "\($0.code)" } ?? "other")")
        }

        func channelInactive(context: ChannelHandlerContext) {
            self.events.append("inactive")
        }
    }

    struct Bench {
        let channel: EmbeddedChannel
        let recorder: Recorder
        let agreed: EventLoopFuture<String>

        init(_ role: MultistreamStateMachine.Role, isLazy: Bool = false) throws {
            self.channel = EmbeddedChannel()
            self.recorder = Recorder()
            try self.channel.syncOptions?.setOption(.autoRead, value: false)
            try self.channel.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
            let agreed = self.channel.eventLoop.makePromise(of: String.self)
            self.agreed = agreed.futureResult
            try self.channel.pipeline.syncOperations.addHandler(
                StreamNegotiator(role: role, isLazy: isLazy, timeout: .seconds(30), agreed: agreed)
            )
            try self.channel.pipeline.syncOperations.addHandler(self.recorder)
            try self.channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        }

        func output() throws -> ByteBuffer? { try self.channel.readOutbound(as: ByteBuffer.self) }

        var hasNegotiator: Bool {
            (try? self.channel.pipeline.syncOperations.handler(type: StreamNegotiator.self)) != nil
        }
    }

    static var responder: MultistreamStateMachine.Role { .responder(supports: { $0 == "/a" }, list: { ["/a"] }) }

    @Test func aLazyProposalTravelsWithTheFirstBytes() throws {
        let bench = try Bench(.initiator(["/a"]), isLazy: true)
        #expect(try bench.output() == nil)
        bench.channel.writeAndFlush(ByteBuffer(string: "hello"), promise: nil)
        var expected = MultistreamTests.wire(MultistreamTests.header, "/a")
        expected.writeString("hello")
        #expect(try bench.output() == expected)
        bench.channel.embeddedEventLoop.run()
        #expect(try bench.output() == nil)
        _ = try bench.channel.finish()
    }

    @Test func aLazyProposalDoesNotWaitForBytes() throws {
        let bench = try Bench(.initiator(["/a"]), isLazy: true)
        bench.channel.embeddedEventLoop.run()
        #expect(try bench.output() == MultistreamTests.wire(MultistreamTests.header, "/a"))
        _ = try bench.channel.finish()
    }

    @Test func aLargeFirstWriteIsNotCopied() throws {
        let bench = try Bench(.initiator(["/a"]), isLazy: true)
        let bytes = ByteBuffer(repeating: 7, count: 100_000)
        bench.channel.writeAndFlush(bytes, promise: nil)
        #expect(try bench.output() == MultistreamTests.wire(MultistreamTests.header, "/a"))
        #expect(try bench.output() == bytes)
        _ = try bench.channel.finish()
    }

    @Test func whatCameIsHeldUntilItIsRead() throws {
        let bench = try Bench(.initiator(["/a"]))
        var input = MultistreamTests.wire(MultistreamTests.header, "/a")
        input.writeString("early")
        try bench.channel.writeInbound(input)
        #expect(try bench.agreed.wait() == "/a")
        try bench.channel.writeInbound(ByteBuffer(string: " bytes"))
        bench.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(bench.recorder.events.isEmpty)
        bench.channel.read()
        #expect(bench.recorder.events == ["early bytes", "end"])
        bench.channel.embeddedEventLoop.run()
        #expect(!bench.hasNegotiator)
        _ = try bench.channel.finish()
    }

    @Test func aReadThatWasAskedForBeforeIsAnsweredAtOnce() throws {
        let bench = try Bench(.initiator(["/a"]), isLazy: true)
        bench.channel.read()
        var input = MultistreamTests.wire(MultistreamTests.header, "/a")
        input.writeString("answer")
        try bench.channel.writeInbound(input)
        #expect(bench.recorder.events == ["answer"])
        try bench.channel.writeInbound(ByteBuffer(string: "more"))
        #expect(bench.recorder.events == ["answer", "more"])
        _ = try bench.channel.finish()
    }

    @Test func aRefusalOfALazyProposalIsAnErrorInThePipeline() throws {
        let bench = try Bench(.initiator(["/a"]), isLazy: true)
        try bench.channel.writeInbound(MultistreamTests.wire(MultistreamTests.header, "na"))
        #expect(bench.recorder.events.first == "error protocolNotSupported")
        bench.channel.embeddedEventLoop.run()
        #expect(!bench.channel.isActive)
    }

    @Test func theResponderHandsOverWithItsAnswer() throws {
        let bench = try Bench(Self.responder)
        bench.agreed.assumeIsolated().whenSuccess { _ in
            bench.channel.write(ByteBuffer(string: "greeting"), promise: nil)
            bench.channel.read()
        }
        var input = MultistreamTests.wire(MultistreamTests.header, "/a")
        input.writeString("request")
        try bench.channel.writeInbound(input)
        #expect(try bench.output() == MultistreamTests.wire(MultistreamTests.header, "/a"))
        #expect(try bench.output() == ByteBuffer(string: "greeting"))
        #expect(bench.recorder.events == ["request"])
        _ = try bench.channel.finish()
    }

    /// A peer that waits for the answer before it says more would wait forever.
    @Test func theAnswerLeavesWhenTheHandlerReadsAtOnceAndWritesNothing() throws {
        let bench = try Bench(Self.responder)
        let channel = bench.channel
        bench.agreed.assumeIsolated().whenSuccess { _ in channel.read() }
        try channel.writeInbound(MultistreamTests.wire(MultistreamTests.header, "/a"))
        var answer = ByteBuffer()
        while var part = try bench.output() { answer.writeBuffer(&part) }
        #expect(answer == MultistreamTests.wire(MultistreamTests.header, "/a"))
        _ = try channel.finish()
    }

    @Test func silenceEndsTheNegotiation() throws {
        let bench = try Bench(Self.responder)
        bench.channel.embeddedEventLoop.advanceTime(by: .seconds(29))
        #expect(bench.channel.isActive)
        bench.channel.embeddedEventLoop.advanceTime(by: .seconds(1))
        #expect(!bench.channel.isActive)
        let error = #expect(throws: LibP2PError.self) { try bench.agreed.wait() }
        #expect(error?.code == .timedOut)
    }

    @Test func theEndBeforeAnAgreementIsAFailure() throws {
        let bench = try Bench(Self.responder)
        try bench.channel.writeInbound(MultistreamTests.wire(MultistreamTests.header))
        bench.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(throws: LibP2PError.self) { try bench.agreed.wait() }
        bench.channel.embeddedEventLoop.run()
        #expect(!bench.channel.isActive)
    }

    @Test func theEndOfOutputComesBehindTheProposal() throws {
        let bench = try Bench(.initiator(["/a"]), isLazy: true)
        bench.channel.close(mode: .output, promise: nil)
        #expect(try bench.output() == MultistreamTests.wire(MultistreamTests.header, "/a"))
        _ = try? bench.channel.finish()
    }
}
