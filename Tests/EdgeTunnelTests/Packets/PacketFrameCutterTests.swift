import MeshCore
import NIOCore
import PacketWire
import Testing

@testable import EdgeTunnel

@Suite struct PacketFrameCutterTests {
    @Test(
        "frames come whole and messages by themselves, however the bytes come",
        arguments: [1, 2, 3, 7, 100, 5000, 100_000]
    )
    func pieces(step: Int) throws {
        var stream = ByteBuffer()
        var (frames, messages): ([UInt8], [String]) = ([], [])
        for number in 0..<40 {
            if number % 3 == 1 {
                let text = String(repeating: "m", count: number * 30)
                messages.append(text)
                stream.writeImmutableBuffer(try #require(PacketFrameCutter.frame(message: ByteBuffer(string: text))))
            } else {
                let frame = SampleFrame.frame(payload: number * 40, number: UInt8(number))
                frames += Array(frame.readableBytesView)
                stream.writeImmutableBuffer(frame)
            }
        }
        var cutter = PacketFrameCutter()
        var (seen, said): ([UInt8], [String]) = ([], [])
        while let bytes = stream.readSlice(length: min(step, stream.readableBytes)), bytes.readableBytes > 0 {
            for piece in cutter.take(bytes) {
                switch piece {
                case .frames(let bytes):
                    #expect(bytes.withUnsafeReadableBytes { PacketFrameCutter.write(of: $0) } == .whole)
                    seen += Array(bytes.readableBytesView)
                case .message(let bytes): said.append(String(buffer: bytes))
                }
            }
        }
        #expect(seen == frames && said == messages)
    }

    @Test("a write is whole frames, or ends with the header of one, or nobody knows what it is")
    func writes() {
        let frame = Array(SampleFrame.frame(payload: 100, number: 1).readableBytesView)
        func write(_ bytes: [UInt8]) -> PacketFrameCutter.Write {
            bytes.withUnsafeBytes { PacketFrameCutter.write(of: $0) }
        }
        func count(_ bytes: [UInt8]) -> Int {
            var count = 0
            bytes.withUnsafeBytes { PacketFrameCutter.forEachFrame(in: $0) { _, _, _ in count += 1 } }
            return count
        }
        #expect(write(frame + frame) == .whole && write([]) == .whole)
        #expect(count(frame + frame) == 2 && count([]) == 0)
        let head = PacketFrameCutter.Head(length: 140, offload: .none)
        #expect(write(Array(frame.prefix(5))) == .headed(head) && write(frame + frame.prefix(5)) == .headed(head))
        #expect(count(frame + frame.prefix(5)) == 1)
        for bytes in [Array(frame.dropLast()), frame + [0], [0, 1, 0, 0], [0, 100, 0, 0, 2] + frame] {
            #expect(write(bytes) == .unknown, "\(bytes.count)")
        }
    }

    @Test("datagrams are joined as the kernel cuts them")
    func batches() throws {
        let (one, two) = (TransportAddress(.v4(.loopback), 1), TransportAddress(.v4(.loopback), 2))
        var batches = DatagramBatches()
        let sent: [(Int, TransportAddress)] = [
            (100, one), (100, one), (60, one), (60, one), (61, one), (61, two), (61, two), (50, two),
        ]
        for (length, target) in sent {
            let isWritten = batches.append(length: length, to: target) { buffer in
                buffer.writeRepeatingByte(1, count: length)
                return true
            }
            #expect(isWritten)
        }
        let refused = batches.append(length: 50, to: two) { _ in false }
        let done = batches.finish()
        #expect(
            !refused && done.map(\.segmentSize) == [100, 60, 61, 61] && done.map(\.target) == [one, one, one, two]
        )
        #expect(done.map(\.bytes.readableBytes) == [260, 60, 61, 172])
        for _ in 0..<130 {
            _ = batches.append(length: 1000, to: one) { buffer in buffer.writeRepeatingByte(1, count: 1000) > 0 }
        }
        // 64 of them at most, and 65,000 bytes.
        #expect(batches.finish().map(\.bytes.readableBytes) == [64_000, 64_000, 2000])
    }
}
