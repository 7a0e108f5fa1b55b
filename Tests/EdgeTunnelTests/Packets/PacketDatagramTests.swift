import LibP2P
import MeshCore
import MeshInterfaces
import MeshTesting
import NIOCore
import PacketDatagrams
import PacketWire
import Testing

@testable import EdgeTunnel

extension FlowSocketTests {
    /// Packets by datagrams beside a channel, over sockets of loopback.
    @Suite(.serialized)
    struct PacketDatagramTests {
        /// Waits until the near side has a way, and packets go by it.
        private static func opened(_ fixture: PacketFixture) async throws -> (PacketChannel, ReadLog, PacketChannel) {
            let channel = try await fixture.open()
            let log = try await channel.channel.record()
            try await eventually("it is taken") { fixture.taken.all.count == 1 }
            let (accepted, _) = try #require(fixture.taken.all.first)
            for end in [channel, accepted] {
                try await eventually("there is a way") { try await end.channel.packetWay().maximumPacket == 1440 }
            }
            return (channel, log, accepted)
        }

        @Test("packets go by datagrams both ways, and come as frames")
        func bothWays() async throws {
            try await PacketFixture.with(datagrams: (true, true)) { fixture in
                let (channel, log, accepted) = try await Self.opened(fixture)
                let sent = (0..<100).map { SampleFrame.frame(payload: 20 + $0 * 13, number: UInt8($0)) }
                for (end, seen) in [(channel, fixture.taken.all[0].log), (accepted, log)] {
                    var all = ByteBuffer()
                    for frame in sent { all.writeImmutableBuffer(frame) }
                    let before = try await end.channel.packetWay().counters.sent
                    try await end.channel.writeAndFlush(all).get()
                    // Those of loopback are not lost, nor do they overtake each other.
                    try await eventually("all are there") { seen.bytes == Array(all.readableBytesView) }
                    #expect(try await end.channel.packetWay().counters.sent == before + 100)
                }
                #expect(fixture.ways.near.port.counters.dropped == 0)
                try await channel.channel.close()
                accepted.channel.close(promise: nil)
                try await eventually("no index is left") {
                    fixture.ways.near.port.indices + fixture.ways.far.port.indices == 0
                }
            }
        }

        @Test("one that stands for several is cut, and one that is too long goes by the stream")
        func cutting() async throws {
            try await PacketFixture.with(datagrams: (true, true)) { fixture in
                let (channel, _, _) = try await Self.opened(fixture)
                let log = fixture.taken.all[0].log
                let large = SampleFrame.frame(payload: 10_000, number: 1, segmentSize: 1400)
                try await channel.channel.writeAndFlush(large).get()
                // 40 bytes of headers, five of the frame's.
                let lengths = [1400, 1400, 1400, 1400, 1400, 1400, 1400, 200].map { $0 + 45 }
                try await eventually("the segments are there") { log.bytes.count == lengths.reduce(0, +) }
                var frames: [Int] = []
                log.bytes.withUnsafeBytes { bytes in
                    PacketFrameCutter.forEachFrame(in: bytes) { frame, packet, offload in
                        frames.append(frame.count)
                        #expect(offload == .none && (try? IPPacket(parsing: packet)) != nil)
                    }
                }
                #expect(frames == lengths)
                #expect(try await channel.channel.packetWay().counters.sent == 8)
                // TCP's own size does not count: the way has another one.
                try await channel.channel.writeAndFlush(SampleFrame.frame(payload: 2920, number: 1, segmentSize: 1460))
                    .get()
                try await eventually("three came of two") {
                    log.bytes.count == (lengths + [1445, 1445, 165]).reduce(0, +)
                }
                #expect(try await channel.channel.packetWay().counters.sent == 11)
                let tooLong = SampleFrame.frame(payload: 1460, number: 2)
                try await channel.channel.writeAndFlush(tooLong).get()
                try await eventually("it came by the stream, as it was") {
                    Array(log.bytes.suffix(tooLong.readableBytes)) == Array(tooLong.readableBytesView)
                }
                #expect(try await channel.channel.packetWay().counters.sent == 11)
            }
        }

