import ByteStreams
import LibP2P
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    @Suite(.serialized)
    struct PacketChannelTests {
        @Test("a channel of ours carries bytes both ways, and each side knows the other's node")
        func framed() async throws {
            try await PacketFixture.with { fixture in
                let channel = try await fixture.open()
                #expect(channel.form == .framed && channel.node == PacketFixture.farNode)
                let log = try await channel.channel.record()
                channel.channel.send("a packet")
                try await eventually("it is taken") { fixture.taken.all.first?.log.text == "a packet" }
                let (accepted, _) = try #require(fixture.taken.all.first)
                #expect(accepted.form == .framed && accepted.node == PacketFixture.nearNode)
                accepted.channel.send("one back")
                try await eventually("it comes back") { log.text == "one back" }
                #expect(fixture.channels.count == 1 && fixture.farChannels.count == 1)
                #expect(fixture.opener.counters == .init(opened: 1))
                #expect(fixture.acceptor.counters == .init(accepted: 1))
                try await channel.channel.close()
                accepted.channel.close(promise: nil)
                try await eventually("nothing is left") {
                    fixture.channels.count + fixture.farChannels.count == 0
                        && fixture.opener.tally.total + fixture.acceptor.tally.total == 0
                }
            }
        }

        @Test("before identify both protocols are proposed, ours first")
        func unidentified() async throws {
            try await PacketFixture.with { fixture in
                let connection = try await fixture.near.connect(
                    to: fixture.far.peerID,
                    addresses: fixture.far.listenAddresses
                )
                let channel = try await fixture.opener.open(
                    PacketFixture.farNode,
                    over: connection,
                    deadline: .now() + .seconds(60)
                ).get()
                #expect(channel.form == .framed)
                channel.channel.send("a packet")
                try await eventually("it is taken") { fixture.taken.all.first?.log.text == "a packet" }
            }
        }

        @Test("an agent that takes no packets is not asked, and says so once it does")
        func noTaker() async throws {
            try await PacketFixture.with(accepts: false) { fixture in
                let error = try await FlowFixture.error { try await fixture.open() }
                #expect(error.code == .notAllowed && error.message.contains("modules.edgeCNI.enable"))
                #expect(fixture.opener.counters.failed == [.notAllowed: 1] && fixture.opener.tally.total == 0)
                let taken = fixture.taken
                fixture.reception.set { taken.take($0) }
                let connection = try await fixture.connect()
                try await eventually("it is told") {
                    connection.identification?.protocols.contains(TunnelProtocol.packets) == true
                }
                let channel = try await fixture.open()
                channel.channel.send("a packet")
                try await eventually("it is taken") { taken.all.count == 1 }
                fixture.reception.set(nil)
                try await eventually("it is told") {
                    connection.identification?.protocols.contains(TunnelProtocol.packets) == false
                }
            }
        }

        @Test("a peer whose node nothing proves is refused", arguments: [TunnelProtocol.packets, .original])
        func strangers(_ protocolID: ProtocolID) async throws {
            try await PacketFixture.with { fixture in
                fixture.naming.set(PacketFixture.nearNode, nil)
                let channel = try await fixture.rawStream(protocolID)
                let log = try await channel.record()
                channel.writeAndFlush(ProxyMessage.packets(protocol: 6, to: "any").framed, promise: nil)
                try await eventually("the reset") { log.isClosed && log.reads.isEmpty }
                #expect(fixture.acceptor.counters.refused == [.unknownNode: 1] && fixture.taken.all.isEmpty)
                #expect(fixture.acceptor.tally.total == 0)
            }
        }

        @Test("channels with one peer are bounded at both ends")
        func limits() async throws {
            var limits = PacketLimits()
            limits.maximumChannelsPerPeer = 2
            try await PacketFixture.with(limits: limits) { fixture in
                let first = try await fixture.open()
                _ = try await fixture.open()
                let error = try await FlowFixture.error { try await fixture.open() }
                #expect(error.code == .overloaded && error.message.contains("2 channels of packets of one peer"))
                try await eventually("both are taken") { fixture.taken.all.count == 2 }
                // Whom the opener's bound does not hold back.
                var logs: [ReadLog] = []
                for _ in 0..<3 {
                    let channel = try await fixture.rawStream(TunnelProtocol.packets)
                    logs.append(try await channel.record())
                    channel.send("a packet")
                }
                try await eventually("they are refused") { logs.allSatisfy(\.isClosed) }
                #expect(fixture.acceptor.counters.refused == [.overloaded: 3] && fixture.taken.all.count == 2)
                try await first.channel.close()
                try await eventually("a place is free") { fixture.opener.tally.total == 1 }
                _ = try await fixture.open()
            }
        }

        @Test("at the end of the tunnel channels end at once, with what was written to them")
        func stop() async throws {
            try await PacketFixture.with { fixture in
                let channel = try await fixture.open()
                let log = try await channel.channel.record()
                channel.channel.send("the last packet")
                fixture.channels.closeAll()
                try await eventually("it is told, then closed") { log.isToMove && log.isClosed }
                try await eventually("the packet is there, and the end") {
                    fixture.taken.all.first?.log.text == "the last packet"
                        && fixture.taken.all.first?.log.hasEnded == true
                }
            }
        }
    }
}

extension ProtocolID {
    static let original = TunnelProtocol.originalPackets
}
