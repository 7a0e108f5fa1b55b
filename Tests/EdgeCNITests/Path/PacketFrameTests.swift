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
        var rest = self.stream
        let decoder = NIOSingleStepByteToMessageProcessor(PacketFrameDecoder())
        var frames: [PacketFrame] = []
        while rest.readableBytes > 0 {
            guard let piece = rest.readSlice(length: min(step, rest.readableBytes)) else { break }
            try decoder.process(buffer: piece) { frames.append($0) }
        }
        #expect(frames.map { Array($0.packet.readableBytesView) } == Self.packets.map(\.0))
        #expect(frames.map(\.offload) == Self.packets.map(\.1))
        #expect(decoder.unprocessedBytes == 0)
    }

    @Test(arguments: [[0, 19, 0, 0, 0], [0, 20, 0, 0, 2], [0, 0, 0, 0, 0]] as [[UInt8]])
    func otherProtocolsAreTold(bytes: [UInt8]) {
        let decoder = NIOSingleStepByteToMessageProcessor(PacketFrameDecoder())
        #expect(throws: PacketError(.frame)) {
            try decoder.process(buffer: ByteBuffer(bytes: bytes)) { _ in Issue.record("a frame") }
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
