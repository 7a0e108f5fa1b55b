import ByteStreams
import MeshCore
import NIOCore
import NIOEmbedded
import Testing

/// An embedded channel that half-closes and runs out of write buffer as a socket does.
private final class Wire: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    var reads = 0
    var outputEnds = 0
    var failsHalfClosure = false
    /// The peer takes nothing: what is written stays in the channel.
    var isStalled = false
    private var pendingEnd: EventLoopPromise<Void>?

    func flush(context: ChannelHandlerContext) {
        if !self.isStalled { context.flush() }
    }

    /// The peer takes what was written, not yet the end.
    func take(_ channel: EmbeddedChannel) {
        self.isStalled = false
        channel.pipeline.flush()
        self.isStalled = true
    }

    func takeEnd() {
        self.pendingEnd?.succeed(())
        self.pendingEnd = nil
    }

    func read(context: ChannelHandlerContext) {
        self.reads += 1
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard mode == .output else { return context.close(mode: mode, promise: promise) }
        guard !self.failsHalfClosure else {
            promise?.fail(ChannelError.operationUnsupported)
            return
        }
        self.outputEnds += 1
        guard !self.isStalled else {
            self.pendingEnd = promise
            return
        }
        promise?.succeed(())
        context.fireUserInboundEventTriggered(ChannelEvent.outputClosed)
    }
}

/// Two glued embedded channels on one loop.
private struct Pair {
    let client: EmbeddedChannel
    let server: EmbeddedChannel
    let clientWire = Wire()
    let serverWire = Wire()
    let counters = GlueCounters()
    let loop = EmbeddedEventLoop()

    init(
        received: ByteBuffer? = nil,
        inputEnded: Bool = false,
        idleTimeout: TimeAmount? = nil,
        lingerTimeout: TimeAmount? = nil,
        serverFailsHalfClosure: Bool = false
    ) throws {
        self.client = EmbeddedChannel(handler: nil, loop: self.loop)
        self.server = EmbeddedChannel(handler: nil, loop: self.loop)
        self.serverWire.failsHalfClosure = serverFailsHalfClosure
        let pair = GlueHandler.matchedPair(
            counters: self.counters,
            idleTimeout: idleTimeout,
            lingerTimeout: lingerTimeout
        )
        for (channel, wire, glue) in [
            (self.client, self.clientWire, pair.client), (self.server, self.serverWire, pair.server),
        ] {
            channel.allowRemoteHalfClosure = true
            try channel.pipeline.syncOperations.addHandlers([wire, glue])
            channel.connect(to: try SocketAddress(ipAddress: "127.0.0.1", port: 1), promise: nil)
        }
        pair.client.start(received: received, inputEnded: inputEnded)
    }

    func read(_ channel: EmbeddedChannel, _ text: String) throws {
        try channel.writeInbound(ByteBuffer(string: text))
    }

    func written(_ channel: EmbeddedChannel) throws -> String {
        var text = ""
        while let bytes = try channel.readOutbound(as: ByteBuffer.self) { text += String(buffer: bytes) }
        return text
    }

    func endInput(_ channel: EmbeddedChannel) {
        channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
    }
}

@Suite("Glue")
struct GlueHandlerTests {
    @Test("bytes go both ways and are counted")
    func bytes() throws {
        let pair = try Pair()
        try pair.read(pair.client, "request")
        try pair.read(pair.server, "an answer")
        #expect(try pair.written(pair.server) == "request")
        #expect(try pair.written(pair.client) == "an answer")
        #expect(pair.counters.clientToServerBytes == 7)
        #expect(pair.counters.serverToClientBytes == 9)
    }

    @Test("both sides are read at the start, and once more after each read")
    func reads() throws {
        let pair = try Pair()
        #expect(pair.clientWire.reads == 1)
        #expect(pair.serverWire.reads == 1)
        try pair.read(pair.client, "x")
        #expect(pair.clientWire.reads == 2)
        #expect(pair.serverWire.reads == 1)
    }

    @Test("what came before the start is sent first, and an early end of input is not lost")
    func early() throws {
        let pair = try Pair(received: ByteBuffer(string: "head "), inputEnded: true)
        #expect(try pair.written(pair.server) == "head ")
        #expect(pair.serverWire.outputEnds == 1)
        #expect(pair.clientWire.reads == 0)
        try pair.read(pair.server, "answer")
        #expect(try pair.written(pair.client) == "answer")
    }

