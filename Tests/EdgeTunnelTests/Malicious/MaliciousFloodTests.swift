import ByteStreams
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Testing
import Yamux

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Peers that want more than their share: what they hold is within the limit that bears its name, and others are served.
    @Suite(.serialized) struct MaliciousFloodTests {
        private static let request = OpenRequest(
            .tcp,
            to: MaliciousPeerFixture.echo,
            of: MaliciousPeerFixture.victim
        ).framed

        @Test("a flood of flows stays within the limit of one peer; each one more is told which")
        func flows() async throws {
            try await MaliciousPeerFixture.with {
                $0.limits.inboundPerPeer = 16
            } _: { fixture in
                let attacker = try await fixture.attacker()
                var open: [any Channel] = []
                for _ in 0..<16 {
                    let channel = try await fixture.stream(attacker, TunnelProtocol.flow)
                    let log = try await channel.record()
                    channel.writeAndFlush(Self.request, promise: nil)
                    #expect(try await MaliciousPeerFixture.reply(in: log).code == .ok)
                    open.append(channel)
                }
                // Fewer at a time than may be without a protocol.
                for _ in 0..<10 {
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for _ in 0..<100 {
                            group.addTask {
                                let reply = try await fixture.reply(to: Self.request, of: attacker)
                                #expect(reply.code == .overloaded && reply.message.contains("16 flows of one peer"))
                                #expect(fixture.victim.acceptor.tally.flows(with: attacker.peerID) == 16)
                            }
                        }
                        try await group.waitForAll()
                    }
                }
                #expect(fixture.victim.acceptor.counters.refused == [.overloaded: 1000])
                #expect(await fixture.counter("flowsRefused") == 1000)
                try await fixture.expectHonestIsServed()
                for channel in open { try await channel.close().get() }
                try await fixture.expectNothingIsLeft(of: attacker)
            }
        }

        @Test("who opens streams and says nothing, or half of it, has no more of them than who asks")
        func slowOpeners() async throws {
            try await MaliciousPeerFixture.with {
                $0.limits.inboundPerPeer = 16
            } _: { fixture in
                let attacker = try await fixture.attacker()
                for number in 0..<16 {
                    let channel = try await fixture.stream(attacker, TunnelProtocol.flow)
                    let half = Self.request.getSlice(at: 0, length: Self.request.readableBytes / 2)
                    if number.isMultiple(of: 2), let half { channel.writeAndFlush(half, promise: nil) }
                }
                try await eventually("all are held") {
                    fixture.victim.acceptor.tally.flows(with: attacker.peerID) == 16
                }
                #expect(try await fixture.reply(to: Self.request, of: attacker).code == .overloaded)
                #expect(fixture.dialled.isEmpty)
                try await fixture.expectHonestIsServed()
                // Who waits for the time of `FlowLimits.requestTimeout` to pass is in `HostileFlowTests`.
                await attacker.shutdown(deadline: .now())
                try await fixture.expectNothingIsLeft(of: attacker)
            }
        }

        @Test("who does not read, or little, is sent no more than a window and a buffer beyond what he has read")
        func slowReaders() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let attacker = try await fixture.attacker()
                let request = OpenRequest(
                    .tcp,
                    to: MaliciousPeerFixture.endless,
                    of: MaliciousPeerFixture.victim
                ).framed
                let count = 8
                let reader = ReadLog()
                for number in 0..<count {
                    let channel = try await fixture.stream(attacker, TunnelProtocol.flow)
                    channel.writeAndFlush(request, promise: nil)
                    guard number == 0 else { continue }
                    // One reads a few times, then no more.
                    try await channel.eventLoop.submit {
                        try channel.pipeline.syncOperations.addHandler(FewReads(reader, 20))
                        channel.read()
                    }.get()
                }
                try await eventually("one has read what it wants", within: .seconds(60)) { reader.reads.count >= 20 }
                var last: UInt64 = 0
                var isStalled = 0
                try await eventually("all stall", within: .seconds(60)) {
                    try await Task.sleep(for: .milliseconds(50))
                    let now = await fixture.victim.acceptor.book.total().targetToPeerBytes
                    isStalled = now == last && now > 0 ? isStalled + 1 : 0
                    last = now
                    return isStalled == 10
                }
                let read = reader.reads.reduce(0) { $0 + $1.readableBytes }
                let yamux = YamuxConfiguration()
                // A window, the stream's buffer, and what one look at the target's socket may add to it.
                let perFlow = YamuxConfiguration.initialWindowBytes + yamux.writeBufferWaterMark.high + (256 << 10)
                print("slow readers: \(last) bytes for \(count) flows, of which \(read) were read")
                #expect(Int(last) - read <= count * perFlow, "\(last) bytes, \(read) read")
                try await fixture.expectHonestIsServed()
                await attacker.shutdown(deadline: .now())
                try await fixture.expectNothingIsLeft(of: attacker)
            }
        }

        @Test("connections that never begin their handshake have no more places than one address may")
        func handshakes() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let limit = fixture.victim.host.configuration.maximumInboundHandshakesPerAddress
                let port = Int(try #require(fixture.addresses().first?.port))
                var flood: [any Channel] = []
                for _ in 0..<(limit + 100) {
                    flood.append(
                        try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                            .connect(host: "127.0.0.1", port: port).get()
                    )
                }
                try await eventually("the surplus is refused", within: .seconds(60)) {
                    await fixture.counter("connectionsRefused") == 100
                }
                #expect(fixture.victim.host.metrics.inboundHandshakes == limit)
                try await fixture.expectHonestIsServed()
                for channel in flood { channel.close(promise: nil) }
                try await eventually("the flood is over", within: .seconds(60)) {
                    fixture.victim.host.metrics.inboundHandshakes == 0
                }
            }
        }

        @Test("one peer has no more connections than one peer may")
        func connections() async throws {
            try await MaliciousPeerFixture.with { fixture in
                let attacker = try await fixture.attacker()
                let limit = fixture.victim.host.configuration.limits.peerConnections.inbound
                for _ in 0..<(limit + 8) { _ = try? await fixture.join(attacker, reuse: .never) }
                try await eventually("the surplus is refused") {
                    await fixture.counter("connectionsRefused") + fixture.counter("handshakesFailed") >= 8
                }
                #expect(fixture.victim.host.connections(to: attacker.peerID).count <= limit)
                try await fixture.expectHonestIsServed()
            }
        }

        /// `modules.edgeTunnel.maxNodes`, at its limit.
        @Test("strangers of one address take no more places than the node is made for")
        func peers() async throws {
            try await MaliciousPeerFixture.with {
                $0.maximumNodes = 4
            } _: { fixture in
                #expect(fixture.victim.host.configuration.limits.connectionsPerAddress == 4)
                var isIn = 0
                for _ in 0..<12 {
                    let stranger = try await fixture.attacker()
                    if (try? await fixture.join(stranger)) != nil { isIn += 1 }
                }
                try await eventually("the surplus is refused") { await fixture.counter("connectionsRefused") == 8 }
                #expect(isIn == 4 && fixture.victim.host.connections.count == 4)
                try await fixture.expectHonestIsServed()
            }
        }
    }
}

/// Reads a number of times.
private final class FewReads: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let log: ReadLog
    private var left: Int

    init(_ log: ReadLog, _ count: Int) {
        self.log = log
        self.left = count
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.log.note { $0.reads.append(bytes) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.left -= 1
        if self.left > 0 { context.read() }
    }
}
