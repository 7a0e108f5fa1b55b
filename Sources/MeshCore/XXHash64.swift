/// xxHash64 (Collet, XXH64 of the xxHash specification 0.1.1): fast, stable across processes and machines, not
/// cryptographic. Every node of a fleet must compute the same value for a key, which `Hasher` does not promise.
public enum XXHash64 {
    private static let prime1: UInt64 = 0x9E37_79B1_85EB_CA87
    private static let prime2: UInt64 = 0xC2B2_AE3D_27D4_EB4F
    private static let prime3: UInt64 = 0x1656_67B1_9E37_79F9
    private static let prime4: UInt64 = 0x85EB_CA77_C2B2_AE63
    private static let prime5: UInt64 = 0x27D4_EB2F_1656_67C5

    public static func hash(_ bytes: RawSpan, seed: UInt64 = 0) -> UInt64 {
        let count = bytes.byteCount
        var offset = 0
        var hash: UInt64
        if count >= 32 {
            var lane1 = seed &+ prime1 &+ prime2
            var lane2 = seed &+ prime2
            var lane3 = seed
            var lane4 = seed &- prime1
            while offset <= count - 32 {
                lane1 = round(lane1, word(bytes, offset))
                lane2 = round(lane2, word(bytes, offset + 8))
                lane3 = round(lane3, word(bytes, offset + 16))
                lane4 = round(lane4, word(bytes, offset + 24))
                offset += 32
            }
            hash = rotate(lane1, 1) &+ rotate(lane2, 7) &+ rotate(lane3, 12) &+ rotate(lane4, 18)
            for lane in [lane1, lane2, lane3, lane4] {
                hash = (hash ^ round(0, lane)) &* prime1 &+ prime4
            }
        } else {
            hash = seed &+ prime5
        }
        hash &+= UInt64(count)
        while offset <= count - 8 {
            hash = rotate(hash ^ round(0, word(bytes, offset)), 27) &* prime1 &+ prime4
            offset += 8
        }
        if offset <= count - 4 {
            let half = UInt32(littleEndian: bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt32.self))
            hash = rotate(hash ^ (UInt64(half) &* prime1), 23) &* prime2 &+ prime3
            offset += 4
        }
        while offset < count {
            let byte = bytes.unsafeLoad(fromByteOffset: offset, as: UInt8.self)
            hash = rotate(hash ^ (UInt64(byte) &* prime5), 11) &* prime1
            offset += 1
        }
        hash = (hash ^ (hash >> 33)) &* prime2
        hash = (hash ^ (hash >> 29)) &* prime3
        return hash ^ (hash >> 32)
    }

    public static func hash(_ bytes: [UInt8], seed: UInt64 = 0) -> UInt64 {
        Self.hash(bytes.span.bytes, seed: seed)
    }

    /// The hash of the text's UTF-8.
    public static func hash(_ text: String, seed: UInt64 = 0) -> UInt64 {
        Self.hash(text.utf8.span.bytes, seed: seed)
    }

    private static func word(_ bytes: RawSpan, _ offset: Int) -> UInt64 {
        UInt64(littleEndian: bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    private static func round(_ lane: UInt64, _ input: UInt64) -> UInt64 {
        rotate(lane &+ input &* prime2, 31) &* prime1
    }

    private static func rotate(_ value: UInt64, _ bits: UInt64) -> UInt64 {
        value << bits | value >> (64 - bits)
    }
}

extension IPAddress {
    /// xxHash64 of the address's bytes in network order: the same on every machine.
    public func stableHash(seed: UInt64 = 0) -> UInt64 {
        switch self {
        case .v4(let address):
            withUnsafeBytes(of: address.rawValue.bigEndian) { XXHash64.hash($0.bytes, seed: seed) }
        case .v6(let address):
            withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) {
                XXHash64.hash($0.bytes, seed: seed)
            }
        }
    }
}

extension TransportAddress {
    /// A hash of address and port that is the same on every machine.
    public func stableHash(seed: UInt64 = 0) -> UInt64 {
        self.address.stableHash(seed: seed << 16 | UInt64(self.port))
    }
}
