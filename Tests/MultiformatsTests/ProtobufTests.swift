import MeshCore
import NIOCore
import Testing

@testable import Multiformats

@Suite struct ProtobufTests {
    private func fields(_ bytes: [UInt8]) throws(MultiformatsError) -> [ProtobufReader.Field] {
        var reader = ProtobufReader(bytes)
        var fields: [ProtobufReader.Field] = []
        while let field = try reader.next() { fields.append(field) }
        return fields
    }

    /// The examples of protobuf.dev, encoding.
    @Test func theExamplesOfTheSpecification() throws {
        #expect(try self.fields(hex("089601"))[0].uint64() == 150)
        #expect(try self.fields(hex("120774657374696e67"))[0].text() == "testing")
        var outer = try self.fields(hex("1a03089601"))[0].message()
        #expect(try outer.next()?.uint64() == 150)
        #expect(try outer.next() == nil)
        #expect(try self.fields(hex("08feffffffffffffffff01"))[0].int64() == -2)
        #expect(try self.fields(hex("0d01000000 1102000000 00000000")).map(\.value) == [.fixed32(1), .fixed64(2)])
    }

    /// The tunnel handshake of v1.17 (without its length): defaults are on the wire.
    @Test func writesTheOriginalsHandshake() throws {
        var writer = ProtobufWriter()
        writer.write(varint: 0, to: 1)
        writer.write(text: "tcp", to: 2)
        writer.write(text: "ke-edge1", to: 3)
        writer.write(text: "10.244.1.2", to: 4)
        writer.write(int64: 9376, to: 5)
        #expect(writer.bytes == hex("0800 1203746370 1a086b652d6564676531 220a31302e3234342e312e32 28a049"))
    }

    @Test func everythingReadsBack() throws {
        var writer = ProtobufWriter()
        writer.write(varint: .max, to: 1)
        writer.write(int64: -1, to: 2)
        writer.write(bool: true, to: 3)
        writer.write(bytes: [1, 2, 3], to: 4)
        writer.write(buffer: ByteBuffer(bytes: [4, 5]), to: 536_870_911)
        writer.write(messageTo: 6) { $0.write(text: "é", to: 1) }
        let fields = try self.fields(writer.bytes)
        #expect(fields.map(\.number) == [1, 2, 3, 4, 536_870_911, 6])
        #expect(try fields[0].uint64() == .max)
        #expect(try fields[1].int64() == -1)
        #expect(try fields[2].bool())
        #expect(try fields[3].bytes() == [1, 2, 3])
        #expect(try fields[4].buffer() == ByteBuffer(bytes: [4, 5]))
        var inner = try fields[5].message()
        #expect(try inner.next()?.text() == "é")
        // Every cut is refused or ends at a field's end.
        for count in 0..<writer.bytes.count {
            guard let part = try? self.fields(Array(writer.bytes.prefix(count))) else { continue }
            #expect(part == Array(fields.prefix(part.count)))
        }
    }

    /// Forms that are not the shortest are legal in protobuf.
    @Test func longVarintsAreRead() throws {
        #expect(try self.fields(hex("08 8000"))[0].uint64() == 0)
        #expect(try self.fields(hex("08 ffffffffffffffffff01"))[0].uint64() == .max)
    }

    @Test(arguments: [
        ("00", MultiformatsError.Code.malformed), ("0001", .malformed), ("0b", .unsupported), ("0c", .unsupported),
        ("0e", .unsupported),
        ("0f", .unsupported), ("08", .truncated), ("0880", .truncated), ("08ffffffffffffffffff02", .malformed),
        ("08ffffffffffffffffffff01", .malformed), ("0a", .truncated), ("0a01", .truncated),
        ("0affffffffffffffffff01", .truncated),
        ("0affffffff07", .truncated), ("0d000000", .truncated), ("0900000000000000", .truncated),
        ("80808080 1000", .malformed),
        ("ffffffffffffffffff01", .malformed),
    ])
    func refusesBadMessages(text: String, expected: MultiformatsError.Code) {
        #expect(code { () throws(MultiformatsError) in _ = try self.fields(hex(text)) } == expected)
    }

    @Test func refusesValuesOfOtherTypes() throws {
        let number = try self.fields(hex("0801"))[0]
        let bytes = try self.fields(hex("0a01ff"))[0]
        #expect(throws: MultiformatsError.self) { try number.bytes() }
        #expect(throws: MultiformatsError.self) { try number.message() }
        #expect(throws: MultiformatsError.self) { try bytes.uint64() }
        #expect(throws: MultiformatsError.self) { try bytes.bool() }
        #expect(throws: MultiformatsError.self) { try bytes.text() }
    }

    @Test(arguments: 1...4)
    func survivesNoise(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<3000 {
            let bytes = generator.bytes(0...40)
            guard let fields = try? self.fields(bytes) else { continue }
            for field in fields { _ = try? field.text() }
            #expect(fields.count <= bytes.count, "seed \(seed)")
        }
    }
}
