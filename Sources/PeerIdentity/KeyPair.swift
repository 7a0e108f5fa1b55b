import Crypto
public import Multiformats

/// The identity of this host: an Ed25519 key, its public key and its peer ID.
public struct KeyPair: Sendable {
    private let key: Curve25519.Signing.PrivateKey
    public let publicKey: PublicKey
    public let peerID: PeerID

    private init(_ key: Curve25519.Signing.PrivateKey) throws(PeerIdentityError) {
        self.key = key
        self.publicKey = try PublicKey(kind: .ed25519, data: Array(key.publicKey.rawRepresentation))
        self.peerID = self.publicKey.peerID
    }

    /// A new random identity.
    public static func generate() -> KeyPair {
        guard let pair = try? KeyPair(Curve25519.Signing.PrivateKey()) else {
            preconditionFailure("the public half of a new key is a key")
        }
        return pair
    }

    /// The identity of a private key as RFC 8032 defines it.
    /// - Throws: `malformedKey` unless the seed has 32 bytes.
    public init(ed25519Seed seed: some Collection<UInt8>) throws(PeerIdentityError) {
        let key: Curve25519.Signing.PrivateKey
        do {
            key = try Curve25519.Signing.PrivateKey(rawRepresentation: Array(seed))
        } catch {
            throw PeerIdentityError(
                code: .malformedKey,
                message: "an Ed25519 seed has 32 bytes, this has \(seed.count)",
                cause: error
            )
        }
        try self.init(key)
    }

    /// Reads the protobuf of a private key: Ed25519 as `private || public`, or as `private || public || public` of old.
    /// - Throws: `malformedKey`, also if the halves do not belong together; `unsupportedKey` for other kinds of keys.
    public init(privateKeyProtobuf: some Collection<UInt8>) throws(PeerIdentityError) {
        let (kind, data) = try KeyProtobuf.read(privateKeyProtobuf, "private key")
        guard kind == .ed25519 else {
            throw PeerIdentityError(
                code: .unsupportedKey,
                message: "a private key of type \(kind); this host's own identity must be an Ed25519 key"
            )
        }
        guard data.count == 64 || (data.count == 96 && data[32..<64] == data[64..<96]) else {
            throw PeerIdentityError(code: .malformedKey, message: "no private key of Ed25519: \(data.count) bytes")
        }
        try self.init(ed25519Seed: data[..<32])
        guard data[32..<64].elementsEqual(self.publicKey.data) else {
            throw PeerIdentityError(code: .malformedKey, message: "a private key with the public half of another")
        }
    }

    /// The protobuf in which private keys are stored. Secret.
    public var privateKeyProtobuf: [UInt8] {
        KeyProtobuf.bytes(.ed25519, Array(self.key.rawRepresentation) + self.publicKey.data)
    }

    /// Signs with plain Ed25519: 64 bytes.
    public func sign(_ message: some Collection<UInt8>) throws(PeerIdentityError) -> [UInt8] {
        do {
            return Array(try self.key.signature(for: Array(message)))
        } catch {
            throw PeerIdentityError(code: .malformedKey, message: "\(self.peerID) cannot sign", cause: error)
        }
    }

    /// The identity that v1.17 of the original gives to a node: a function of the node's name, so that peers need no
    /// directory, and no secret at all. It is for clusters with agents of the original.
    ///
    /// The first 32 bytes of Go's `math/rand`, seeded with the first eight bytes of the name's MD5, are the private key.
    /// - Throws: `malformedKey` for an empty name.
    public static func derived(nodeName: String) throws(PeerIdentityError) -> KeyPair {
        guard !nodeName.isEmpty else {
            throw PeerIdentityError(
                code: .malformedKey,
                message: "an identity is to be derived from an empty node name"
            )
        }
        let digest = Insecure.MD5.hash(data: Array(nodeName.utf8))
        let seed = digest.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        var random = GoRandom(seed: Int64(bitPattern: seed))
        return try KeyPair(ed25519Seed: random.bytes(32))
    }
}
