import MeshCore
import Testing

@testable import PacketWire

@Suite
struct IPPacketTests {
    private typealias Sample = SamplePackets

    @Test
    func sumsAreThoseOfTheStandards() {
        // RFC 1071 section 3; the sum of its bytes is ddf2.
        var bytes: [UInt8] = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]
        var sum = InternetChecksum()
        bytes.withUnsafeBytes { sum.add($0) }
        #expect(sum.folded == 0xDDF2)
        // RFC 1624 section 4.
        #expect(InternetChecksum.updated(0xDD2F, from: 0x5555, to: 0x3285) == 0x0000)
        // Odd, and longer than a word at a time.
        bytes = (0..<1499).map { UInt8(truncatingIfNeeded: $0 * 7) }
        sum = InternetChecksum()
        bytes.withUnsafeBytes { sum.add($0) }
        #expect(sum.folded == Sample.sum(bytes))
    }

    @Test
    func headerOfVersion4IsRead() throws {
        // A datagram from 192.168.0.1 to 192.168.0.199, whose header checksum is b861.
        let header: [UInt8] = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xB8, 0x61, 0xC0, 0xA8, 0x00, 0x01, 0xC0, 0xA8,
            0x00, 0xC7,
        ]
        let packet = try Sample.parse(header + [UInt8](repeating: 0, count: 0x73 - 20))
        #expect(packet.source == IPAddress("192.168.0.1"))
        #expect(packet.destination == IPAddress("192.168.0.199"))
        #expect(packet.length == 0x73)
        #expect(packet.payloadOffset == 20)
        #expect(packet.protocolNumber == 17)
        #expect(packet.hopLimit == 64)
        #expect(packet.fragment == nil)
        #expect(!packet.isFragmentable)
    }

    @Test(
        arguments: [
            (0x2000, 0, false), (0x2000 | 185, 1480, false), (370, 2960, true),
        ] as [(UInt16, Int, Bool)]
    )
    func partsOfVersion4AreRecognised(flags: UInt16, offset: Int, isLast: Bool) throws {
        let packet = try Sample.parse(Sample.version4(flags: flags, payload: [UInt8](repeating: 1, count: 80)))
        let fragment = try #require(packet.fragment)
        #expect(fragment.offset == offset)
        #expect(fragment.isLast == isLast)
        #expect(fragment.identification == 0x1234)
        #expect(packet.hasUpperLayerHeader == (offset == 0))
    }

    @Test
    func extensionHeadersOfVersion6AreWalked() throws {
        // Hop by hop, destination options of 16 bytes, a part of a larger packet, authentication; then UDP.
        let chain: [UInt8] =
            [60, 0, 1, 4, 0, 0, 0, 0] + [44, 1] + [UInt8](repeating: 0, count: 14)
            + [51, 0, 0, 1, 0xAA, 0xBB, 0xCC, 0xDD] + [17, 4] + [UInt8](repeating: 0, count: 22)
        let packet = try Sample.parse(Sample.version6(next: 0, payload: chain + [0, 1, 0, 2, 0, 8, 0, 0]))
        #expect(packet.protocolNumber == 17)
        #expect(packet.payloadOffset == 40 + chain.count)
        #expect(packet.fragment == .init(offset: 0, isLast: false, identification: 0xAABB_CCDD))
        #expect(packet.hasUpperLayerHeader)
        #expect(packet.source == Sample.source6)
        #expect(packet.destination == Sample.target6)

        // Behind a later part nothing is a header, whatever it looks like.
        let later = try Sample.parse(Sample.version6(next: 44, payload: [0, 0, 0x05, 0xA8, 0, 0, 0, 1] + [9, 9]))
        #expect(later.fragment?.offset == 0x05A8)
        #expect(later.protocolNumber == 0)
        #expect(later.payloadOffset == 48)
        #expect(!later.hasUpperLayerHeader)
    }

    @Test(arguments: [
        ([], PacketError.Code.truncated),
        ([0x50] + [UInt8](repeating: 0, count: 40), .version),
        ([UInt8](SamplePackets.version4(payload: [1, 2, 3]).prefix(19)), .truncated),
        ([UInt8](SamplePackets.version4(payload: [1, 2, 3]).dropLast()), .truncated),
        (SamplePackets.version4(payload: [1, 2, 3]) + [0], .length),
        (SamplePackets.version4(hopLimit: 1, payload: []).enumerated().map { $0 == 8 ? 2 : $1 }, .checksum),
        ([0x44] + SamplePackets.version4(payload: []).dropFirst(), .length),
        ([0x46] + SamplePackets.version4(payload: []).dropFirst(), .length),
        (SamplePackets.version4(options: [131, 7, 4, 1, 2, 3, 4, 0], payload: []), .sourceRoute),
        (SamplePackets.version4(options: [1, 1, 1, 137], payload: []), .sourceRoute),
        (SamplePackets.version4(options: [7, 9, 4, 0], payload: []), .length),
        (SamplePackets.version4(options: [7, 1, 4, 0], payload: []), .length),
        (SamplePackets.version4(options: [1, 1, 1, 7], payload: []), .length),
        // A part that ends behind the longest packet.
        (SamplePackets.version4(flags: 0x1FFF, payload: [UInt8](repeating: 0, count: 9)), .length),
        (
            SamplePackets.version6(next: 44, payload: [17, 0, 0xFF, 0xF8, 0, 0, 0, 1] + [1, 2, 3, 4, 5, 6, 7, 8]),
            .length
        ),
        ([UInt8](SamplePackets.version6(payload: [1, 2]).prefix(39)), .truncated),
        (SamplePackets.version6(payload: [1, 2]) + [3], .length),
        (SamplePackets.version6(next: 0, payload: [17, 0, 0, 0]), .truncated),
        (SamplePackets.version6(next: 60, payload: [17, 9, 0, 0, 0, 0, 0, 0]), .truncated),
        (SamplePackets.version6(next: 43, payload: [17, 0, 0, 1, 0, 0, 0, 0]), .sourceRoute),
        (
            SamplePackets.version6(next: 60, payload: (0..<9).flatMap { _ in [60, 0, 0, 0, 0, 0, 0, 0] as [UInt8] }),
            .extensionHeaders
        ),
    ])
    func whatIsNoPacketIsRefused(bytes: [UInt8], code: PacketError.Code) {
        #expect(throws: PacketError(code)) { try SamplePackets.parse(bytes) }
    }

    @Test
    func lengthsInStreamsAreTold() throws {
        let packet4 = Sample.version4(payload: [1, 2, 3])
        let packet6 = Sample.version6(payload: [1, 2, 3, 4])
        for (packet, enough) in [(packet4, 4), (packet6, 6)] {
            for count in 0...packet.count {
                let length = try packet.prefix(count).withUnsafeBytes { try IPPacket.length(announcedBy: $0) }
                #expect(length == (count < enough ? nil : packet.count))
            }
        }
        #expect(throws: PacketError(.version)) {
            try [0x10, 0, 0].withUnsafeBytes { try IPPacket.length(announcedBy: $0) }
        }
        let short: [UInt8] = [0x45, 0, 0, 19]
        #expect(throws: PacketError(.length)) { try short.withUnsafeBytes { try IPPacket.length(announcedBy: $0) } }
    }

    @Test
    func hopsAreCounted() throws {
        for bytes in [Sample.version4(payload: [9]), Sample.version6(payload: [9])] {
            var bytes = bytes
            for left in stride(from: 63 as UInt8, through: 1, by: -1) {
                let (edited, isLeft) = try Sample.editing(bytes) { $0.decrementHopLimit(in: $1) }
                #expect(isLeft)
                // For version 4 this also checks the sum.
                #expect(try Sample.parse(edited).hopLimit == left)
                bytes = edited
            }
            let (edited, isLeft) = try Sample.editing(bytes) { $0.decrementHopLimit(in: $1) }
            #expect(!isLeft)
            #expect(edited == bytes)
        }
    }

    /// Of the two bits of ECN, not those beside them; senders that do not know them are left alone.
    @Test(arguments: 0...3 as ClosedRange<UInt8>)
    func congestionIsTold(before: UInt8) throws {
        var version4 = Sample.version4(payload: Sample.udp(payload: [1]))
        version4[1] = 0xB8 | before
        version4.replaceSubrange(10..<12, with: [0, 0])
        version4.replaceSubrange(10..<12, with: Sample.word(~Sample.sum(Array(version4[..<20]))))
        var version6 = Sample.version6(payload: Sample.udp(payload: [1], and: Sample.target6))
        version6[1] = 0x8F | before << 4
        for (bytes, offset, shift) in [(version4, 1, 0 as UInt8), (version6, 1, 4)] {
            var edited = bytes
            let isMarked = edited.withUnsafeMutableBytes { IPPacket.markCongestion(in: $0) }
            #expect(isMarked == (before != 0))
            // For version 4 this also checks the sum.
            _ = try Sample.parse(edited)
            #expect(edited[offset] == bytes[offset] | (isMarked ? 3 << shift : 0))
        }
    }

    @Test(arguments: [
        [2, 4, 0x05, 0xB4], [1, 1, 4, 2, 2, 4, 0x05, 0xB4], [1, 2, 4, 0x05, 0xB4, 1, 1, 0],
        [3, 3, 7, 2, 4, 0xFF, 0xFF, 0],
    ])
    func segmentSizesAreLowered(options: [UInt8]) throws {
        let bytes = Sample.version4(number: 6, payload: Sample.tcp(flags: 0x02, options: options))
        #expect(try Sample.isSound(bytes))
        let (edited, isChanged) = try Sample.editing(bytes) { $0.clampSegmentSize(in: $1, to: 1310) }
        #expect(isChanged)
        #expect(try Sample.isSound(edited))
        #expect(edited != bytes)
        #expect(edited[40...].firstRange(of: [2, 4, 0x05, 0x1E]) != nil)
        // A second time there is nothing left to lower.
        #expect(try !Sample.editing(edited) { $0.clampSegmentSize(in: $1, to: 1310) }.1)

        let six = Sample.version6(
            next: 6,
            payload: Sample.tcp(flags: 0x12, options: options, between: Sample.source6, and: Sample.target6)
        )
        let (edited6, isChanged6) = try Sample.editing(six) { $0.clampSegmentSize(in: $1, to: 1310) }
        #expect(isChanged6)
        #expect(try Sample.isSound(edited6))
    }

    @Test
    func partialSumsDoNotCoverSegmentSizes() throws {
        let segment = Sample.tcp(flags: 0x02, options: [2, 4, 0x05, 0xB4], isPartial: true)
        let bytes = Sample.version4(number: 6, payload: segment)
        let (edited, isChanged) = try Sample.editing(bytes) {
            $0.clampSegmentSize(in: $1, to: 1310, isChecksumPartial: true)
        }
        #expect(isChanged)
        #expect(edited[36..<38] == bytes[36..<38])
    }

    @Test(arguments: [
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x10, options: [2, 4, 0x05, 0xB4])),
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x02, options: [2, 4, 0x01, 0x00])),
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x02, options: [0, 2, 4, 0xFF])),
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x02, options: [2, 0, 0xFF, 0xFF])),
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x02, options: [1, 1, 2, 4])),
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x02, options: [1, 1, 1, 2])),
        SamplePackets.version4(number: 6, payload: SamplePackets.tcp(flags: 0x02).dropLast()),
        SamplePackets.version4(number: 17, payload: SamplePackets.tcp(flags: 0x02, options: [2, 4, 0x05, 0xB4])),
        SamplePackets.version4(number: 6, flags: 185, payload: SamplePackets.tcp(flags: 0x02, options: [2, 4, 9, 9])),
    ])
    func otherPacketsAreLeftAlone(bytes: [UInt8]) throws {
        let (edited, isChanged) = try Sample.editing(bytes) { $0.clampSegmentSize(in: $1, to: 1310) }
        #expect(!isChanged)
        #expect(edited == bytes)
    }

    @Test
    func flowsAreTold() throws {
        func hash(_ bytes: [UInt8]) throws -> UInt32 {
            let packet = try Sample.parse(bytes)
            return bytes.withUnsafeBytes { packet.flowHash(in: $0) }
        }
        let first = Sample.version4(payload: Sample.udp(payload: [1]))
        #expect(try hash(first) == hash(Sample.version4(hopLimit: 3, payload: Sample.udp(payload: [2, 3]))))
        var other = Sample.udp(payload: [1])
        other[1] &+= 1
        #expect(try hash(first) != hash(Sample.version4(payload: other)))
        // The parts of one packet keep together, although one of them alone has ports.
        let parts = [
            Sample.version4(flags: 0x2000, payload: [UInt8](repeating: 1, count: 16)),
            Sample.version4(flags: 2, payload: [UInt8](repeating: 2, count: 16)),
        ]
        #expect(try hash(parts[0]) == hash(parts[1]))
    }
}
