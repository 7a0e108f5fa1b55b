import MeshCore
import PacketWire

/// Packets made byte by byte, with sums that are computed apart from the code under test.
enum SamplePackets {
    static let source4 = IPAddress.v4(IPv4Address(10, 244, 1, 5))
    static let target4 = IPAddress.v4(IPv4Address(10, 244, 2, 9))
    static let source6 = IPAddress.v6(IPv6Address(high: 0xFD00_0244_0001_0000, low: 5))
    static let target6 = IPAddress.v6(IPv6Address(high: 0xFD00_0244_0002_0000, low: 9))

    /// RFC 1071 as its text has it, two bytes at a time.
    static func sum(_ bytes: some Collection<UInt8>) -> UInt16 {
        var total: UInt32 = 0
        var isHigh = true
        for byte in bytes {
            total += isHigh ? UInt32(byte) << 8 : UInt32(byte)
            isHigh.toggle()
        }
        while total > 0xFFFF { total = (total & 0xFFFF) + (total >> 16) }
        return UInt16(total)
    }

    static func word(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }

    static func pseudoHeader(_ source: IPAddress, _ target: IPAddress, _ number: UInt8, _ length: Int) -> [UInt8] {
        source.networkBytes + target.networkBytes + Self.word(UInt32(number)) + Self.word(UInt32(length))
    }

    static func version4(
        source: IPAddress = source4,
        target: IPAddress = target4,
        number: UInt8 = 17,
        hopLimit: UInt8 = 64,
        flags: UInt16 = 0x4000,
        identification: UInt16 = 0x1234,
        options: [UInt8] = [],
        payload: [UInt8]
    ) -> [UInt8] {
        let headerLength = 20 + options.count
        var header: [UInt8] = [UInt8(0x40 + headerLength / 4), 0]
        header += Self.word(UInt16(headerLength + payload.count)) + Self.word(identification) + Self.word(flags)
        header += [hopLimit, number, 0, 0] + source.networkBytes + target.networkBytes + options
        header.replaceSubrange(10..<12, with: Self.word(~Self.sum(header)))
        return header + payload
    }

    static func version6(
        source: IPAddress = source6,
        target: IPAddress = target6,
        next: UInt8 = 17,
        hopLimit: UInt8 = 64,
        payload: [UInt8]
    ) -> [UInt8] {
        [0x60, 0, 0, 0] + Self.word(UInt16(payload.count)) + [next, hopLimit] + source.networkBytes
            + target.networkBytes + payload
    }

    static func tcp(
        flags: UInt8,
        sequence: UInt32 = 1000,
        options: [UInt8] = [],
        payload: [UInt8] = [],
        between source: IPAddress = source4,
        and target: IPAddress = target4,
        isPartial: Bool = false
    ) -> [UInt8] {
        var segment = Self.word(UInt16(40_000)) + Self.word(UInt16(80)) + Self.word(sequence) + Self.word(UInt32(7))
        segment += [UInt8((20 + options.count) / 4) << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0] + options + payload
        let pseudo = Self.pseudoHeader(source, target, 6, segment.count)
        segment.replaceSubrange(16..<18, with: Self.word(isPartial ? Self.sum(pseudo) : ~Self.sum(pseudo + segment)))
        return segment
    }

    static func udp(
        payload: [UInt8],
        between source: IPAddress = source4,
        and target: IPAddress = target4,
        isPartial: Bool = false
    ) -> [UInt8] {
        var datagram = Self.word(UInt16(5000)) + Self.word(UInt16(53)) + Self.word(UInt16(8 + payload.count)) + [0, 0]
        datagram += payload
        let pseudo = Self.pseudoHeader(source, target, 17, datagram.count)
        datagram.replaceSubrange(6..<8, with: Self.word(isPartial ? Self.sum(pseudo) : ~Self.sum(pseudo + datagram)))
        return datagram
    }

    /// Whether TCP, UDP or ICMPv6 of a whole packet has the sum that it should have.
    static func isSound(_ bytes: [UInt8]) throws -> Bool {
        let packet = try Self.parse(bytes)
        let upper = bytes[packet.payloadOffset...]
        return Self.sum(
            Self.pseudoHeader(packet.source, packet.destination, packet.protocolNumber, upper.count) + upper
        ) == 0xFFFF
    }

    static func parse(_ bytes: [UInt8]) throws -> IPPacket {
        // An untyped throw: a typed one does not pass through the standard library's closure.
        try bytes.withUnsafeBytes { try IPPacket(parsing: $0) }
    }

    /// The bytes with `body` applied to them, and what it returned.
    static func editing<Value>(
        _ bytes: [UInt8],
        _ body: (IPPacket, UnsafeMutableRawBufferPointer) throws -> Value
    ) throws -> ([UInt8], Value) {
        var copy = bytes
        let packet = try Self.parse(bytes)
        let value = try copy.withUnsafeMutableBytes { try body(packet, $0) }
        return (copy, value)
    }
}
