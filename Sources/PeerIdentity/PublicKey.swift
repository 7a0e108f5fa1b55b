import Crypto
import CryptoExtras
public import Multiformats

/// The public key of a peer (libp2p/specs, peer-ids). Its form is checked when it is read.
public struct PublicKey: Hashable, Sendable {
    /// The values are those of the protobuf.
    public enum Kind: UInt64, Hashable, Sendable, CustomStringConvertible {
        case rsa = 0
        case ed25519 = 1
        /// Known by name only: such a peer has an ID, but nothing that it signs can be verified.
        case secp256k1 = 2
        case ecdsa = 3

        public var description: String {
            switch self {
            case .rsa: "RSA"
            case .ed25519: "Ed25519"
            case .secp256k1: "secp256k1"
            case .ecdsa: "ECDSA"
            }
        }
    }

    /// The longest protobuf that is read; that of an RSA key of 8192 bits has 1,1 KiB.
    public static let maximumLength = 2048

    public let kind: Kind
    /// The key as it stands in the protobuf: 32 bytes for Ed25519, the DER of a SubjectPublicKeyInfo for RSA and ECDSA.
    public let data: [UInt8]

    /// - Throws: `malformedKey` for bytes that are no such key, `unsupportedKey` for ECDSA keys of other curves than P-256
    ///   and RSA keys of less than 2048 or more than 8192 bits.
    public init(kind: Kind, data: some Collection<UInt8>) throws(PeerIdentityError) {
        guard data.count <= Self.maximumLength else {
            throw PeerIdentityError(code: .malformedKey, message: "a public key of \(data.count) bytes")
        }
        let data = Array(data)
        switch kind {
        case .ed25519: _ = try Self.ed25519(data)
        case .ecdsa: _ = try Self.ecdsa(data)
        case .rsa: _ = try Self.rsa(data)
        case .secp256k1:
            guard data.count == 33 else {
                throw PeerIdentityError(code: .malformedKey, message: "a secp256k1 key of \(data.count) bytes, not 33")
            }
        }
        self.kind = kind
        self.data = data
    }

    /// Reads the protobuf in which keys are exchanged.
    public init(protobuf: some Collection<UInt8>) throws(PeerIdentityError) {
        let (kind, data) = try KeyProtobuf.read(protobuf, "public key")
        try self.init(kind: kind, data: data)
    }

    /// The key that stands in a peer ID, for peers whose ID is no hash.
    public init?(inlinedIn peer: PeerID) throws(PeerIdentityError) {
        guard let key = peer.inlinedKey else { return nil }
        try self.init(protobuf: key)
    }

    /// The protobuf in its one canonical form.
    public var protobuf: [UInt8] { KeyProtobuf.bytes(self.kind, self.data) }

    /// The multihash of the protobuf: the protobuf itself up to 42 bytes, else its SHA-256.
    public var peerID: PeerID {
        let protobuf = self.protobuf
        let hash =
            protobuf.count <= PeerID.maximumInlinedKeyLength
            ? Multihash(code: .identity, digest: protobuf) : .sha256(of: protobuf)
        guard let peer = try? PeerID(hash: hash) else { preconditionFailure("both hashes are those of peer IDs") }
        return peer
    }

