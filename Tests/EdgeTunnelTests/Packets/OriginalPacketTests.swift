import ByteStreams
import LibP2P
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Packets as v1.17 sends and takes them, frame by frame.
    @Suite(.serialized)
    struct OriginalPacketTests {
        /// Of an agent of v1.17 that offers packets of TCP to the node `edge-far`.
        private static let offer = "1e0800 120c0970726f746f636f6c3d360a 1a08656467652d666172 2200 2800"
        private static let success = "1e0801 120c0970726f746f636f6c3d360a 1a08656467652d666172 2200 2800"

        @Test("an agent of v1.17 opens a stream for each packet")
        func accepting() async throws {
            try await PacketFixture.with { fixture in
                let channel = try await fixture.rawStream(TunnelProtocol.originalPackets)
                let log = try await channel.record()
                // It writes the length for itself.
                var offer = try ByteBuffer(hex: Self.offer)
                channel.writeAndFlush(offer.readSlice(length: 1) ?? ByteBuffer(), promise: nil)
                channel.writeAndFlush(offer, promise: nil)
                try await eventually("the answer") { log.reads.map(\.hex) == [Self.success.replacing(" ", with: "")] }
                channel.send("packet")
                try await eventually("the packet") { fixture.taken.all.first?.log.text == "packet" }
                let (accepted, _) = try #require(fixture.taken.all.first)
                #expect(accepted.form == .original && accepted.node == PacketFixture.nearNode)
                #expect(fixture.acceptor.counters == .init(accepted: 1, acceptedFromOriginals: 1))
            }
        }

        @Test("its streams, which it never ends, do not pile up")
        func piles() async throws {
            var limits = PacketLimits()
            limits.maximumOriginalStreams = 4
            try await PacketFixture.with(limits: limits) { fixture in
                var logs: [ReadLog] = []
                for number in 0..<10 {
                    let channel = try await fixture.rawStream(TunnelProtocol.originalPackets)
                    logs.append(try await channel.record())
                    channel.writeAndFlush(try ByteBuffer(hex: Self.offer), promise: nil)
                    try await eventually("it is taken") { fixture.taken.all.count == number + 1 }
                }
                try await eventually("the oldest are ended") { logs.map(\.isClosed) == (0..<10).map { $0 < 6 } }
                try await eventually("four are left") { fixture.farChannels.count == 4 }
            }
        }

        @Test("a stream of v1.17 that is silent is ended")
        func silence() async throws {
            var limits = PacketLimits()
            limits.originalIdleTimeout = .milliseconds(50)
            try await PacketFixture.with(limits: limits) { fixture in
                let channel = try await fixture.rawStream(TunnelProtocol.originalPackets)
                let log = try await channel.record()
                channel.writeAndFlush(try ByteBuffer(hex: Self.offer), promise: nil)
                try await eventually("it is ended") { log.isClosed && log.reads.count == 1 }
                try await eventually("nothing is left") { fixture.farChannels.count == 0 }
            }
        }

        @Test("who offers nothing, or half, is reset")
        func noOffer() async throws {
            var limits = PacketLimits()
            limits.requestTimeout = .milliseconds(50)
            try await PacketFixture.with(limits: limits) { fixture in
                for bytes in [[200], [2, 8, 2], [0x81, 0x20]] as [[UInt8]] {
                    let channel = try await fixture.rawStream(TunnelProtocol.originalPackets)
                    let log = try await channel.record()
                    channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
                    try await eventually("the reset") { log.isClosed && log.reads.isEmpty }
                }
                #expect(fixture.acceptor.counters.refused == [.badRequest: 3])
            }
        }

        @Test("to an agent of v1.17 goes its offer, then each write as a frame of its own")
        func opening() async throws {
            try await PacketFixture.with(accepts: false) { fixture in
                let (seen, packets) = (ReadLog(), ReadLog())
                fixture.far.handle(TunnelProtocol.originalPackets) { stream in
                    let channel = stream.channel
                    return channel.eventLoop.makeCompletedFuture {
                        try PreambleHandler.read(on: channel, deadline: .now() + .seconds(60)) { result in
                            guard let offer = try? ProxyMessage(result.get()) else { return }
                            seen.note { $0.reads.append(offer.framed) }
                            channel.writeAndFlush(offer.success.framed, promise: nil)
                            try? channel.record(packets)
                        }
                    }
                }
                let channel = try await fixture.open()
                #expect(channel.form == .original && channel.node == PacketFixture.farNode)
                let offer = "1e0800 120c0970726f746f636f6c3d300a 1a08656467652d666172 2200 2800"
                #expect(seen.reads.map(\.hex) == [offer.replacing(" ", with: "")])
                let sent = [20, 1500, 40, 16_000].map { ByteBuffer(repeating: UInt8($0 & 255), count: $0) }
                for packet in sent { channel.channel.writeAndFlush(packet, promise: nil) }
                try await eventually("each write is a read") { packets.reads == sent }
                #expect(fixture.opener.counters == .init(opened: 1, openedWithOriginals: 1))
            }
        }

        @Test("an agent of v1.17 that says no, or nothing, is an error")
        func refusals() async throws {
            try await PacketFixture.with(accepts: false) { fixture in
                fixture.far.handle(TunnelProtocol.originalPackets) { stream in
                    stream.channel.writeAndFlush(ProxyMessage.failed.framed, promise: nil)
                    return stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                let refusal = try await FlowFixture.error { try await fixture.open() }
                #expect(refusal.code == .notAllowed && refusal.message.contains("v1.17"))
                fixture.far.handle(TunnelProtocol.originalPackets) { stream in
                    stream.channel.eventLoop.makeSucceededVoidFuture()
                }
                let silence = try await FlowFixture.error { try await fixture.open(within: .milliseconds(50)) }
                #expect(silence.code == .timedOut && silence.message.contains("edgemesh ping edge-far"))
                #expect(fixture.opener.tally.total == 0 && fixture.channels.count == 0)
            }
        }
    }
}
