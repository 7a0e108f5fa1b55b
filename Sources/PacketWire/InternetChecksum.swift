import MeshCore

/// The checksum of IP, TCP, UDP and ICMP (RFC 1071), summed piece by piece. Each piece begins at an even offset of the whole.
public struct InternetChecksum: Hashable, Sendable {
    /// Words in the order of the machine (RFC 1071 section 2 B): what is even in memory stays so.
    private var sum: UInt64 = 0

    public init() {}

    /// The pseudo header of TCP and UDP (RFC 9293 section 3.1) and of everything over IPv6 (RFC 8200 section 8.1).
    init(source: IPAddress, destination: IPAddress, protocolNumber: UInt8, length: Int) {
        for address in [source, destination] {
            switch address {
            case .v4(let address):
                self.add(address.rawValue)
            case .v6(let address):
                for half in [address.high, address.low] {
                    self.add(UInt32(truncatingIfNeeded: half >> 32))
                    self.add(UInt32(truncatingIfNeeded: half))
                }
            }
        }
        self.add(UInt32(protocolNumber))
        self.add(UInt32(truncatingIfNeeded: length))
    }

    public mutating func add(_ number: UInt32) {
        self.sum &+= UInt64(number.bigEndian)
    }

    public mutating func add(_ bytes: UnsafeRawBufferPointer) {
        let count = bytes.count
        var offset = 0
        while offset &+ 8 <= count {
            let word = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            self.sum &+= (word & 0xFFFF_FFFF) &+ (word >> 32)
            offset &+= 8
        }
        while offset &+ 2 <= count {
            self.sum &+= UInt64(bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
            offset &+= 2
        }
        // An odd byte has a zero behind it.
        if offset < count { self.sum &+= UInt64(UInt16(littleEndian: UInt16(bytes[offset]))) }
    }

    /// The sum of one's complement, which is 0xFFFF over a whole whose checksum is right.
    var folded: UInt16 {
        var sum = self.sum
        while sum >> 16 != 0 { sum = (sum & 0xFFFF) &+ (sum >> 16) }
        return UInt16(bigEndian: UInt16(truncatingIfNeeded: sum))
    }

    /// What goes into the header, whose own field counted as zero.
    public var value: UInt16 { ~self.folded }

    /// A checksum after one of its words, at an even offset, went from `old` to `new` (RFC 1624, equation 3).
    public static func updated(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
        var sum = UInt32(~checksum) &+ UInt32(~old) &+ UInt32(new)
        while sum >> 16 != 0 { sum = (sum & 0xFFFF) &+ (sum >> 16) }
        return ~UInt16(truncatingIfNeeded: sum)
    }
}
