/// The name of a peer: the multihash of its public key's protobuf (libp2p/specs, peer-ids).
public struct PeerID: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The longest key protobuf that stands in the peer ID as it is; longer ones are hashed.
    public static let maximumInlinedKeyLength = 42

    /// The multihash, as protocols carry it.
    public let bytes: [UInt8]

    /// Reads the binary form.
    /// - Throws: `unsupported` for other hashes than sha2-256 and the identity of at most 42 bytes.
    public init(bytes: some Collection<UInt8>) throws(MultiformatsError) {
        try self.init(hash: Multihash(bytes: bytes))
    }

    public init(hash: Multihash) throws(MultiformatsError) {
        switch hash.code {
        case .sha256 where hash.digest.count == 32: break
        case .identity where (1...Self.maximumInlinedKeyLength).contains(hash.digest.count): break
        default:
            throw MultiformatsError(
                code: .unsupported,
                message:
                    "a peer ID must be a sha2-256 hash or an inlined key of at most 42 bytes; this is hash function "
                    + "\(hash.code.rawValue) with \(hash.digest.count) bytes"
            )
        }
        self.bytes = hash.bytes
    }

    /// Reads the text forms: base58btc (`12D3KooW…`, `Qm…`), or a CID of version 1 with the codec libp2p-key (`bafz…`, `k51…`).
    public init(_ text: some StringProtocol) throws(MultiformatsError) {
        if text.hasPrefix("1") || text.hasPrefix("Qm") {
            try self.init(bytes: Base58.decode(text))
        } else {
            let cid = try CID(text)
            guard cid.version == .v1, cid.codec == .libp2pKey else {
                throw MultiformatsError(
                    code: .malformed,
                    message: "a CID that names content of codec \(cid.codec.rawValue), not a peer"
                )
            }
            try self.init(hash: cid.hash)
        }
    }

    /// The form that is to become usual: a CID with the codec libp2p-key.
    public var cid: CID { CID(codec: .libp2pKey, hash: self.hash) }

    /// The protobuf of the public key, if it is short enough to stand in the peer ID (Ed25519).
    public var inlinedKey: [UInt8]? {
        self.bytes.first == 0 ? Array(self.bytes.dropFirst(2)) : nil
    }

    private var hash: Multihash {
        // Both lengths fit one byte, as `init` checked.
        Multihash(code: .init(rawValue: UInt64(self.bytes[0])), digest: self.bytes.dropFirst(2))
    }

    /// base58btc.
    public var description: String { Base58.encode(self.bytes) }

    public static func < (lhs: PeerID, rhs: PeerID) -> Bool { lhs.bytes.lexicographicallyPrecedes(rhs.bytes) }
}
