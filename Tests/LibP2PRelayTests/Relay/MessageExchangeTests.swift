import Multiformats
import NIOCore
import NIOEmbedded
import Testing

@testable import LibP2PRelay

@Suite struct MessageExchangeTests {
    private final class Outcome {
        var results: [Result<ByteBuffer, LibP2PRelayError>] = []
        var message: String? { self.results.first.flatMap { try? $0.get() }.map { String(buffer: $0) } }
        var error: LibP2PRelayError.Code? {
            guard case .failure(let error)? = self.results.first else { return nil }
            return error.code
        }
    }

    private func begin(_ timeout: TimeAmount = .seconds(10)) throws -> (EmbeddedChannel, MessageExchange, Outcome) {
        let channel = EmbeddedChannel()
        try channel.connect(to: .init(ipAddress: "127.0.0.1", port: 1)).wait()
        let exchange = try MessageExchange.begin(on: channel)
        let outcome = Outcome()
        exchange.read(within: timeout) { outcome.results.append($0) }
        return (channel, exchange, outcome)
    }

    private func framed(_ text: String) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeVarintPrefixed(ByteBuffer(string: text))
        return buffer
    }

    @Test func whatFollowsTheMessageIsKept() throws {
        let (channel, exchange, outcome) = try self.begin()
        var bytes = self.framed("hello")
        bytes.writeString("payload")
        try channel.writeInbound(bytes)
        #expect(outcome.message == "hello")
        #expect(String(buffer: try exchange.leave()) == "payload")
        // From now on the bytes are others'.
        try channel.writeInbound(ByteBuffer(string: "more"))
        #expect(try channel.readInbound(as: ByteBuffer.self) == ByteBuffer(string: "more"))
    }

    @Test func messagesComeInAnyPieces() throws {
        let text = String(repeating: "x", count: 300)
        let bytes = self.framed(text)
        for size in 1...7 {
            let (channel, _, outcome) = try self.begin()
            var rest = bytes
            while let piece = rest.readSlice(length: min(size, rest.readableBytes)), piece.readableBytes > 0 {
                #expect(outcome.results.isEmpty)
                try channel.writeInbound(piece)
            }
            #expect(outcome.message == text)
        }
    }

    @Test func theWholeOfOneReadBelongsToIt() throws {
        let (channel, exchange, outcome) = try self.begin()
        channel.pipeline.fireChannelRead(self.framed("hello"))
        channel.pipeline.fireChannelRead(ByteBuffer(string: "1"))
        #expect(outcome.results.isEmpty)
        channel.pipeline.fireChannelRead(ByteBuffer(string: "2"))
        channel.pipeline.fireChannelReadComplete()
        #expect(outcome.message == "hello")
        #expect(String(buffer: try exchange.leave()) == "12")
    }

    @Test func messagesAreBounded() throws {
        let (channel, exchange, outcome) = try self.begin()
        var bytes = ByteBuffer()
        bytes.writeUnsignedVarint(UInt64(CircuitProtocol.maximumMessageLength + 1))
        try channel.writeInbound(bytes)
        #expect(outcome.error == .malformed)
        #expect(throws: LibP2PRelayError.self) { try exchange.leave() }
    }

    @Test func aSilentPeerIsNotWaitedForLong() throws {
        let (channel, _, outcome) = try self.begin(.seconds(10))
        channel.embeddedEventLoop.advanceTime(by: .seconds(9))
        #expect(outcome.results.isEmpty)
        channel.embeddedEventLoop.advanceTime(by: .seconds(1))
        #expect(outcome.error == .timedOut)
    }

    @Test func theEndOfTheStreamIsTold() throws {
        let (channel, _, outcome) = try self.begin()
        channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(outcome.error == .connectionFailed)
        let (other, _, closed) = try self.begin()
        _ = try other.finish()
        #expect(closed.error == .connectionFailed)
        #expect(closed.results.count == 1)
    }

    @Test func anEndBeforeTheHandoverIsNotLost() throws {
        let (channel, exchange, outcome) = try self.begin()
        try channel.writeInbound(self.framed("hello"))
        #expect(outcome.message == "hello")
        channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(throws: LibP2PRelayError.self) { try exchange.leave() }
        #expect(outcome.results.count == 1)
    }

    /// A peer that sends its last messages with the end of the stream has sent them.
    @Test func messagesBeforeTheEndAreRead() throws {
        let (channel, exchange, outcome) = try self.begin()
        var bytes = self.framed("one")
        bytes.writeImmutableBuffer(self.framed("two"))
        channel.pipeline.fireChannelRead(bytes)
        channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        channel.pipeline.fireChannelReadComplete()
        #expect(outcome.message == "one")
        exchange.read(within: .seconds(10)) { outcome.results.append($0) }
        exchange.read(within: .seconds(10)) { outcome.results.append($0) }
        #expect(outcome.results.count == 3)
        #expect((try? outcome.results[1].get()).map { String(buffer: $0) } == "two")
        #expect(throws: LibP2PRelayError.self) { try outcome.results[2].get() }
    }

    @Test func messagesAreFramed() throws {
        let (channel, exchange, _) = try self.begin()
        exchange.write(ByteBuffer(string: "abc"))
        #expect(try channel.readOutbound(as: ByteBuffer.self) == ByteBuffer(bytes: [3, 0x61, 0x62, 0x63]))
    }
}
