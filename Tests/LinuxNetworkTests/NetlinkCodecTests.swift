import MeshCore
import Testing

@testable import LinuxNetwork

@Suite("Netlink codec")
struct NetlinkCodecTests {
    private func sample() -> [UInt8] {
        var writer = NetlinkWriter()
        writer.begin(type: 20, flags: [.request, .ack], sequence: 7)
        writer.bytes([1, 2, 3, 4])
        writer.attribute(1, text: "edgemesh0")
        writer.nested(2) {
            $0.attribute(3, network: UInt32(0x0102_0304))
            $0.attribute(4, native: UInt16(5))
        }
        writer.end()
        return writer.bytes
    }

    @Test("what is written is read back")
    func roundTrip() throws {
        let bytes = self.sample()
        #expect(bytes.count % 4 == 0)
        let message = try #require(NetlinkMessage.parse(bytes[...]).first)
        #expect(message.type == 20 && message.sequence == 7 && message.flags == 5)
        let attributes = try NetlinkAttributes(message.payload.dropFirst(4))
        #expect(attributes.text(1) == "edgemesh0")
        let nested = try #require(try attributes.nested(2))
        #expect(nested.network(3, UInt32.self) == 0x0102_0304)
        #expect(nested.native(4, UInt16.self) == 5)
        #expect(nested.native(4, UInt32.self) == nil, "too short for the type")
        #expect(nested[9] == nil)
    }

    @Test("a lying length is an error, not a trap")
    func lyingLengths() {
        var bytes = self.sample()
        bytes[0] = 255
        #expect(throws: LinuxNetworkError.self) { try NetlinkMessage.parse(bytes[...]) }
        #expect(throws: LinuxNetworkError.self) { try NetlinkAttributes([2, 0, 1, 0][...]) }
        #expect(throws: LinuxNetworkError.self) { try NetlinkAttributes([9, 0, 1, 0, 5][...]) }
        let short = NetlinkMessage(type: 2, flags: 0, sequence: 1, payload: [1, 2, 3][...])
        #expect(throws: LinuxNetworkError.self) { try short.acknowledgement() }
    }

    @Test("an attribute too long is an error, not a trap", arguments: [65_531, 65_532, 200_000])
    func longAttribute(length: Int) {
        var writer = NetlinkWriter()
        writer.begin(type: 20, flags: .request, sequence: 1)
        writer.attribute(1, [UInt8](repeating: 1, count: length))
        writer.end()
        if length + 4 <= 65_535 {
            #expect(throws: Never.self) { try writer.finished() }
        } else {
            #expect(throws: LinuxNetworkError.self) { try writer.finished() }
        }
    }

    @Test("mutated messages never trap", arguments: [1, 2, 3] as [UInt64])
    func fuzz(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let sample = self.sample()
        for _ in 0..<20_000 {
            var bytes = sample
            for _ in 0..<Int.random(in: 1...6, using: &generator) {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            bytes.removeLast(Int.random(in: 0..<bytes.count, using: &generator))
            guard let messages = try? NetlinkMessage.parse(bytes[...]) else { continue }
            for message in messages {
                _ = try? message.acknowledgement()
                guard let attributes = try? NetlinkAttributes(message.payload.dropFirst(4)) else { continue }
                for (type, _) in attributes.all {
                    _ = attributes.text(type)
                    _ = try? attributes.nested(type)
                    _ = attributes.network(type, UInt64.self)
                }
            }
        }
    }

    @Test("netmasks", arguments: [(0, 4, [0, 0, 0, 0]), (12, 4, [255, 240, 0, 0]), (32, 4, [255, 255, 255, 255])])
    func masks(bits: Int, bytes: Int, expected: [UInt8]) {
        #expect(prefixMask(bits, bytes: bytes) == expected)
    }
}