    @Test("a stalled reader stops the reading of the other side until its buffer has room", arguments: [true, false])
    func stalled(clientStalls: Bool) throws {
        let pair = try Pair()
        let (reader, source, wire) =
            clientStalls ? (pair.client, pair.server, pair.serverWire) : (pair.server, pair.client, pair.clientWire)
        reader.isWritable = false
        reader.pipeline.fireChannelWritabilityChanged()
        let before = wire.reads
        // A read that was already under way still arrives; after it nothing more is asked for.
        try pair.read(source, "late")
        for _ in 0..<10 { source.pipeline.fireChannelReadComplete() }
        #expect(wire.reads == before)
        reader.isWritable = true
        reader.pipeline.fireChannelWritabilityChanged()
        #expect(wire.reads == before + 1)
        reader.pipeline.fireChannelWritabilityChanged()
        #expect(wire.reads == before + 1, "no second read is asked for while one is pending")
    }

    @Test("the end of one direction leaves the other open, whichever side ends first", arguments: [true, false])
    func halfClose(clientFirst: Bool) throws {
        let pair = try Pair()
        let (first, second) = clientFirst ? (pair.client, pair.server) : (pair.server, pair.client)
        let (firstWire, secondWire) =
            clientFirst ? (pair.clientWire, pair.serverWire) : (pair.serverWire, pair.clientWire)
        pair.endInput(first)
        #expect(secondWire.outputEnds == 1)
        #expect(firstWire.outputEnds == 0)
        #expect(first.isActive && second.isActive)
        try pair.read(second, "still here")
        #expect(try pair.written(first) == "still here")
        pair.endInput(second)
        pair.loop.run()
        #expect(!first.isActive && !second.isActive)
    }

    @Test("a channel that cannot end one direction is closed whole")
    func noHalfClose() throws {
        let pair = try Pair(serverFailsHalfClosure: true)
        pair.endInput(pair.client)
        pair.loop.run()
        #expect(!pair.server.isActive)
        #expect(!pair.client.isActive)
    }

    @Test("pending bytes are written before a close that follows from the other side's")
    func pendingBytes() throws {
        let pair = try Pair()
        pair.server.pipeline.fireChannelRead(ByteBuffer(string: "last words"))
        pair.server.close(promise: nil)
        pair.loop.run()
        #expect(try pair.written(pair.client) == "last words")
        #expect(!pair.client.isActive)
    }

    enum Moment: CaseIterable {
        case open
        case clientEnded
        case serverEnded
        case clientStalled
    }

    @Test("an error on either side ends both at once, in every state", arguments: Moment.allCases, [true, false])
    func errors(moment: Moment, onClient: Bool) throws {
        let pair = try Pair()
        switch moment {
        case .open: break
        case .clientEnded: pair.endInput(pair.client)
        case .serverEnded: pair.endInput(pair.server)
        case .clientStalled: pair.client.isWritable = false
        }
        let side = onClient ? pair.client : pair.server
        side.pipeline.fireErrorCaught(IOError(errnoCode: 104, reason: "read"))
        pair.loop.run()
        #expect(!pair.client.isActive && !pair.server.isActive)
    }

    @Test("a flush that closes the other side while a read is being passed on is survived")
    func reentrancy() throws {
        let pair = try Pair()
        final class CloseOnFlush: ChannelOutboundHandler {
            typealias OutboundIn = ByteBuffer
            func flush(context: ChannelHandlerContext) {
                context.close(promise: nil)
            }
        }
        try pair.server.pipeline.syncOperations.addHandler(CloseOnFlush(), position: .first)
        try pair.read(pair.client, "x")
        try? pair.read(pair.client, "y")
        pair.loop.run()
        #expect(!pair.client.isActive && !pair.server.isActive)
    }

    @Test("a silent pair is closed after the idle timeout, one with traffic is not")
    func idle() throws {
        let pair = try Pair(idleTimeout: .seconds(10))
        pair.loop.advanceTime(by: .seconds(9))
        try pair.read(pair.client, "x")
        pair.loop.advanceTime(by: .seconds(9))
        #expect(pair.client.isActive)
        pair.loop.advanceTime(by: .seconds(2))
        #expect(!pair.client.isActive && !pair.server.isActive)
    }

    @Test(
        "what is left for a side when the other has ended: the side is reset once it takes nothing for the linger timeout"
    )
    func linger() throws {
        let pair = try Pair(lingerTimeout: .seconds(10))
        pair.clientWire.isStalled = true
        try pair.read(pair.server, "left")
        pair.loop.advanceTime(by: .seconds(60))
        #expect(pair.client.isActive, "as long as the other side is open there is no deadline")
        pair.endInput(pair.server)
        pair.loop.advanceTime(by: .seconds(9))
        pair.clientWire.take(pair.client)
        pair.loop.advanceTime(by: .seconds(9))
        #expect(pair.client.isActive, "it took some")
        #expect(pair.counters.lingered == 0)
        pair.loop.advanceTime(by: .seconds(2))
        #expect(!pair.client.isActive && !pair.server.isActive)
        #expect(pair.counters.lingered == 1)
    }

