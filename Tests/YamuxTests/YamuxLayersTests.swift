import ByteStreams
import LibP2PSecurity
import NIOCore
import NIOEmbedded
import NIOHTTP1
import PeerIdentity
import Testing

@testable import Yamux

/// What is made for sockets works on streams.
@Suite struct YamuxLayersTests {
    // MARK: HTTP

    /// Answers a request with its own body.
    private final class HTTPEcho: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch self.unwrapInboundIn(data) {
            case .head(let request):
                let head = HTTPResponseHead(version: request.version, status: .ok, headers: ["uri": request.uri])
                context.write(self.wrapOutboundOut(.head(head)), promise: nil)
            case .body(let bytes): context.write(self.wrapOutboundOut(.body(.byteBuffer(bytes))), promise: nil)
            case .end: context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
            }
        }
    }

    private final class HTTPCollector: ChannelInboundHandler {
        typealias InboundIn = HTTPClientResponsePart

        var uris: [String] = []
        var body = ByteBuffer()
        var ends = 0

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch self.unwrapInboundIn(data) {
            case .head(let head): self.uris += head.headers["uri"]
            case .body(let bytes): self.body.writeImmutableBuffer(bytes)
            case .end: self.ends += 1
            }
        }
    }

    /// The bodies are larger than a window, so that the streams wait for each other.
    @Test func requestsAndAnswersOfHTTP() throws {
        let pair = try Pair(inboundStream: { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                try channel.pipeline.syncOperations.addHandler(HTTPEcho())
            }
        })
        let collector = HTTPCollector()
        let channel = try pair.client.handler.openStream { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHTTPClientHandlers()
                try channel.pipeline.syncOperations.addHandler(collector)
            }
        }.wait()
        let body = ByteBuffer(repeating: 7, count: 300_000)
        for round in 1...2 {
            let head = HTTPRequestHead(
                version: .http1_1,
                method: .POST,
                uri: "/\(round)",
                headers: ["host": "test", "content-length": "\(body.readableBytes)"]
            )
            channel.write(HTTPClientRequestPart.head(head), promise: nil)
            channel.write(HTTPClientRequestPart.body(.byteBuffer(body)), promise: nil)
            channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
            try pair.settle()
            #expect(collector.ends == round)
            #expect(collector.body.readableBytes == round * body.readableBytes)
        }
        #expect(collector.uris == ["/1", "/2"])
        channel.close(promise: nil)
        try pair.settle()
        #expect(pair.client.isEmpty && pair.server.isEmpty)
        try pair.finish()
    }

    // MARK: TLS

    /// A handshake, bytes both ways and TLS's own end, which is no half-closure of the stream.
    @Test func tlsWithinAStream() throws {
        let (client, server) = (KeyPair.generate(), KeyPair.generate())
        let recorders = [StreamRecorder(), StreamRecorder()]
        func secure(_ channel: any Channel, _ role: ConnectionRole, _ identity: KeyPair) throws {
            let recorder = role == .initiator ? recorders[0] : recorders[1]
            try TLSSecurity(identity: identity)
                .secure(channel, role: role, expectedPeer: nil, muxers: [], received: nil)
                .assumeIsolated().whenSuccess { peer in
                    #expect(peer.remoteKey == (role == .initiator ? server : client).publicKey)
                    #expect(throws: Never.self) { try channel.pipeline.syncOperations.addHandler(recorder) }
                }
        }
        let pair = try Pair(inboundStream: { channel in
            channel.eventLoop.makeCompletedFuture { try secure(channel, .responder, server) }
        })
        _ = try pair.client.handler.openStream { channel in
            channel.eventLoop.makeCompletedFuture { try secure(channel, .initiator, client) }
        }.wait()
        try pair.settle()
        let question = (0..<500_000).map { UInt8(truncatingIfNeeded: $0) }
        recorders[0].write(question)
        try pair.settle()
        #expect(recorders[1].received == question)
        recorders[1].write(Array(question.reversed()))
        try pair.settle()
        #expect(recorders[0].received == question.reversed())
        recorders[0].channel?.close(promise: nil)
        try pair.settle()
        #expect(recorders.map(\.inactive) == [1, 1])
        #expect(recorders.allSatisfy { $0.errors.isEmpty })
        #expect(pair.client.isEmpty && pair.server.isEmpty)
        try pair.finish()
    }

    // MARK: Glue

    /// Two sessions, one behind the other: every stream of the first is glued to one of the second.
    private final class Chain {
        let loop = EmbeddedEventLoop()
        let counters = GlueCounters()
        let first: Pair
        let second: Pair

        init() throws {
            let counters = self.counters
            // What the middle holds is then a matter of what is not read, not of how fast it was.
            var steady = YamuxConfiguration()
            steady.maximumWindowBytes = YamuxConfiguration.initialWindowBytes
            let second = try Pair(loop: self.loop, setUp: withoutAutoRead)
            self.second = second
            self.first = try Pair(loop: self.loop, server: steady, setUp: withoutAutoRead) { inbound in
                let halves = GlueHandler.matchedPair(counters: counters)
                return second.client.handler.openStream { outbound in
                    outbound.eventLoop.makeCompletedFuture {
                        for (channel, half) in [(inbound, halves.client), (outbound, halves.server)] {
                            try StreamOptions.apply(to: channel)
                            try channel.pipeline.syncOperations.addHandler(half)
                        }
                    }
                }.assumeIsolated().map { _ in halves.client.start() }.nonisolated()
            }
        }

        /// A stream through the chain: its two ends.
        func open() throws -> (client: StreamRecorder, server: StreamRecorder) {
            let client = try self.first.client.open(setUp: withoutAutoRead)
            try self.settle()
            return (client, try #require(self.second.server.inbound.value.last))
        }

        func settle() throws {
            // Both have to be silent at once.
            var silent = 0
            while silent < 2 {
                let (one, other) = (try self.first.exchange(), try self.second.exchange())
                silent = one || other ? 0 : silent + 1
            }
        }

        /// What waits in the middle.
        var held: Int { self.first.server.handler.bufferedBytes + self.second.client.handler.bufferedBytes }

        var isEmpty: Bool {
            [self.first.client, self.first.server, self.second.client, self.second.server].allSatisfy(\.isEmpty)
        }
    }

    @Test func gluedStreamsCarryBytesAndEnds() throws {
        let chain = try Chain()
        let (client, server) = try chain.open()
        for recorder in [client, server] { try recorder.channel?.syncOptions?.setOption(.autoRead, value: true) }
        let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 / 3) }
        client.write(bytes)
        client.channel?.close(mode: .output, promise: nil)
        try chain.settle()
        #expect(server.received == bytes)
        #expect(server.inputClosed == 1)
        server.write(Array(bytes.reversed()))
        server.channel?.close(mode: .output, promise: nil)
        try chain.settle()
        #expect(client.received == bytes.reversed())
        #expect(client.errors.isEmpty && server.errors.isEmpty)
        #expect(chain.counters.clientToServerBytes == 1_000_000)
        #expect(chain.counters.serverToClientBytes == 1_000_000)
        #expect(chain.isEmpty)
    }

    /// The far end does not read: what is written stays with who writes, and nothing is lost.
    @Test func aStalledEndStopsTheOther() throws {
        let chain = try Chain()
        let (client, server) = try chain.open()
        let bytes = [UInt8](repeating: 9, count: 4_000_000)
        client.write(bytes)
        try chain.settle()
        #expect(server.received.isEmpty)
        #expect(client.channel?.isWritable == false)
        #expect(chain.held > 0)
        // Reads that wait are counted with the buffers that hold them, at most twice as long.
        let bound = 2 * YamuxConfiguration.initialWindowBytes + StreamOptions.highWaterMark + (64 << 10)
        #expect(chain.held <= bound, "\(chain.held) bytes")
        try server.channel?.syncOptions?.setOption(.autoRead, value: true)
        try chain.settle()
        #expect(server.received == bytes)
        #expect(client.channel?.isWritable == true)
        #expect(chain.held == 0)
    }

    @Test func aResetGoesThrough() throws {
        let chain = try Chain()
        let (client, server) = try chain.open()
        client.write([1, 2, 3])
        try chain.settle()
        client.channel?.triggerUserOutboundEvent(YamuxStreamReset(), promise: nil)
        try chain.settle()
        #expect(server.errorCode == .streamReset)
        #expect(server.inactive == 1)
        #expect(chain.isEmpty)
    }
}