        @Test("a packet may be a write of its own, behind its header", arguments: [true, false])
        func packetsByThemselves(isNear: Bool) async throws {
            var configuration = DatagramLink.Configuration()
            configuration.nearRoundTrip = isNear ? .seconds(60) : nil
            try await PacketFixture.with(datagrams: (true, true), configuration: configuration) { fixture in
                let (channel, _, _) = try await Self.opened(fixture)
                let log = fixture.taken.all[0].log
                // One that fits into a datagram and one that does not; both could be taken for frames themselves.
                var sent: [UInt8] = []
                for length in [100, 5000] {
                    let frame = SampleFrame.frame(payload: length, number: 0)
                    // Before the one that takes the stream there is none: it might be overtaken.
                    var first = length == 100 ? SampleFrame.frame(payload: 20, number: 7) : ByteBuffer()
                    first.writeBytes(frame.readableBytesView.prefix(PacketFrameCutter.headerLength))
                    sent += Array(first.readableBytesView) + frame.readableBytesView.dropFirst(5)
                    channel.channel.writeAndFlush(first, promise: nil)
                    let packet = ByteBuffer(bytes: frame.readableBytesView.dropFirst(PacketFrameCutter.headerLength))
                    try await channel.channel.writeAndFlush(packet).get()
                    let count = sent.count
                    try await eventually("both are there") { log.count == count }
                }
                #expect(log.bytes == sent)
                #expect(try await channel.channel.packetWay().counters.sent == (isNear ? 0 : 2))
                // What is none of both is for the stream, and so is all that follows.
                try await channel.channel.writeAndFlush(ByteBuffer(bytes: [1, 2, 3])).get()
                let frame = SampleFrame.frame(payload: 20, number: 8)
                try await channel.channel.writeAndFlush(frame).get()
                #expect(try await channel.channel.packetWay().counters.sent == (isNear ? 0 : 2))
            }
        }

        @Test("a reader that an error has ended is made anew, and the port was kept")
        func lostReader() async throws {
            try await PacketFixture.with(datagrams: (true, true)) { fixture in
                let (channel, _, _) = try await Self.opened(fixture)
                let port = fixture.ways.near.port
                let (before, readers) = (port.ports, port.readers)
                for reader in readers.values { try await reader.close() }
                try await eventually("they are back") {
                    port.readers.count == readers.count && port.readers.allSatisfy { $1 !== readers[$0] }
                }
                #expect(port.ports == before)
                let frame = SampleFrame.frame(payload: 100, number: 1)
                try await eventually("packets go by it") {
                    channel.channel.writeAndFlush(frame, promise: nil)
                    return fixture.ways.far.port.counters.received > 0
                        && !fixture.taken.all[0].log.reads.isEmpty
                }
            }
        }

        @Test("keys are renewed again and again, and no packet is lost or comes twice")
        func renewal() async throws {
            var configuration = DatagramLink.Configuration()
            configuration.rekeyCount = 20
            try await PacketFixture.with(datagrams: (true, true), configuration: configuration) { fixture in
                let (channel, _, _) = try await Self.opened(fixture)
                let log = fixture.taken.all[0].log
                var sent = ByteBuffer()
                var agreements: UInt64 = 0
                // One at a time: none is in the way of another, so that all that are sent have to come.
                while agreements < 4 {
                    let frame = SampleFrame.frame(payload: 60, number: UInt8(truncatingIfNeeded: sent.writerIndex))
                    sent.writeImmutableBuffer(frame)
                    try await channel.channel.writeAndFlush(frame).get()
                    let count = sent.readableBytes
                    try await eventually("it is there") { log.count == count }
                    agreements = try await channel.channel.packetWay().counters.agreements
                }
                #expect(log.bytes == Array(sent.readableBytesView))
                try await eventually("old keys are given up") { fixture.ways.near.port.indices <= 3 }
            }
        }

