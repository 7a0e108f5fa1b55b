import MeshInterfaces
import NIOCore
import PacketWire
import Testing

@testable import EdgeCNI

@Suite
struct PacketFrameTests {
    private static let packets: [([UInt8], PacketOffload)] = [
        (SamplePackets.version4(payload: []), .none),
        (SamplePackets.version6(payload: SamplePackets.tcp(flags: 0x10)), PacketOffload(isChecksumPartial: true)),
        (
            SamplePackets.version4(payload: [UInt8](repeating: 5, count: 65_515)),
            PacketOffload(isChecksumPartial: true, segmentSize: 1400)
        ),
        (SamplePackets.version6(payload: [1]), .none),
    ]

    private var stream: ByteBuffer {
        var stream = ByteBuffer()
        for (packet, offload) in Self.packets {
            packet.withUnsafeBytes { PacketFrame.write($0, offload, to: &stream) }
        }
        return stream
    }

    @Test(arguments: [1, 2, 4, 5, 6, 1000, 1_000_000])
    func framesComeHoweverTheStreamIsCut(step: Int) throws {
        let packets = try Self.cut(self.stream, .framed, step: step)
        #expect(packets.map(\.bytes) == Self.packets.map(\.0))
        #expect(packets.map(\.offload) == Self.packets.map(\.1))
    }

    @Test(arguments: [1, 3, 20, 21, 1_000_000])
    func packetsOfOriginalsFollowEachOther(step: Int) throws {
        let sent = [1, 1480, 20_000, 2].map { SamplePackets.version4(payload: [UInt8](repeating: 9, count: $0)) }
        let packets = try Self.cut(ByteBuffer(bytes: sent.flatMap(\.self)), .original, step: step)
        #expect(packets.map(\.bytes) == sent)
        #expect(packets.allSatisfy { $0.offload == .none })
    }

    @Test(arguments: [SamplePackets.version6(payload: [1]), [0x45, 0, 0, 19], [0x00]] as [[UInt8]])
    func whatOriginalsDoNotSendIsRefused(bytes: [UInt8]) {
        #expect(throws: PacketError.self) {
            _ = try Self.cut(ByteBuffer(bytes: bytes), .original, step: 100)
        }
    }

    /// The packets that a stream gives which comes in pieces.
    private static func cut(
        _ bytes: ByteBuffer,
        _ form: PacketChannel.Form,
        step: Int
    ) throws -> [(bytes: [UInt8], offload: PacketOffload)] {
        var rest = bytes
        var stream = PacketStream(form: form)
        var packets: [(bytes: [UInt8], offload: PacketOffload)] = []
        while let piece = rest.readSlice(length: min(step, rest.readableBytes)), piece.readableBytes > 0 {
            try stream.take(piece) { packets.append((Array($0), $1)) }
        }
        return packets
    }

    @Test(arguments: [[0, 19, 0, 0, 0], [0, 20, 0, 0, 2], [0, 0, 0, 0, 0]] as [[UInt8]])
    func otherProtocolsAreTold(bytes: [UInt8]) {
        #expect(throws: PacketError(.frame)) {
            _ = try Self.cut(ByteBuffer(bytes: bytes), .framed, step: 100)
        }
    }

    @Test
    func theWireIsAsDocumented() {
        var stream = ByteBuffer()
        let packet = SamplePackets.version4(payload: [])
        packet.withUnsafeBytes {
            PacketFrame.write($0, PacketOffload(isChecksumPartial: true, segmentSize: 0x0102), to: &stream)
        }
        #expect(Array(stream.readableBytesView) == [0, 20, 1, 2, 1] + packet)
    }
}
