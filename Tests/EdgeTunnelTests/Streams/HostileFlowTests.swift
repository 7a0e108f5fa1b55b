import ByteStreams
import Glibc
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Peers that ask for what they may not have, or do not keep to the protocol; targets that do not answer.
    @Suite(.serialized)
    struct HostileFlowTests {
        private static let closedPort = TransportAddress(.v4(.loopback), 1)

        private static func request(_ target: TransportAddress, node: String = FlowFixture.farNode) -> ByteBuffer {
            OpenRequest(.tcp, to: target, of: node).framed
        }

        /// The answer to bytes that are written on a stream of our protocol.
        private static func reply(_ fixture: FlowFixture, _ bytes: ByteBuffer) async throws -> OpenReply {
            let channel = try await fixture.rawStream(TunnelProtocol.flow)
            let log = try await channel.record()
            channel.writeAndFlush(bytes, promise: nil)
            try await eventually("an answer") { !log.reads.isEmpty }
            var answer = try #require(log.reads.first)
            return try OpenReply(try #require(try answer.readVarintPrefixed(maximumLength: 4096)))
        }

        // MARK: Targets

        @Test
        func aForbiddenTargetIsNamed() async throws {
            try await FlowFixture.with(settings: TargetAccessSettings()) { fixture in
                let target = TunnelTarget(
                    node: FlowFixture.farNode,
                    address: TransportAddress(.v4(IPv4Address(10, 0, 0, 1)), 22)
                )
                fixture.naming.set("edge-near", fixture.near.peerID)
                fixture.access.apply(CatalogFixture.empty)
                let error = try await fixture.failure(target)
                #expect(error.code == .notAllowed)
                #expect(error.message.contains("10.0.0.1:22") && error.message.contains(FlowFixture.farNode))
                #expect(fixture.access.refusals == [.notAnEndpoint: 1])
                let refused = try #require(fixture.access.lastRefused.first)
                #expect(refused.peer == "edge-near" && refused.target == target.address)
                #expect(fixture.acceptor.counters.refused == [.notAllowed: 1])
                // In the protocol of v1.17 only that it failed.
                let original = try await fixture.rawStream(TunnelProtocol.proxy)
                let log = try await original.record()
                let connect = ProxyMessage.connect(.tcp, to: target.address, of: FlowFixture.farNode)
                original.writeAndFlush(connect.framed, promise: nil)
                try await eventually("the refusal") { log.reads.map(\.hex) == ["020802"] && log.hasEnded }
            }
        }

        @Test
        func arrivingAtTheWrongNodeIsTold() async throws {
            try await FlowFixture.with { fixture in
                let target = TunnelTarget(node: "another", address: Self.closedPort)
                let error = try await fixture.failure(target)
                #expect(error.code == .unknownNode)
                #expect(fixture.acceptor.counters.refused == [.wrongNode: 1])
                #expect(fixture.access.refusals == [.wrongNode: 1])
            }
        }

        @Test(arguments: [
            (ECONNREFUSED, TunnelError.Code.refused), (ENETUNREACH, .unreachable), (EHOSTUNREACH, .unreachable),
            (ETIMEDOUT, .timedOut), (EMFILE, .overloaded),
        ])
        func whyATargetIsNotReachedIsTold(_ number: CInt, _ code: TunnelError.Code) async throws {
            let dialer = TargetDialer(
                stream: { _, loop, _ in loop.makeFailedFuture(IOError(errnoCode: number, reason: "connect")) },
                datagrams: TargetDialer.sockets.datagrams
            )
            try await FlowFixture.with(dialer: dialer) { fixture in
                let target = TunnelTarget(node: FlowFixture.farNode, address: Self.closedPort)
                #expect(try await fixture.failure(target).code == code)
                #expect(fixture.opener.counters.failed == [code: 1])
                try await eventually("nothing is left") { fixture.acceptor.tally.total == 0 }
            }
        }

        @Test
        func aClosedPortRefuses() async throws {
            try await FlowFixture.with { fixture in
                let target = TunnelTarget(node: FlowFixture.farNode, address: Self.closedPort)
                let error = try await fixture.failure(target)
                #expect(error.code == .refused)
            }
            try await FlowFixture.with(isOriginal: true) { fixture in
                let target = TunnelTarget(node: FlowFixture.farNode, address: Self.closedPort)
                let error = try await fixture.failure(target)
                #expect(error.code == .refused)
            }
        }

        /// The far side gives up before the requester does, and says so.
        @Test
        func aTargetThatDropsPacketsTimesOut() async throws {
            var limits = FlowLimits()
            limits.dialTimeout = .seconds(60)
            let late = ByteStreamsError(code: .deadlineExceeded, message: "no answer")
            let dialer = TargetDialer(
                stream: { _, loop, deadline in
                    loop.scheduleTask(deadline: deadline) { throw late }.futureResult
                },
                datagrams: TargetDialer.sockets.datagrams
            )
            try await FlowFixture.with(limits: limits, dialer: dialer) { fixture in
                let target = TunnelTarget(node: FlowFixture.farNode, address: Self.closedPort)
                let error = try await fixture.failure(target, within: .seconds(5))
                #expect(error.code == .timedOut)
                #expect(fixture.acceptor.counters.refused == [.timedOut: 1])
            }
        }

        @Test
        func anAgentThatNeverAnswersTimesOut() async throws {
            try await FlowFixture.with { fixture in
                fixture.far.handle(TunnelProtocol.flow) { $0.channel.eventLoop.makeSucceededVoidFuture() }
                let target = TunnelTarget(node: FlowFixture.farNode, address: Self.closedPort)
                let error = try await fixture.failure(target, within: .milliseconds(100))
                #expect(error.code == .timedOut && error.message.contains(FlowFixture.farNode))
                #expect(fixture.opener.tally.total == 0)
            }
        }

        @Test
        func whoLeavesBeforeTheTargetAnswersLeavesNothing() async throws {
            let server = try await TestTarget.echo()
            let address = try #require(server.localAddress.flatMap { TransportAddress($0) })
            let (hasBegun, mayGoOn) = (ReadLog(), ReadLog())
            let dialer = TargetDialer(
                stream: { _, loop, deadline in
                    hasBegun.note { $0.hasEnded = true }
                    return Self.wait(for: mayGoOn, on: loop).flatMap {
                        TargetDialer.sockets.stream(address, loop, deadline)
                    }
                },
                datagrams: TargetDialer.sockets.datagrams
            )
            try await FlowFixture.with(dialer: dialer) { fixture in
                let channel = try await fixture.rawStream(TunnelProtocol.flow)
                channel.writeAndFlush(Self.request(address), promise: nil)
                try await eventually("the dial has begun") { hasBegun.hasEnded }
                try await channel.eventLoop.submit { channel.closeWithReset() }.get()
                try await eventually("the stream has ended") { fixture.acceptor.tally.total == 0 }
                mayGoOn.note { $0.hasEnded = true }
                try await eventually("it is counted") { fixture.acceptor.counters.abandoned == 1 }
                #expect(fixture.acceptor.counters.opened == 0)
            }
            try await server.close()
        }

        private static func wait(for log: ReadLog, on loop: any EventLoop) -> EventLoopFuture<Void> {
            guard !log.hasEnded else { return loop.makeSucceededVoidFuture() }
            return loop.flatScheduleTask(in: .milliseconds(5)) { Self.wait(for: log, on: loop) }.futureResult
        }

        @Test
        func aPeerThatCannotBeReachedIsNoPath() async throws {
            let near = try FlowFixture.host()
            try await near.start()
            let stranger = try FlowFixture.host()
            let target = TunnelTarget(node: "nowhere", address: Self.closedPort)
            let opener = FlowOpener(host: near)
            for addresses in [[], [try Multiaddr("/ip4/127.0.0.1/tcp/1")]] {
                let error = try await FlowFixture.error {
                    try await opener.open(
                        target,
                        transport: .tcp,
                        peer: stranger.peerID,
                        addresses: addresses,
                        on: near.group.next(),
                        deadline: .now() + .seconds(60)
                    ).get()
                }
                #expect(error.code == .noPath)
            }
            await near.shutdown(deadline: .now())
        }

        // MARK: Requesters

        @Test
        func badRequestsAreTold() async throws {
            try await FlowFixture.with { fixture in
                var tooLong = ByteBuffer()
                tooLong.writeUnsignedVarint(UInt64(4097))
                var codes: [OpenReply.Code?] = []
                codes.append(try await Self.reply(fixture, tooLong).code)
                codes.append(try await Self.reply(fixture, ByteBuffer(bytes: [2, 0xFF, 0xFF])).code)
                codes.append(try await Self.reply(fixture, ByteBuffer(bytes: [0])).code)
                #expect(codes == [.badRequest, .badRequest, .badRequest])
                #expect(fixture.acceptor.counters.refused == [.badRequest: 3])
                try await eventually("nothing is left") { fixture.acceptor.tally.total == 0 }
            }
        }

        @Test
        func whoSaysNothingOrHalfIsReset() async throws {
            var limits = FlowLimits()
            limits.requestTimeout = .milliseconds(50)
            try await FlowFixture.with(limits: limits) { fixture in
                for protocolID in [TunnelProtocol.flow, TunnelProtocol.proxy] {
                    let channel = try await fixture.rawStream(protocolID)
                    let log = try await channel.record()
                    channel.writeAndFlush(ByteBuffer(bytes: [200]), promise: nil)
                    try await eventually("the reset") { log.isClosed && log.error != nil }
                }
                #expect(fixture.acceptor.counters.silent == 2)
                // One that leaves with half a message.
                let channel = try await fixture.rawStream(TunnelProtocol.flow)
                channel.writeAndFlush(ByteBuffer(bytes: [200, 1]), promise: nil)
                try await channel.close(mode: .output).get()
                try await eventually("it is counted") { fixture.acceptor.counters.silent == 3 }
                try await eventually("nothing is left") { fixture.acceptor.tally.total == 0 }
            }
        }

        @Test(arguments: FlowDialect.allCases)
        func aFloodIsTurnedDownBeyondTheLimit(dialect: FlowDialect) async throws {
            let server = try await TestTarget.echo(greeting: "!")
            var limits = FlowLimits()
            limits.maximumFlowsPerPeer = 8
            try await FlowFixture.with(isOriginal: dialect == .original, limits: limits) { fixture in
                let target = try FlowFixture.target(server.localAddress)
                var open: [any Channel] = []
                for _ in 0..<8 { open.append(try await fixture.open(target)) }
                for _ in 0..<100 {
                    let error = try await fixture.failure(target)
                    #expect(error.code == (dialect == .own ? .overloaded : .refused))
                }
                #expect(fixture.acceptor.counters.refused == [.overloaded: 100])
                #expect(fixture.acceptor.tally.flows(with: fixture.near.peerID) == 8)
                try await open[0].close().get()
                try await eventually("a place is free") { fixture.acceptor.tally.total == 7 }
                _ = try await fixture.open(target)
            }
            try await server.close()
        }

        @Test
        func aSlowReaderHoldsLittle() async throws {
            let server = try await TestTarget.server { EndlessTarget() }
            try await FlowFixture.with { fixture in
                // Nobody ever reads the channel.
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                var last: UInt64 = 0
                try await eventually("the flow stalls", within: .seconds(60)) {
                    try await Task.sleep(for: .milliseconds(100))
                    let now = await fixture.acceptor.book.total().targetToPeerBytes
                    defer { last = now }
                    return now > 0 && now == last
                }
                // What the windows of both ends of the stream, and the socket buffers, take.
                #expect(last < 2 << 20, "\(last) bytes")
                try await channel.close().get()
            }
            try await server.close()
        }
    }
}

final class EndlessTarget: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func channelActive(context: ChannelHandlerContext) { self.fill(context) }
    func channelWritabilityChanged(context: ChannelHandlerContext) { self.fill(context) }

    private func fill(_ context: ChannelHandlerContext) {
        while context.channel.isWritable {
            context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(repeating: 0, count: 65_536)), promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
