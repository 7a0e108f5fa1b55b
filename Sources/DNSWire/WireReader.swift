/// Reads fields of a message from left to right. Every read is checked against the end of the message.
struct WireReader {
    let bytes: UnsafeRawBufferPointer
    var offset: Int

    init(_ bytes: UnsafeRawBufferPointer, offset: Int = 0) {
        self.bytes = bytes
        self.offset = offset
    }

    private func require(_ count: Int) throws(DNSWireError) {
        guard self.bytes.count - self.offset >= count else {
            throw DNSWireError(.truncated, "\(count) octets wanted at \(self.offset) of \(self.bytes.count)")
        }
    }

    mutating func readUInt8() throws(DNSWireError) -> UInt8 {
        try self.require(1)
        defer { self.offset += 1 }
        return self.bytes[self.offset]
    }

    mutating func readUInt16() throws(DNSWireError) -> UInt16 {
        try self.require(2)
        defer { self.offset += 2 }
        return UInt16(bigEndian: self.bytes.loadUnaligned(fromByteOffset: self.offset, as: UInt16.self))
    }

    mutating func readUInt32() throws(DNSWireError) -> UInt32 {
        try self.require(4)
        defer { self.offset += 4 }
        return UInt32(bigEndian: self.bytes.loadUnaligned(fromByteOffset: self.offset, as: UInt32.self))
    }

    mutating func readUInt64() throws(DNSWireError) -> UInt64 {
        try self.require(8)
        defer { self.offset += 8 }
        return UInt64(bigEndian: self.bytes.loadUnaligned(fromByteOffset: self.offset, as: UInt64.self))
    }

    mutating func readBytes(_ count: Int) throws(DNSWireError) -> [UInt8] {
        try self.require(count)
        defer { self.offset += count }
        return Array(self.bytes[self.offset..<(self.offset + count)])
    }

    mutating func skip(_ count: Int) throws(DNSWireError) {
        try self.require(count)
        self.offset += count
    }

    /// Reads a name, following compression pointers. Each pointer must point before the part of the name read so far,
    /// so the walk ends (RFC 1035 section 4.1.4: "a prior occurrence").
    mutating func readName() throws(DNSWireError) -> DomainName {
        var wire: [UInt8] = []
        var position = self.offset
        var lowest = self.offset
        var end: Int?
        while true {
            guard position < self.bytes.count else { throw DNSWireError(.truncated, "name at \(self.offset)") }
            let length = self.bytes[position]
            switch length {
            case 0:
                wire.append(0)
                self.offset = end ?? position + 1
                return DomainName(uncheckedWire: wire)
            case 1...63:
                let next = position + 1 + Int(length)
                guard next <= self.bytes.count else { throw DNSWireError(.truncated, "label at \(position)") }
                guard wire.count + Int(length) + 2 <= DomainName.maximumLength else {
                    throw DNSWireError(.invalidName, "name at \(self.offset) is longer than 255 octets")
                }
                wire.append(contentsOf: self.bytes[position..<next])
                position = next
            case 0xC0...0xFF:
                guard position + 1 < self.bytes.count else { throw DNSWireError(.truncated, "pointer at \(position)") }
                let target = Int(length & 0x3F) << 8 | Int(self.bytes[position + 1])
                guard target < lowest else {
                    throw DNSWireError(.invalidPointer, "pointer at \(position) to \(target) does not point backwards")
                }
                end = end ?? position + 2
                lowest = target
                position = target
            default:
                throw DNSWireError(.invalidName, "label type \(length >> 6) at \(position)")
            }
        }
    }

    /// Moves past a name without following pointers.
    mutating func skipName() throws(DNSWireError) {
        while true {
            let length = try self.readUInt8()
            switch length {
            case 0: return
            case 1...63: try self.skip(Int(length))
            case 0xC0...0xFF: return try self.skip(1)
            default: throw DNSWireError(.invalidName, "label type \(length >> 6) at \(self.offset - 1)")
            }
        }
    }
}
