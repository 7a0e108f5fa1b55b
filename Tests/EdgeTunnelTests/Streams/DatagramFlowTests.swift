import ByteStreams
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    @Suite(.serialized)
    struct DatagramFlowTests {
        @Test
        func datagramsOfEveryLengthPass() async throws {
            let server = try await TestTarget.datagrams()
            try await FlowFixture.with { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress), .udp)
                let log = try await channel.record()
                // One at a time: UDP may lose what comes too fast.
                let lengths = [1, 0, 2, 1400, 4096, 4097, 9000, 65_507]
                for (index, length) in lengths.enumerated() {
                    let datagram = ByteBuffer(repeating: UInt8(index), count: length)
                    try await channel.writeAndFlush(datagram).get()
                    try await eventually("the echo of \(length) bytes") { log.reads.count == index + 1 }
                    #expect(log.reads[index] == datagram)
                }
                await #expect(throws: ChannelError.writeMessageTooLarge) {
                    try await channel.writeAndFlush(ByteBuffer(repeating: 0, count: 65_508)).get()
                }
                #expect(await fixture.opener.datagrams().unfit == 1)
                let total = await fixture.acceptor.book.total().datagrams
                #expect(total.toTarget == UInt64(lengths.count) && total.toPeer == UInt64(lengths.count))
                try await channel.close().get()
                try await eventually("the flow has ended") { fixture.acceptor.tally.total == 0 }
            }
            try await server.close()
        }

        @Test
        func datagramsOfV117KeepTheirBoundaries() async throws {
            let server = try await TestTarget.datagrams()
            try await FlowFixture.with(isOriginal: true) { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress), .udp)
                let log = try await channel.record()
                let sent =
                    (1...20).map { ByteBuffer(repeating: UInt8($0), count: $0) }
                    + [ByteBuffer(repeating: 9, count: 4096)]
                // Written in one go, as a burst of a client comes.
                for datagram in sent { channel.write(datagram, promise: nil) }
                channel.flush()
                try await eventually("all echoes") { log.reads.count == sent.count }
                #expect(log.reads == sent)
                await #expect(throws: ChannelError.writeMessageTooLarge) {
                    try await channel.writeAndFlush(ByteBuffer(repeating: 0, count: 4097)).get()
                }
                #expect(await fixture.opener.datagrams().unfit == 1)
                try await channel.close().get()
            }
            try await server.close()
        }

        /// Nothing waits for an answer that may be a round trip across a continent away; a refusal is an error of the flow.
        @Test
        func datagramsTravelBehindTheRequest() async throws {
            let received = ReadLog()
            try await FlowFixture.with { fixture in
                fixture.far.handle(TunnelProtocol.flow) { stream in
                    let channel = stream.channel
                    return channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            LateRefusal(after: 5, received, FlowDialect.own.refusal(.unreachable, "no way there"))
                        )
                        channel.read()
                    }
                }
                let target = TunnelTarget(node: FlowFixture.farNode, address: TransportAddress(.v4(.loopback), 9))
                let channel = try await fixture.open(target, .udp)
                let log = try await channel.record()
                channel.send("one")
                try await eventually("the datagram, then the refusal") { log.isClosed && log.error != nil }
                #expect(received.text.hasSuffix("\u{0}\u{3}one"))
                #expect(log.error?.contains("no way there") == true)
                #expect(fixture.opener.counters.failed[.unreachable] == 1)
                try await eventually("nothing is left") { fixture.opener.tally.total == 0 }
            }
        }

        @Test(arguments: [false, true])
        func aSilentFlowEndsAfterItsTimeout(isOriginal: Bool) async throws {
            let server = try await TestTarget.datagrams()
            var limits = FlowLimits()
            limits.unrepliedTimeout = .milliseconds(50)
            limits.assuredTimeout = .milliseconds(100)
            try await FlowFixture.with(isOriginal: isOriginal, limits: limits) { fixture in
                let unused = try await fixture.open(try FlowFixture.target(server.localAddress), .udp)
                let log = try await unused.record()
                try await eventually("its end") { log.hasEnded }
                try await unused.close().get()
                try await eventually("nothing is left") {
                    fixture.acceptor.tally.total == 0 && fixture.opener.tally.total == 0
                }
            }
            try await server.close()
        }

        /// The original ends its side after a quarter of a second; ours goes on for as long as a flow lasts elsewhere.
        @Test
        func aPauseEndsNoFlow() async throws {
            let server = try await TestTarget.datagrams()
            try await FlowFixture.with(isOriginal: true) { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress), .udp)
                let log = try await channel.record()
                for count in 1...2 {
                    channel.send("ping")
                    try await eventually("echo \(count)") { log.reads.count == count }
                    // The test is that time passes.
                    try await Task.sleep(for: .milliseconds(600))
                    #expect(!log.hasEnded && !log.isClosed)
                }
                #expect(fixture.acceptor.counters.opened == 1)
            }
            try await server.close()
        }

        @Test
        func aTargetThatIsGoneResetsTheFlow() async throws {
            let server = try await TestTarget.datagrams()
            let target = try FlowFixture.target(server.localAddress)
            try await server.close()
            try await FlowFixture.with { fixture in
                let channel = try await fixture.open(target, .udp)
                let log = try await channel.record()
                channel.send("anybody?")
                try await eventually("the reset") { log.isClosed && log.error != nil }
                try await eventually("nothing is left") { fixture.acceptor.tally.total == 0 }
            }
        }
    }
}

/// Says no once it has so many bytes behind the request.
private final class LateRefusal: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let count: Int
    private let log: ReadLog
    private let refusal: ByteBuffer
    private var input = ByteBuffer()

    init(after count: Int, _ log: ReadLog, _ refusal: ByteBuffer) {
        self.count = count
        self.log = log
        self.refusal = refusal
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        self.log.note { $0.reads.append(bytes) }
        self.input.writeBuffer(&bytes)
        var rest = self.input
        guard (try? rest.readVarintPrefixed(maximumLength: 4096)) != nil, rest.readableBytes >= self.count else {
            return
        }
        context.writeAndFlush(self.wrapOutboundOut(self.refusal), promise: nil)
        context.close(promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) { context.read() }
}
