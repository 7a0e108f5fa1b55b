import ByteStreams
import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
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
