import MeshCore
import MeshInterfaces
import NIOCore
import NIOEmbedded
import PacketWire
import Synchronization
import Testing

@testable import EdgeCNI

@Suite
struct PacketLinkTests {
    private typealias Lab = LinkFixture

    @Test
    func packetsWaitForTheirChannelAndGoInOrder() throws {
        let lab = try LinkFixture()
        let packets = (1...3).map { Lab.packet($0) }
        lab.read(packets)
        lab.read([Lab.packet(4)])
        #expect(lab.tunnel.attempts.map(\.node) == ["far"], "one attempt for all")
        #expect(try lab.report().peers.first?.waitingPackets == 4)
        let channel = try lab.open()
        #expect(try lab.sent(on: channel) == packets + [Lab.packet(4)])
        lab.read([Lab.packet(5)])
        #expect(try lab.sent(on: channel) == [Lab.packet(5)])
        #expect(lab.tunnel.attempts.count == 1)
        #expect(try lab.report().waitingBytes == 0)
    }

    @Test
    func aBatchIsOneWrite() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let channel = try lab.open()
        _ = try lab.sent(on: channel)
        lab.read((1...64).map { Lab.packet($0) })
        let write = try #require(try channel.readOutbound(as: ByteBuffer.self))
        #expect(try lab.packets(in: write).count == 64)
        #expect(try channel.readOutbound(as: ByteBuffer.self) == nil)
    }

    @Test
    func largePacketsKeepTheirPlaceAmongOthers() throws {
        let lab = try LinkFixture()
        let channel = try lab.idleChannel()
        let packets = [20_000, 4, 60_000, 30_000, 8].enumerated().map { Lab.packet(UInt8($0), size: $1) }
        lab.read(packets)
        #expect(try lab.sent(on: channel) == packets)
        // Those that wait are like all others.
        channel.isWritable = false
        lab.read(packets)
        #expect(try lab.report().peers.first?.waitingPackets == packets.count)
        channel.isWritable = true
        channel.pipeline.fireChannelWritabilityChanged()
        #expect(try lab.sent(on: channel) == packets)
    }

    /// Read by the loop of the channel, by another, and while they wait.
    @Test(arguments: [0, 1])
    func datagramsOfAFlowLeaveTogether(reader: Int) throws {
        let lab = try LinkFixture()
        lab.places.loops.withLock { $0["far"] = lab.loops[0] }
        let channel = try lab.idleChannel(reader: reader)
        // NEEDS_CSUM, of UDP behind 20 bytes.
        let partial: [UInt8] = [1, 0, 0, 0, 0, 0, 20, 0, 6, 0]
        let packets = (1...9).map { Lab.packet(UInt8($0)) }
        for isWritable in [true, false] {
            channel.isWritable = isWritable
            lab.read(packets, offload: partial, on: reader)
            channel.isWritable = true
            channel.pipeline.fireChannelWritabilityChanged()
            var frames: [(bytes: [UInt8], offload: PacketOffload)] = []
            var stream = PacketStream(form: .framed)
            try stream.take(lab.written(to: channel)) { frames.append((Array($0), $1)) }
            #expect(frames.count == 1)
            #expect(frames.first?.offload == PacketOffload(isChecksumPartial: true, segmentSize: 4))
            #expect(
                frames.first?.bytes.suffix(36).elementsEqual((1...9).flatMap { [UInt8](repeating: $0, count: 4) })
                    == true
            )
        }
    }

    @Test
    func aChannelThatEndsOnItsWayToTheLinkIsReplaced() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let channel = try lab.channel()
        let attempt = try #require(lab.tunnel.attempts.last)
        attempt.promise.succeed(PacketChannel(channel: channel, node: attempt.node, form: .framed))
        // As a stream is that has ended.
        channel.isWritable = false
        channel.close(promise: nil)
        lab.turn()
        #expect(lab.tunnel.attempts.count == 2)
        #expect(try lab.sent(on: lab.open()) == [Lab.packet(1)])
    }

    @Test
    func packetsWaitOutsideOfAChannelThatIsFull() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let channel = try lab.open()
        _ = try lab.sent(on: channel)
        channel.isWritable = false
        lab.read([Lab.packet(2), Lab.packet(3)])
        #expect(try lab.sent(on: channel).isEmpty)
        #expect(try lab.report().peers.first?.waitingPackets == 2)
        channel.isWritable = true
        channel.pipeline.fireChannelWritabilityChanged()
        #expect(try lab.sent(on: channel) == [Lab.packet(2), Lab.packet(3)])
    }

    /// The first packets of a long queue tell it, and those that leave a short one do not.
    @Test
    func longQueuesAreToldToThoseWhoUnderstand() throws {
        var limits = EdgeCNILimits()
        limits.link.queue.markedBytesOfClass = 2000
        let lab = try LinkFixture(limits: limits)
        func packet(_ number: Int, _ bits: UInt8) -> [UInt8] {
            var packet = Lab.packet(UInt8(number), size: 500)
            packet[1] |= bits
            packet.replaceSubrange(10..<12, with: [0, 0])
            packet.replaceSubrange(10..<12, with: SamplePackets.word(~SamplePackets.sum(Array(packet[..<20]))))
            return packet
        }
        lab.read((1...10).map { packet($0, $0 == 2 ? 0 : 2) })
        // Seven leave while more than 2,000 bytes wait with them; the second one's sender does not know of it.
        let sent = try lab.sent(on: lab.open())
        #expect(sent.map { $0[1] } == [3, 0, 3, 3, 3, 3, 3, 2, 2, 2])
        #expect(try lab.report().counters.markedPackets == 6)
    }

    @Test
    func whatWaitsIsBoundedAndTheOldestGoes() throws {
        var limits = EdgeCNILimits()
        limits.link.queue.bytes = 4000
        limits.link.queue.bytesOfClass = 2000
        let lab = try LinkFixture(limits: limits)
        lab.read((1...10).map { Lab.packet($0, size: 500) })
        let channel = try lab.open()
        // Three of 533 bytes with their headers are less than 2,000.
        #expect(try lab.sent(on: channel) == (8...10).map { Lab.packet($0, size: 500) })
        #expect(try lab.drops() == [.overflow: 7])

        limits.waitingBytes = 1000
        let small = try LinkFixture(limits: limits)
        small.read((1...3).map { Lab.packet($0, size: 400) })
        #expect(try small.report().peers.first?.waitingPackets == 2)
        #expect(try small.drops() == [.overflow: 1])
    }

    @Test
    func packetsThatOtherLoopsReadGoByTheHomeOfTheirNode() throws {
        let lab = try LinkFixture()
        lab.places.loops.withLock { $0["far"] = lab.loops[1] }
        lab.read([Lab.packet(1), Lab.packet(2)], on: 0)
        let channel = try lab.open(on: 1)
        #expect(try lab.sent(on: channel) == [Lab.packet(1), Lab.packet(2)])
        lab.read([Lab.packet(3), Lab.packet(4)], on: 0)
        lab.read([Lab.packet(5)], on: 1)
        #expect(try lab.sent(on: channel) == [Lab.packet(3), Lab.packet(4), Lab.packet(5)])
        channel.isWritable = false
        lab.read([Lab.packet(6), Lab.packet(7)], on: 0)
        #expect(try lab.report(of: 1).peers.first?.waitingPackets == 2)
        channel.isWritable = true
        channel.pipeline.fireChannelWritabilityChanged()
        #expect(try lab.sent(on: channel) == [Lab.packet(6), Lab.packet(7)])
    }

    @Test
    func packetsFollowAChannelThatLivesElsewhere() throws {
        let lab = try LinkFixture()
        // Nothing tells where it would be: the loop that has the packet asks.
        lab.read([Lab.packet(1), Lab.packet(2, port: 7)], on: 0)
        let channel = try lab.open(on: 1)
        #expect(Set(try lab.sent(on: channel)) == [Lab.packet(1), Lab.packet(2, port: 7)])
        lab.read([Lab.packet(3)], on: 0)
        lab.read([Lab.packet(4)], on: 1)
        #expect(try lab.sent(on: channel) == [Lab.packet(3), Lab.packet(4)])
        #expect(lab.tunnel.attempts.count == 1)
    }

    @Test
    func acceptedChannelsCarryBothWays() throws {
        let lab = try LinkFixture()
        let channel = try lab.accept()
        try channel.writeInbound(Lab.frames([Lab.back(1), Lab.back(2)]))
        #expect(lab.device.take().map(\.bytes) == [Lab.back(1), Lab.back(2)])
        lab.read([Lab.packet(3)])
        #expect(try lab.sent(on: channel) == [Lab.packet(3)])
        #expect(lab.tunnel.attempts.isEmpty)
    }

    @Test
    func anAcceptedChannelServesWhileOursIsNotThere() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)], on: 0)
        let accepted = try lab.accept(on: 1)
        #expect(try lab.sent(on: accepted) == [Lab.packet(1)])
        // Ours comes too: both sides may have begun at once. The newest is sent on, each is read.
        let opened = try lab.open(on: 0)
        lab.read([Lab.packet(2)], on: 1)
        #expect(try lab.sent(on: opened) == [Lab.packet(2)])
        for channel in [accepted, opened] { try channel.writeInbound(Lab.frames([Lab.back(1)])) }
        #expect(lab.device.take().count == 2)
    }

    @Test
    func aDeadChannelIsMadeAnew() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let first = try lab.open()
        _ = try lab.sent(on: first)
        _ = try? first.finish()
        lab.turn()
        #expect(lab.tunnel.attempts.count == 1, "nobody needs it yet")
        lab.read([Lab.packet(2)])
        let second = try lab.open()
        #expect(try lab.sent(on: second) == [Lab.packet(2)])
    }

    @Test
    func aChannelOnABetterWayTakesOver() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let first = try lab.open()
        first.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent())
        lab.read([Lab.packet(2)])
        #expect(try lab.sent(on: first) == [Lab.packet(1), Lab.packet(2)], "meanwhile it serves")
        #expect(lab.tunnel.attempts.count == 2)
        let second = try lab.open()
        lab.read([Lab.packet(3)])
        #expect(try lab.sent(on: second) == [Lab.packet(3)])
        #expect(try lab.sent(on: first).isEmpty)
        // What the peer still sends on the old one is taken.
        try first.writeInbound(Lab.frames([Lab.back(9)]))
        #expect(lab.device.take().count == 1)
    }

    @Test
    func sendersToNodesThatAreNotToBeHadAreTold() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        try lab.fail(.noPath)
        let answers = lab.device.take()
        #expect(answers.count == 1, "also who waited")
        let answer = try SamplePackets.parse(try #require(answers.first).bytes)
        #expect(answer.destination == SamplePackets.source4)
        #expect(answer.protocolNumber == 1)
        lab.read([Lab.packet(2)])
        #expect(lab.device.take().count == 1)
        #expect(lab.tunnel.attempts.count == 1, "not asked again at once")
        #expect(try lab.drops() == [.unreachable: 2])
        lab.loops[0].advanceTime(by: .milliseconds(250))
        lab.read([Lab.packet(3)])
        #expect(lab.tunnel.attempts.count == 2)
        let channel = try lab.open()
        #expect(try lab.sent(on: channel) == [Lab.packet(3)])
    }

    @Test
    func packetsOutliveWhatPasses() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        for attempt in 1...6 {
            try lab.fail(.notRunning)
            #expect(lab.tunnel.attempts.count == attempt)
            // 250, 500, 1,000 … milliseconds, five seconds at most.
            let backoff = min(250 << (attempt - 1), 5000)
            lab.loops[0].advanceTime(by: .milliseconds(Int64(backoff) - 1))
            #expect(lab.tunnel.attempts.count == attempt)
            lab.loops[0].advanceTime(by: .milliseconds(1))
            #expect(lab.tunnel.attempts.count == attempt + 1)
        }
        #expect(lab.device.take().isEmpty)
        #expect(try lab.sent(on: try lab.open()) == [Lab.packet(1)])
    }

    @Test
    func nodesThatAreKnownToBeUnreachableAreNotWaitedFor() throws {
        let lab = try LinkFixture()
        for handle in lab.homes.handles { handle.run { $0.replaceUnreachable(["far"]) } }
        lab.turn()
        lab.read([Lab.packet(1), Lab.packet(2, to: 3)])
        #expect(lab.device.take().count == 1)
        #expect(lab.tunnel.attempts.map(\.node) == ["other"])
        for handle in lab.homes.handles { handle.run { $0.replaceUnreachable([]) } }
        lab.turn()
        lab.read([Lab.packet(3)])
        #expect(lab.tunnel.attempts.map(\.node) == ["other", "far"])
    }

    @Test
    func originalsGetWholePacketsOfVersion4() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let channel = try lab.open(.original)
        #expect(try lab.sent(on: channel, .original) == [Lab.packet(1)])
        // One that stands for three, with its checksum left open.
        let target = SamplePackets.target4
        let payload = SamplePackets.udp(payload: [UInt8](repeating: 3, count: 3000), and: target, isPartial: true)
        let large = SamplePackets.version4(target: target, payload: payload)
        let size = withUnsafeBytes(of: UInt16(1200)) { Array($0) }
        let word = { (number: UInt16) in withUnsafeBytes(of: number) { Array($0) } }
        lab.read([large], offload: [1, 5, 28, 0] + size + word(20) + word(6))
        let sent = try lab.sent(on: channel, .original)
        #expect(sent.map(\.count) == [1228, 1228, 628])
        for packet in sent { #expect(try SamplePackets.isSound(packet)) }
        // IPv6 is none of its.
        lab.read([SamplePackets.version6(payload: [1])])
        #expect(try lab.sent(on: channel, .original).isEmpty)
        #expect(try lab.drops() == [.unsupported: 1])
    }

    @Test
    func noWriteToAnOriginalIsTooLong() throws {
        let lab = try LinkFixture()
        lab.read((1...60).map { Lab.packet($0, size: 1300) })
        let channel = try lab.open(.original)
        var count = 0
        while let write = try channel.readOutbound(as: ByteBuffer.self) {
            #expect(write.readableBytes <= PacketChannel.maximumOriginalWrite)
            count += try lab.packets(in: write, .original).count
        }
        #expect(count == 60)
    }

    @Test
    func streamsOfOriginalsAreNotAnswered() throws {
        let lab = try LinkFixture()
        let channel = try lab.accept(.original)
        try channel.writeInbound(ByteBuffer(bytes: Lab.back(1) + Lab.back(2)))
        #expect(lab.device.take().map(\.bytes) == [Lab.back(1), Lab.back(2)])
        lab.read([Lab.packet(1)])
        #expect(lab.tunnel.attempts.count == 1)
        #expect(try lab.sent(on: channel, .original).isEmpty)
    }

    @Test
    func peersSendOnlyWhatIsTheirs() throws {
        let lab = try LinkFixture()
        let channel = try lab.accept(from: "other")
        try channel.writeInbound(Lab.frames([Lab.back(1, from: 2), Lab.back(2, from: 3)]))
        #expect(lab.device.take().map(\.bytes) == [Lab.back(2, from: 3)])
        #expect(try lab.drops() == [.spoofed: 1])
        let peer = try #require(try lab.report().peers.first)
        #expect(peer.node == "other" && peer.spoofedPackets == 1)
    }

    @Test
    func aStreamOfSomethingElseEnds() throws {
        let lab = try LinkFixture()
        let channel = try lab.accept()
        try channel.writeInbound(ByteBuffer(string: "GET / HTTP/1.1"))
        lab.turn()
        #expect(!channel.isActive)
        #expect(try lab.report().refusedStreams == 1)
        #expect(try lab.report().peers.allSatisfy { $0.channels == 0 })
    }

    @Test
    func whatTheDeviceDoesNotTakeIsCounted() throws {
        let lab = try LinkFixture()
        let channel = try lab.accept()
        lab.device.isFull.store(true, ordering: .relaxed)
        try channel.writeInbound(Lab.frames([Lab.back(1)]))
        #expect(try lab.drops() == [.device: 1])
    }

    @Test
    func silentChannelsEndAndLinksGo() throws {
        let lab = try LinkFixture()
        lab.read([Lab.packet(1)])
        let channel = try lab.open()
        func sweep(after time: TimeAmount) {
            lab.loops[0].advanceTime(by: time)
            for handle in lab.homes.handles { handle.run { $0.sweep() } }
            lab.turn()
        }
        sweep(after: .minutes(4))
        try channel.writeInbound(Lab.frames([Lab.back(1)]))
        sweep(after: .minutes(4))
        #expect(channel.isActive, "the peer has sent")
        sweep(after: .minutes(6))
        #expect(!channel.isActive)
        sweep(after: .minutes(1))
        #expect(try lab.report().peers.isEmpty)
        lab.read([Lab.packet(2)])
        #expect(lab.tunnel.attempts.count == 2)
    }

    @Test
    func aStopEndsAll() throws {
        let lab = try LinkFixture()
        let channel = try lab.accept()
        lab.read([Lab.packet(1, to: 3)])
        lab.homes.handle(0)?.run { $0.stop() }
        lab.turn()
        #expect(!channel.isActive)
        // What comes late is closed.
        #expect(try !lab.open().isActive)
        lab.read([Lab.packet(2)])
        #expect(try lab.report().waitingBytes == 0)
    }
}