    /// Returns if `signature` is this key's for `message`: plain Ed25519, ECDSA in DER over SHA-256, PKCS #1 v1.5 with SHA-256.
    /// - Throws: `badSignature`; `unsupportedKey` for secp256k1.
    public func verify(
        signature: some Collection<UInt8>,
        for message: some Collection<UInt8>
    ) throws(PeerIdentityError) {
        let signature = Array(signature)
        let message = Array(message)
        let isValid: Bool
        switch self.kind {
        case .ed25519:
            isValid = try Self.ed25519(self.data).isValidSignature(signature, for: message)
        case .ecdsa:
            let parsed = try? P256.Signing.ECDSASignature(derRepresentation: signature)
            let key = try Self.ecdsa(self.data)
            isValid = parsed.map { key.isValidSignature($0, for: message) } ?? false
        case .rsa:
            isValid = try Self.rsa(self.data).isValidSignature(
                _RSA.Signing.RSASignature(rawRepresentation: signature),
                for: message,
                padding: .insecurePKCS1v1_5
            )
        case .secp256k1:
            throw PeerIdentityError(
                code: .unsupportedKey,
                message:
                    "\(self.peerID) has a secp256k1 key, whose signatures cannot be verified here; give it an Ed25519 key"
            )
        }
        guard isValid else {
            throw PeerIdentityError(code: .badSignature, message: "the signature is not \(self.peerID)'s")
        }
    }

    private static func ed25519(_ data: [UInt8]) throws(PeerIdentityError) -> Curve25519.Signing.PublicKey {
        guard !SmallOrderKeys.contains(data) else {
            throw PeerIdentityError(code: .malformedKey, message: "an Ed25519 key in whose name anybody can sign")
        }
        do {
            return try Curve25519.Signing.PublicKey(rawRepresentation: data)
        } catch {
            throw PeerIdentityError(code: .malformedKey, message: "no Ed25519 key", cause: error)
        }
    }

    private static func ecdsa(_ data: [UInt8]) throws(PeerIdentityError) -> P256.Signing.PublicKey {
        do {
            return try P256.Signing.PublicKey(derRepresentation: data)
        } catch {
            throw PeerIdentityError(code: .unsupportedKey, message: "an ECDSA key that is not of P-256", cause: error)
        }
    }

    private static func rsa(_ data: [UInt8]) throws(PeerIdentityError) -> _RSA.Signing.PublicKey {
        let key: _RSA.Signing.PublicKey
        do {
            key = try _RSA.Signing.PublicKey(derRepresentation: data)
        } catch {
            throw PeerIdentityError(code: .unsupportedKey, message: "no RSA key of 2048 bits or more", cause: error)
        }
        guard key.keySizeInBits <= 8192 else {
            throw PeerIdentityError(
                code: .unsupportedKey,
                message: "an RSA key of \(key.keySizeInBits) bits; at most 8192 are taken"
            )
        }
        return key
    }
}

/// The one form of the protobufs of public and private keys: kind, then data.
enum KeyProtobuf {
    static func read(
        _ protobuf: some Collection<UInt8>,
        _ what: StaticString
    ) throws(PeerIdentityError) -> (PublicKey.Kind, [UInt8]) {
        var kind: UInt64?
        var data: [UInt8]?
        do {
            guard protobuf.count <= PublicKey.maximumLength else {
                throw MultiformatsError(code: .tooLong, message: "\(protobuf.count) bytes")
            }
            var reader = ProtobufReader(protobuf)
            while let field = try reader.next() {
                switch field.number {
                case 1: kind = try field.uint64()
                case 2: data = try field.bytes()
                default: break
                }
            }
        } catch {
            throw PeerIdentityError(code: .malformedKey, message: "bytes that are no \(what)", cause: error)
        }
        guard let kind, let data else {
            throw PeerIdentityError(code: .malformedKey, message: "a \(what) without its type or data")
        }
        guard let known = PublicKey.Kind(rawValue: kind) else {
            throw PeerIdentityError(code: .unsupportedKey, message: "a \(what) of the unknown type \(kind)")
        }
        return (known, data)
    }

    static func bytes(_ kind: PublicKey.Kind, _ data: [UInt8]) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.write(varint: kind.rawValue, to: 1)
        writer.write(bytes: data, to: 2)
        return writer.bytes
    }
}

extension Multihash {
    /// Hashes `bytes` with SHA-256.
    public static func sha256(of bytes: some Collection<UInt8>) -> Multihash {
        Multihash(code: .sha256, digest: Array(SHA256.hash(data: Array(bytes))))
    }
}
