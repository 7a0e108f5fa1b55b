import MeshCore
import NIOCore
import Testing

@testable import Multiformats

@Suite struct VarintTests {
    /// The examples of github.com/multiformats/unsigned-varint, and the largest value of nine bytes.
    @Test(arguments: [
        (UInt64(0), "00"), (1, "01"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001"),
        (UInt64(Int64.max), "ffffffffffffffff7f"),
    ])
    func readsAndWritesTheSpecifiedForms(value: UInt64, text: String) throws {
        var buffer = ByteBuffer()
        #expect(buffer.writeUnsignedVarint(value) == buffer.readableBytes)
        #expect(Array(buffer.readableBytesView) == hex(text))
        #expect(try buffer.readUnsignedVarint() == value)
        #expect(buffer.readableBytes == 0)
        var cursor = ByteCursor(hex(text))
        #expect(try cursor.readVarint() == value)
        var bytes: [UInt8] = []
        Varint.append(value, to: &bytes)
        #expect(bytes == hex(text))
    }

    @Test func waitsForTheRest() throws {
        for count in 0..<9 {
            var buffer = ByteBuffer(bytes: hex("ffffffffffffffff7f").prefix(count))
            #expect(try buffer.readUnsignedVarint() == nil)
            #expect(buffer.readableBytes == count)
            var cursor = ByteCursor(hex("ffffffffffffffff7f").prefix(count))
            #expect(code { () throws(MultiformatsError) in _ = try cursor.readVarint() } == .truncated)
        }
    }

    @Test(arguments: ["8000", "ff8000", "80808080808080808001", "ffffffffffffffffff01", "ffffffffffffffffff"])
    func refusesLongForms(text: String) {
        var buffer = ByteBuffer(bytes: hex(text))
        #expect(code { () throws(MultiformatsError) in _ = try buffer.readUnsignedVarint() } == .malformed)
        #expect(buffer.readableBytes == hex(text).count)
        var cursor = ByteCursor(hex(text))
        #expect(code { () throws(MultiformatsError) in _ = try cursor.readVarint() } == .malformed)
    }

    @Test(arguments: 1...4)
    func everyValueReadsBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            let value = generator.next() >> UInt64.random(in: 1...63, using: &generator)
            var buffer = ByteBuffer()
            buffer.writeUnsignedVarint(value)
            #expect(try buffer.readUnsignedVarint() == value, "seed \(seed)")
        }
    }

    @Test func framedMessages() throws {
        var buffer = ByteBuffer()
        buffer.writeVarintPrefixed(ByteBuffer(repeating: 7, count: 300))
        let whole = buffer
        for count in 0..<whole.readableBytes {
            var part = ByteBuffer(bytes: whole.readableBytesView.prefix(count))
            #expect(try part.readVarintPrefixed(maximumLength: 300) == nil)
            #expect(part.readableBytes == count)
        }
        #expect(try buffer.readVarintPrefixed(maximumLength: 300)?.readableBytes == 300)
        // Refused before the body is there.
        var head = ByteBuffer(bytes: whole.readableBytesView.prefix(2))
        #expect(
            code { () throws(MultiformatsError) in _ = try head.readVarintPrefixed(maximumLength: 299) } == .tooLong
        )
        #expect(head.readableBytes == 2)
    }
}
