import MeshCore
import MeshInterfaces
import NIOCore
import Testing

@testable import EdgeCNI
@testable import PacketWire

@Suite
struct FrameBatchTests {
    private typealias Sample = SamplePackets
    private static let partial = PacketOffload(isChecksumPartial: true)

    /// The datagram `number` of a flow, as a kernel hands it over that leaves checksums to others.
    private static func datagram(
        _ number: Int,
        size: Int = 40,
        family: IPFamily = .v4,
        flags: UInt16 = 0x4000,
        hopLimit: UInt8 = 64,
        port: UInt8 = 1
    ) -> [UInt8] {
        let (source, target) =
            family == .v4 ? (Sample.source4, Sample.target4) : (Sample.source6, Sample.target6)
        let content = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: size)
        var payload = Sample.udp(payload: content, between: source, and: target, isPartial: true)
        payload[1] = port
        return family == .v6
            ? Sample.version6(hopLimit: hopLimit, payload: payload)
            : Sample.version4(
                hopLimit: hopLimit,
                flags: flags,
                identification: 0xFFF0 &+ UInt16(number),
                payload: payload
            )
    }

    private static func batch(_ packets: [[UInt8]], _ offload: PacketOffload = partial) throws -> FrameBatch {
        var batch = FrameBatch()
        for bytes in packets {
            let packet = try Sample.parse(bytes)
            _ = bytes.withUnsafeBytes { batch.append(packet, $0, offload) }
        }
        return batch
    }

    /// How many frames there are, and the packets that they stand for, with all their checksums.
    private static func read(_ batch: FrameBatch) throws -> (frames: Int, packets: [[UInt8]]) {
        var stream = PacketStream(form: .framed)
        var frames: [([UInt8], PacketOffload)] = []
        try stream.take(batch.bytes) { frames.append((Array($0), $1)) }
        return (frames.count, try frames.flatMap { try Self.cut($0, $1) })
    }

    private static func cut(_ bytes: [UInt8], _ offload: PacketOffload) throws -> [[UInt8]] {
        let packet = try Sample.parse(bytes)
        return try bytes.withUnsafeBytes { bytes in
            // A device takes it, too.
            _ = try VirtioNetHeader(offload, of: packet, bytes)
            let segments = try PacketSegments(offload, of: packet, bytes)
            return (0..<segments.count).map { index in
                var room = [UInt8](repeating: 0, count: segments.maximumLength)
                let length = room.withUnsafeMutableBytes { segments.write(index, of: bytes, to: $0) }
                return Array(room[..<length])
            }
        }
    }

    private static func whole(_ packets: [[UInt8]]) throws -> [[UInt8]] {
        try packets.flatMap { try self.cut($0, self.partial) }
    }

    @Test(arguments: [IPFamily.v4, .v6], [1, 40, 1472])
    func datagramsOfAFlowAreOneFrame(family: IPFamily, size: Int) throws {
        let packets = (0..<40).map { Self.datagram($0, size: $0 == 39 ? 1 : size, family: family) }
        let (frames, read) = try Self.read(Self.batch(packets))
        #expect(frames == 1)
        #expect(read == (try Self.whole(packets)))
    }

    @Test
    func aFrameHasItsBounds() throws {
        let many = (0..<130).map { Self.datagram($0) }
        #expect(try Self.read(Self.batch(many)) == (3, Self.whole(many)))
        // 44 of 1,472 bytes are what fits into 65,535.
        let large = (0..<50).map { Self.datagram($0, size: 1472) }
        #expect(try Self.read(Self.batch(large)) == (2, Self.whole(large)))
        // Behind a shorter one there is nothing, and a longer one begins anew.
        let sizes = [40, 40, 30, 40, 50, 50, 50, 0, 50].enumerated().map { Self.datagram($0, size: $1) }
        #expect(try Self.read(Self.batch(sizes)) == (5, Self.whole(sizes)))
    }

    @Test(arguments: [
        [Self.datagram(0), Self.datagram(1, port: 2)], [Self.datagram(0), Self.datagram(1, hopLimit: 63)],
        [Self.datagram(0), Self.datagram(1, family: .v6)],
        // Numbers for parts that others may make of them have to differ.
        [Self.datagram(0, flags: 0), Self.datagram(1, flags: 0)],
        [Self.datagram(0), Self.datagram(1, flags: 0)],
        // The lengths in it contradict each other.
        [Self.datagram(0), Self.mislabelled], [Self.mislabelled, Self.datagram(0)],
    ])
    func whatDiffersStaysByItself(packets: [[UInt8]]) throws {
        let (frames, read) = try Self.read(Self.batch(packets))
        #expect(frames == 2)
        #expect(read == (try Self.whole(packets)))
    }

    private static var mislabelled: [UInt8] {
        var packet = self.datagram(1)
        packet[25] += 1
        return packet
    }

    /// Their sums were made by who sent them, and may be wrong on purpose.
    @Test
    func packetsWithChecksumsStayAsTheyAre() throws {
        let packets = (0..<3).map { Sample.version4(payload: Sample.udp(payload: [UInt8($0)])) }
        let (frames, read) = try Self.read(Self.batch(packets, .none))
        #expect(frames == 3)
        #expect(read == packets)
    }

    @Test
    func nothingJoinsAPacketThatIsEditedOrGoesByItself() throws {
        var batch = try Self.batch([Self.datagram(0)])
        let (packet, bytes) = (try Sample.parse(Self.datagram(1)), Self.datagram(1))
        let isJoined = bytes.withUnsafeBytes { batch.append(packet, $0, Self.partial) { $0[40] = 0xEE } }
        #expect(!isJoined)
        #expect(!bytes.withUnsafeBytes { batch.append(packet, $0, Self.partial) })
        #expect(bytes.withUnsafeBytes { batch.append(packet, $0, Self.partial) })
        #expect(try Self.read(batch).frames == 3)
        batch.appendHeader(of: bytes.count, Self.partial)
        batch.append(plain: UnsafeRawBufferPointer(start: nil, count: 0))
        #expect(!bytes.withUnsafeBytes { batch.append(packet, $0, Self.partial) })
        #expect(batch.take().readableBytes > 0)
        #expect(batch.isEmpty)
        #expect(!bytes.withUnsafeBytes { batch.append(packet, $0, Self.partial) })
    }
}
