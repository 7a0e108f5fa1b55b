/// A digest that tells its hash function (github.com/multiformats/multihash): code and length as varints, then the digest.
public struct Multihash: Hashable, Sendable {
    /// The multicodec of the hash function.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public var rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }

        /// The bytes themselves.
        public static let identity = Self(rawValue: 0x00)
        public static let sha256 = Self(rawValue: 0x12)
    }

    /// The longest digest taken; the longest in use has 64 bytes.
    public static let maximumDigestLength = 128

    public let code: Code
    public let digest: [UInt8]

    public init(code: Code, digest: some Collection<UInt8>) {
        self.code = code
        self.digest = Array(digest)
    }

    /// Reads bytes that hold one multihash and nothing after it.
    public init(bytes: some Collection<UInt8>) throws(MultiformatsError) {
        guard bytes.count <= Self.maximumDigestLength + 2 * Varint.maximumLength else {
            throw MultiformatsError(code: .tooLong, message: "a multihash of \(bytes.count) bytes")
        }
        var cursor = ByteCursor(bytes)
        let code = Code(rawValue: try cursor.readVarint())
        let length = try cursor.readVarint()
        guard length <= UInt64(Self.maximumDigestLength) else {
            throw MultiformatsError(code: .tooLong, message: "a multihash with a digest of \(length) bytes")
        }
        let digest = try cursor.readBytes(length)
        guard cursor.isAtEnd else {
            throw MultiformatsError(code: .malformed, message: "a multihash with bytes after its digest")
        }
        if code == .sha256, length != 32 {
            throw MultiformatsError(code: .malformed, message: "a sha2-256 multihash of \(length) bytes, not 32")
        }
        self.init(code: code, digest: digest)
    }

    public var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(self.digest.count + 2)
        Varint.append(self.code.rawValue, to: &bytes)
        Varint.append(UInt64(self.digest.count), to: &bytes)
        bytes.append(contentsOf: self.digest)
        return bytes
    }
}