        @Test("of agents that are near packets go by the stream, of others by datagrams", arguments: [true, false])
        func nearness(isNear: Bool) async throws {
            var configuration = DatagramLink.Configuration()
            // However slow the machine is.
            configuration.nearRoundTrip = isNear ? .seconds(60) : .zero
            try await PacketFixture.with(datagrams: (true, true), configuration: configuration) { fixture in
                let (channel, _, _) = try await Self.opened(fixture)
                let peer = fixture.far.peerID
                try await eventually("the status says so") {
                    fixture.ways.near.ways[peer].map { $0.reason == (isNear ? .near : nil) } ?? false
                }
                let frame = SampleFrame.frame(payload: 100, number: 1)
                try await channel.channel.writeAndFlush(frame).get()
                try await eventually("it is there") {
                    fixture.taken.all[0].log.bytes == Array(frame.readableBytesView)
                }
                #expect(try await channel.channel.packetWay().counters.sent == (isNear ? 0 : 1))
                try await channel.channel.close()
                #expect(fixture.ways.near.ways.isEmpty)
                #expect(fixture.ways.near.counters.sent == (isNear ? 0 : 1), "what was sent counts on")
            }
        }

        @Test("with a peer that does not know of datagrams the stream carries all", arguments: [true, false])
        func oneSided(isNear: Bool) async throws {
            try await PacketFixture.with(datagrams: (isNear, !isNear)) { fixture in
                let channel = try await fixture.open()
                let frame = SampleFrame.frame(payload: 100, number: 1)
                try await channel.channel.writeAndFlush(frame).get()
                try await eventually("it is there") {
                    fixture.taken.all.first?.log.bytes == Array(frame.readableBytesView)
                }
                let (accepted, _) = try #require(fixture.taken.all.first)
                let log = try await channel.channel.record()
                try await accepted.channel.writeAndFlush(frame).get()
                try await eventually("and back") { log.bytes == Array(frame.readableBytesView) }
                for ways in [fixture.ways.near, fixture.ways.far] { #expect(ways.port.counters.sent == 0) }
            }
        }
    }
}

extension ReadLog {
    var count: Int { self.reads.reduce(0) { $0 + $1.readableBytes } }
    var bytes: [UInt8] { self.reads.flatMap { Array($0.readableBytesView) } }
}

extension Channel {
    fileprivate func packetWay() async throws -> PacketWay {
        try await self.eventLoop.submit {
            try self.pipeline.syncOperations.handler(type: PacketDatagramHandler.self).way
        }.get()
    }
}

/// Frames of TCP over IPv4.
enum SampleFrame {
    static func frame(payload: Int, number: UInt8, segmentSize: UInt16 = 0) -> ByteBuffer {
        let length = UInt16(40 + payload)
        var header: [UInt8] = [0x45, 0, UInt8(length >> 8), UInt8(length & 0xFF), 0, number, 0, 0, 64, 6, 0, 0]
        header += [10, 244, 0, 1, 10, 244, 1, 1]
        let sum = stride(from: 0, to: 20, by: 2).reduce(UInt32(0)) {
            $0 + UInt32(header[$1]) << 8 + UInt32(header[$1 + 1])
        }
        let folded = ~UInt16(truncatingIfNeeded: (sum & 0xFFFF) + sum >> 16)
        (header[10], header[11]) = (UInt8(folded >> 8), UInt8(folded & 0xFF))
        var frame = ByteBuffer()
        frame.writeMultipleIntegers(length, segmentSize, UInt8(segmentSize > 0 ? 1 : 0))
        frame.writeBytes(header)
        frame.writeBytes([0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0] as [UInt8])
        frame.writeRepeatingByte(number, count: payload)
        return frame
    }
}
