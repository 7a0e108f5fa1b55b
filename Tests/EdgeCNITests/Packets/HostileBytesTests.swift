import MeshCore
import PacketWire
import Testing

/// Packets with bytes that somebody changed: what is read of them may be anything, but nothing traps, and what is made of them are
/// packets.
@Suite
struct HostileBytesTests {
    private typealias Sample = SamplePackets

    private static let seeds: [[UInt8]] = [
        Sample.version4(number: 6, payload: Sample.tcp(flags: 2, options: [2, 4, 0x05, 0xB4, 1, 3, 3, 7])),
        Sample.version4(
            number: 6,
            options: [7, 4, 4, 0],
            payload: Sample.tcp(flags: 0x98, payload: [UInt8](repeating: 1, count: 300))
        ),
        Sample.version4(payload: Sample.udp(payload: [UInt8](repeating: 2, count: 200))),
        Sample.version4(number: 1, payload: [8, 0, 0, 0, 0, 0, 0, 0]),
        Sample.version6(next: 6, payload: Sample.tcp(flags: 2, options: [1, 2, 4, 0x05, 0xB4, 1, 1, 0])),
        Sample.version6(
            next: 0,
            payload: [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 9, 9, 9, 9]
                + [UInt8](repeating: 3, count: 90)
        ),
    ]

    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func nothingTraps(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var parsed = 0
        for round in 0..<5000 {
            var bytes = Self.seeds[round % Self.seeds.count]
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                // Most of what decides lies in the first bytes.
                let range = Bool.random(using: &generator) ? bytes.count : min(bytes.count, 64)
                bytes[.random(in: 0..<range, using: &generator)] = .random(in: .min ... .max, using: &generator)
            }
            if Int.random(in: 0..<8, using: &generator) == 0 {
                bytes.removeLast(.random(in: 1..<20, using: &generator))
            }
            Self.mendHeader(&bytes)
            if try Self.check(&bytes, segmentSize: .random(in: 0...100, using: &generator)) { parsed += 1 }
        }
        // Otherwise this tells nothing.
        #expect(parsed > 500, "seed \(seed)")
    }

    /// So that not every change is found out by the first sum.
    private static func mendHeader(_ bytes: inout [UInt8]) {
        guard bytes[0] >> 4 == 4 else { return }
        let length = Int(bytes[0] & 15) * 4
        guard length >= 20, length <= bytes.count else { return }
        bytes.replaceSubrange(10..<12, with: [0, 0])
        bytes.replaceSubrange(10..<12, with: Sample.word(~Sample.sum(bytes[..<length])))
    }

    /// - Returns: whether it is a packet.
    private static func check(_ bytes: inout [UInt8], segmentSize: UInt16) throws -> Bool {
        _ = try? bytes.withUnsafeBytes { try IPPacket.length(announcedBy: $0) }
        guard let packet = try? Sample.parse(bytes) else { return false }
        #expect(packet.length == bytes.count)
        #expect(packet.payloadOffset <= bytes.count)
        for error in [ICMPError.tooBig(mtu: 1280), .unreachable] {
            guard let answer = bytes.withUnsafeBytes({ error.answer(to: packet, $0, from: packet.destination) }) else {
                continue
            }
            #expect(try Sample.parse(answer).destination == packet.source)
        }
        for size in [0, segmentSize] {
            let offload = PacketOffload(isChecksumPartial: true, segmentSize: size)
            try Self.checkSegments(offload, of: packet, bytes)
        }
        try bytes.withUnsafeMutableBytes {
            packet.clampSegmentSize(in: $0, to: 600)
            let hasHops = packet.decrementHopLimit(in: $0)
            let again = try IPPacket(parsing: UnsafeRawBufferPointer($0))
            #expect(again.hopLimit == (hasHops ? packet.hopLimit - 1 : packet.hopLimit))
            #expect(again.destination == packet.destination)
        }
        return true
    }

    private static func checkSegments(_ offload: PacketOffload, of packet: IPPacket, _ bytes: [UInt8]) throws {
        try bytes.withUnsafeBytes { bytes in
            guard let segments = try? PacketSegments(offload, of: packet, bytes) else { return }
            let header = try VirtioNetHeader(offload, of: packet, bytes)
            #expect(try header.offload(of: packet, bytes) == offload)
            var room = [UInt8](repeating: 0, count: segments.maximumLength)
            for index in 0..<segments.count {
                let length = room.withUnsafeMutableBytes { segments.write(index, of: bytes, to: $0) }
                #expect(try Sample.isSound(Array(room[..<length])))
            }
        }
    }
}
