/// A content identifier (github.com/multiformats/cid): a multihash and what it is the hash of.
public struct CID: Hashable, Sendable, CustomStringConvertible {
    /// The multicodec of what is hashed.
    public struct Codec: RawRepresentable, Hashable, Sendable {
        public var rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }

        public static let raw = Self(rawValue: 0x55)
        /// The only codec of version 0.
        public static let dagProtobuf = Self(rawValue: 0x70)
        public static let libp2pKey = Self(rawValue: 0x72)
    }

    public enum Version: UInt64, Hashable, Sendable {
        case v0 = 0
        case v1 = 1
    }

    public let version: Version
    public let codec: Codec
    public let hash: Multihash

    /// An identifier of version 1.
    public init(codec: Codec, hash: Multihash) {
        self.version = .v1
        self.codec = codec
        self.hash = hash
    }

    /// Reads text: `Qm…` is version 0, all else version 1 in a base of multibase.
    public init(_ text: some StringProtocol) throws(MultiformatsError) {
        if text.utf8.count == 46, text.hasPrefix("Qm") {
            try self.init(bytes: Base58.decode(text))
            return
        }
        let bytes = try Multibase.decode(text)
        guard bytes.first != 0x12 else {
            throw MultiformatsError(code: .malformed, message: "a CID of version 0 with the letter of a base")
        }
        try self.init(bytes: bytes)
    }

    /// Reads the binary form: a bare sha2-256 multihash is version 0.
    public init(bytes: some Collection<UInt8>) throws(MultiformatsError) {
        if bytes.count == 34, bytes.starts(with: [0x12, 0x20]) {
            self.version = .v0
            self.codec = .dagProtobuf
            self.hash = try Multihash(bytes: bytes)
            return
        }
        var cursor = ByteCursor(bytes)
        let version = try cursor.readVarint()
        guard version == Version.v1.rawValue else {
            throw MultiformatsError(code: .unsupported, message: "a CID of version \(version)")
        }
        self.version = .v1
        self.codec = Codec(rawValue: try cursor.readVarint())
        self.hash = try Multihash(bytes: cursor.readRest())
    }

    public var bytes: [UInt8] {
        guard self.version == .v1 else { return self.hash.bytes }
        var bytes: [UInt8] = []
        Varint.append(self.version.rawValue, to: &bytes)
        Varint.append(self.codec.rawValue, to: &bytes)
        return bytes + self.hash.bytes
    }

    /// base32 for version 1 (`b…`), base58btc for version 0 (`Qm…`).
    public var description: String {
        self.version == .v0 ? Base58.encode(self.bytes) : "b" + Base32.encode(self.bytes)
    }
}
