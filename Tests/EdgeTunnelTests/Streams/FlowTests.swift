import ByteStreams
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
    /// Flows between two agents, by our protocol and by that of v1.17.
    @Suite(.serialized)
    struct FlowTests {
        @Test(arguments: [false, true])
        func aStreamCarriesBytesBothWays(isOriginal: Bool) async throws {
            let server = try await TestTarget.echo()
            try await FlowFixture.with(isOriginal: isOriginal) { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                let log = try await channel.record()
                channel.send("hello")
                try await eventually("the echo") { log.text == "hello" }
                #expect(fixture.opener.tally.flows(with: fixture.far.peerID) == 1)
                #expect(fixture.acceptor.tally.total == 1)
                try await channel.close(mode: .output).get()
                try await eventually("the end") { log.hasEnded }
                try await eventually("the flow has left both tables") {
                    fixture.opener.tally.total == 0 && fixture.acceptor.tally.total == 0
                }
                #expect(fixture.opener.counters.opened == 1)
                #expect(fixture.opener.counters.openedWithOriginals == (isOriginal ? 1 : 0))
                #expect(fixture.acceptor.counters.openedForOriginals == (isOriginal ? 1 : 0))
                let total = await fixture.acceptor.book.total()
                #expect(total.peerToTargetBytes == 5 && total.targetToPeerBytes == 5)
            }
            try await server.close()
        }

        @Test(arguments: [false, true])
        func bytesMayTravelBehindTheRequest(isOriginal: Bool) async throws {
            let server = try await TestTarget.echo()
            let starts = Atomic<Int>(0)
            try await FlowFixture.with(isOriginal: isOriginal) { fixture in
                let channel = try await fixture.opener.open(
                    try FlowFixture.target(server.localAddress),
                    transport: .tcp,
                    peer: fixture.far.peerID,
                    on: MultiThreadedEventLoopGroup.singleton.next(),
                    deadline: .now() + .seconds(60),
                    early: { channel in
                        starts.add(1, ordering: .relaxed)
                        channel.writeAndFlush(ByteBuffer(string: "early, "), promise: nil)
                    }
                ).get()
                let log = try await channel.record()
                channel.send("late")
                // An agent of v1.17 would lose what comes with the request.
                let sent = isOriginal ? "late" : "early, late"
                try await eventually("the echo") { log.text == sent }
                #expect(starts.load(ordering: .relaxed) == (isOriginal ? 0 : 1))
                try await channel.close().get()
            }
            try await server.close()
        }

        /// Milliseconds: when the peer was heard, when it was sent something, now.
        @Test(arguments: [
            (1000, 900, 60_000, true), (1000, 1000, 60_000, true), (1000, 1001, 1249, true), (1000, 1001, 1250, false),
        ])
        func bytesTravelEarlyOnlyToAPeerThatIsThere(heard: Int64, sent: Int64, now: Int64, isSafe: Bool) {
            func time(_ milliseconds: Int64) -> NIODeadline { .uptimeNanoseconds(UInt64(milliseconds) * 1_000_000) }
            #expect(FlowOpener.isEarlySafe(heard: time(heard), sent: time(sent), now: time(now)) == isSafe)
        }

        /// The refusal is told although what came early was never read.
        @Test
        func aRefusalIsHeardBehindEarlyBytes() async throws {
            try await FlowFixture.with { fixture in
                fixture.far.handle(TunnelProtocol.flow) { stream in
                    let channel = stream.channel
                    return channel.eventLoop.makeCompletedFuture {
                        try PreambleHandler.read(on: channel, deadline: .now() + .seconds(60)) { _ in
                            let refusal = FlowDialect.own.refusal(.unreachable, "no way there")
                            channel.eventLoop.scheduleTask(in: .milliseconds(20)) {
                                channel.writeAndFlush(refusal, promise: nil)
                                channel.close(promise: nil)
                            }
                        }
                    }
                }
                let target = TunnelTarget(node: FlowFixture.farNode, address: TransportAddress(.v4(.loopback), 9))
                let error = await #expect(throws: TunnelError.self) {
                    _ = try await fixture.opener.open(
                        target,
                        transport: .tcp,
                        peer: fixture.far.peerID,
                        on: MultiThreadedEventLoopGroup.singleton.next(),
                        deadline: .now() + .seconds(60),
                        early: { $0.writeAndFlush(ByteBuffer(repeating: 1, count: 100_000), promise: nil) }
                    ).get()
                }
                #expect(error?.isAnswer == true && error?.code == .unreachable)
            }
        }

        @Test
        func theEndOfOneDirectionLeavesTheOther() async throws {
            let server = try await TestTarget.count()
            try await FlowFixture.with { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                let log = try await channel.record()
                try await channel.writeAndFlush(ByteBuffer(repeating: 1, count: 300_000)).get()
                try await channel.close(mode: .output).get()
                try await eventually("the answer to the end") { log.text == "300000 bytes" && log.hasEnded }
            }
            try await server.close()
        }

        /// The target ends first; what the client still sends is taken.
        @Test(arguments: [false, true])
        func theTargetMayEndFirst(isOriginal: Bool) async throws {
            let received = ReadLog()
            let server = try await TestTarget.server { GreetingTarget(received) }
            try await FlowFixture.with(isOriginal: isOriginal) { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                let log = try await channel.record()
                try await eventually("the greeting and the end") { log.text == "bye" && log.hasEnded }
                channel.send("still here")
                try await channel.close(mode: .output).get()
                try await eventually("the rest") { received.text == "still here" && received.hasEnded }
                try await eventually("nothing is left") { fixture.acceptor.tally.total == 0 }
            }
            try await server.close()
        }

        @Test(arguments: [false, true])
        func theServerMaySpeakFirst(isOriginal: Bool) async throws {
            let server = try await TestTarget.echo(greeting: "220 ready\r\n")
            try await FlowFixture.with(isOriginal: isOriginal) { fixture in
                for _ in 0..<50 {
                    let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                    let log = try await channel.record()
                    try await eventually("the greeting") { log.text == "220 ready\r\n" }
                    try await channel.close().get()
                }
            }
            try await server.close()
        }

        /// What comes in one frame with the answer waits for the first read, and no handler of ours stays behind.
        @Test(arguments: FlowDialect.allCases)
        func bytesBehindTheAnswerAreNotLost(dialect: FlowDialect) async throws {
            try await FlowFixture.with(isOriginal: dialect == .original) { fixture in
                fixture.far.handle(dialect.protocolID) { stream in
                    let channel = stream.channel
                    return channel.eventLoop.makeCompletedFuture {
                        try PreambleHandler.read(on: channel, deadline: .now() + .seconds(60)) { result in
                            guard let request = try? FlowRequest(result.get(), dialect) else { return }
                            var bytes = request.acceptance
                            bytes.writeString("first")
                            channel.writeAndFlush(bytes, promise: nil)
                            channel.writeAndFlush(ByteBuffer(string: " second"), promise: nil)
                            channel.close(mode: .output, promise: nil)
                        }
                    }
                }
                let target = TunnelTarget(node: FlowFixture.farNode, address: TransportAddress(.v4(.loopback), 9))
                let channel = try await fixture.open(target)
                // Whoever takes the channel may be late.
                try await Task.sleep(for: .milliseconds(20))
                let log = try await channel.record()
                try await eventually("all of it") { log.text == "first second" && log.hasEnded }
                let handlers = try await channel.eventLoop.submit { "\(channel.pipeline)" }.get()
                #expect(!handlers.contains("PreambleHandler"), "\(handlers)")
                try await channel.close().get()
            }
        }

        @Test
        func twoThousandFlowsAtOnceToOnePeer() async throws {
            _ = FileDescriptorLimit.raise(to: 20_000)
            let count = 2000
            let server = try await TestTarget.echo(greeting: "!")
            try await FlowFixture.with { fixture in
                let target = try FlowFixture.target(server.localAddress)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for number in 0..<count {
                        group.addTask {
                            let channel = try await fixture.open(target, within: .seconds(120))
                            let log = try await channel.record()
                            channel.send("\(number)")
                            try await eventually("echo \(number)", within: .seconds(120)) { log.text == "!\(number)" }
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(fixture.opener.tally.flows(with: fixture.far.peerID) == count)
                #expect(fixture.acceptor.tally.flows(with: fixture.near.peerID) == count)
                #expect(fixture.acceptor.counters.opened == UInt64(count))
                #expect(fixture.near.connections(to: fixture.far.peerID).count == 1)
                fixture.near.disconnect(from: fixture.far.peerID)
                try await eventually("all have ended") { fixture.acceptor.tally.total == 0 }
            }
            try await server.close()
        }

        /// Neither side has been told what the other speaks.
        @Test(arguments: [false, true])
        func theProtocolIsNegotiatedBeforeIdentify(isOriginal: Bool) async throws {
            let server = try await TestTarget.echo(greeting: "hi")
            try await FlowFixture.with(isOriginal: isOriginal) { fixture in
                let blind = try FlowFixture.host()
                try await blind.start()
                let opened = try await FlowOpener(host: blind).open(
                    try FlowFixture.target(server.localAddress),
                    transport: .tcp,
                    peer: fixture.far.peerID,
                    addresses: fixture.far.listenAddresses,
                    on: blind.group.next(),
                    deadline: .now() + .seconds(60)
                ).get()
                let log = try await opened.record()
                try await eventually("the greeting") { log.text == "hi" }
                await blind.shutdown(deadline: .now())
            }
            try await server.close()
        }

        @Test
        func aDrainWaitsAndThenResets() async throws {
            let server = try await TestTarget.echo()
            try await FlowFixture.with { fixture in
                let channel = try await fixture.open(try FlowFixture.target(server.localAddress))
                let log = try await channel.record()
                channel.send("x")
                try await eventually("the echo") { log.text == "x" }
                #expect(await fixture.acceptor.stop(deadline: .now() + .milliseconds(50)) == 1)
                try await eventually("the reset") { log.isClosed }
                let error = try await fixture.failure(try FlowFixture.target(server.localAddress))
                #expect(error.code == .badAnswer)
            }
            try await server.close()
        }
    }
}

/// Says goodbye at once, and takes what still comes.
private final class GreetingTarget: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let received: ReadLog

    init(_ received: ReadLog) { self.received = received }

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: "bye")), promise: nil)
        context.close(mode: .output, promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.received.note { $0.reads.append(bytes) }
    }

    // A socket whose output is shut closes when its input ends.
    func channelInactive(context: ChannelHandlerContext) { self.received.note { $0.hasEnded = true } }
}