    @Test("a side that has taken all in time is not reset, and may go on sending")
    func noLinger() throws {
        let pair = try Pair(lingerTimeout: .seconds(10))
        pair.clientWire.isStalled = true
        try pair.read(pair.server, "left")
        pair.endInput(pair.server)
        pair.clientWire.take(pair.client)
        pair.clientWire.takeEnd()
        pair.loop.advanceTime(by: .seconds(60))
        try pair.read(pair.client, "still here")
        #expect(try pair.written(pair.server) == "still here")
        #expect(pair.counters.lingered == 0)
        #expect(pair.client.isActive && pair.server.isActive)
    }

    @Test("nothing keeps the halves of an ended pair")
    func noCycle() throws {
        weak var client: GlueHandler?
        weak var server: GlueHandler?
        do {
            let loop = EmbeddedEventLoop()
            let halves = GlueHandler.matchedPair(counters: GlueCounters(), idleTimeout: .seconds(1))
            client = halves.client
            server = halves.server
            let first = EmbeddedChannel(handlers: [halves.client], loop: loop)
            let second = EmbeddedChannel(handlers: [halves.server], loop: loop)
            halves.client.start()
            _ = try first.finish(acceptAlreadyClosed: true)
            _ = try second.finish(acceptAlreadyClosed: true)
            loop.run()
        }
        #expect(client == nil)
        #expect(server == nil)
    }

    @Test("any order of events leaves both sides open or both closed, and never reads an ended side", arguments: 0..<20)
    func anyOrder(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<50 {
            let pair = try Pair()
            var sent: [String] = ["", ""]
            var received: [String] = ["", ""]
            let channels = [pair.client, pair.server]
            var ended = [false, false]
            for step in 0..<12 where channels.allSatisfy({ $0.isActive }) {
                let side = Int.random(in: 0...1, using: &generator)
                switch Int.random(in: 0..<5, using: &generator) {
                case 0 where !ended[side], 1 where !ended[side]:
                    try pair.read(channels[side], "\(step),")
                    sent[side] += "\(step),"
                case 2 where !ended[side]:
                    ended[side] = true
                    pair.endInput(channels[side])
                case 3:
                    channels[side].isWritable.toggle()
                    channels[side].pipeline.fireChannelWritabilityChanged()
                default:
                    break
                }
                for index in 0...1 {
                    received[1 - index] += try pair.written(channels[index])
                }
            }
            pair.loop.run()
            for index in 0...1 { received[1 - index] += try pair.written(channels[index]) }
            #expect(received == sent, "seed \(seed)")
            #expect(pair.client.isActive == pair.server.isActive, "seed \(seed)")
            #expect(pair.client.isActive == !(ended[0] && ended[1]), "seed \(seed)")
        }
    }
}

@Suite("Receive buffers")
struct GlueReceiveAllocatorTests {
    @Test("the first buffer is small, full reads grow it, short ones shrink it, within the bounds")
    func sizes() {
        var allocator = GlueReceiveAllocator()
        let allocate = ByteBufferAllocator()
        #expect(allocator.buffer(allocator: allocate).capacity == GlueReceiveAllocator.initial)
        for _ in 0..<6 { _ = allocator.record(actualReadBytes: allocator.buffer(allocator: allocate).capacity) }
        #expect(allocator.buffer(allocator: allocate).capacity == GlueReceiveAllocator.maximum)
        for _ in 0..<40 { _ = allocator.record(actualReadBytes: 10) }
        #expect(allocator.buffer(allocator: allocate).capacity == GlueReceiveAllocator.minimum)
    }

    @Test("NIO keeps no large buffer of an idle channel")
    func pooled() {
        var pool = NIOPooledRecvBufferAllocator(capacity: 1, recvAllocator: GlueReceiveAllocator())
        for _ in 0..<20 {
            var kept: ByteBuffer?
            let (buffer, _) = pool.buffer(allocator: ByteBufferAllocator()) { buffer in
                buffer.writeRepeatingByte(1, count: buffer.writableBytes)
            }
            kept = buffer
            pool.record(actualReadBytes: kept?.readableBytes ?? 0)
        }
        // The pool hands its own buffer to the next read only if it kept it: here each read gets a fresh, large one.
        let (last, _) = pool.buffer(allocator: ByteBufferAllocator()) { $0.writableBytes }
        #expect(last.capacity == GlueReceiveAllocator.maximum)
        #expect(pool.count == 1)
    }
}
