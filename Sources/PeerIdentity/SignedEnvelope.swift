import Multiformats
import NIOCore

/// A payload that tells who signed it, for one purpose only (libp2p/specs, RFC 0002).
public struct SignedEnvelope: Hashable, Sendable {
    public let publicKey: PublicKey
    /// The multicodec of what the payload is.
    public let payloadType: [UInt8]
    public let payload: [UInt8]
    public let signature: [UInt8]

    /// The longest encoding that is read unless the caller says otherwise.
    public static let maximumLength = 16 * 1024

    /// Signs `payload` for the purpose `domain`.
    public static func seal(
        payload: some Collection<UInt8>,
        type: some Collection<UInt8>,
        domain: String,
        key: KeyPair
    ) throws(PeerIdentityError) -> SignedEnvelope {
        let payload = Array(payload)
        let type = Array(type)
        return SignedEnvelope(
            publicKey: key.publicKey,
            payloadType: type,
            payload: payload,
            signature: try key.sign(Self.signedBytes(domain: domain, type: type, payload: payload))
        )
    }

    private init(publicKey: PublicKey, payloadType: [UInt8], payload: [UInt8], signature: [UInt8]) {
        self.publicKey = publicKey
        self.payloadType = payloadType
        self.payload = payload
        self.signature = signature
    }

    /// Reads an envelope and verifies that its key signed it for the purpose `domain`. Whether that key may is the caller's to say.
    /// - Throws: `malformedRecord`, `malformedKey`, `unsupportedKey`, `badSignature`.
    public init(
        verifying bytes: some Collection<UInt8>,
        domain: String,
        maximumBytes: Int = Self.maximumLength
    ) throws(PeerIdentityError) {
        guard bytes.count <= maximumBytes else {
            throw PeerIdentityError(
                code: .malformedRecord,
                message: "a signed envelope of \(bytes.count) bytes; at most \(maximumBytes) are taken"
            )
        }
        var key: [UInt8]?
        var type: [UInt8] = []
        var payload: [UInt8] = []
        var signature: [UInt8] = []
        do {
            var reader = ProtobufReader(bytes)
            while let field = try reader.next() {
                switch field.number {
                case 1: key = try field.bytes()
                case 2: type = try field.bytes()
                case 3: payload = try field.bytes()
                case 5: signature = try field.bytes()
                default: break
                }
            }
        } catch {
            throw PeerIdentityError(code: .malformedRecord, message: "bytes that are no signed envelope", cause: error)
        }
        guard let key else {
            throw PeerIdentityError(code: .malformedRecord, message: "a signed envelope without a public key")
        }
        self.init(
            publicKey: try PublicKey(protobuf: key),
            payloadType: type,
            payload: payload,
            signature: signature
        )
        try self.publicKey.verify(
            signature: signature,
            for: Self.signedBytes(domain: domain, type: type, payload: payload)
        )
    }

    public var bytes: [UInt8] {
        var writer = ProtobufWriter()
        writer.write(bytes: self.publicKey.protobuf, to: 1)
        writer.write(bytes: self.payloadType, to: 2)
        writer.write(bytes: self.payload, to: 3)
        writer.write(bytes: self.signature, to: 5)
        return writer.bytes
    }

    /// What is signed: domain, type and payload, each behind its length.
    private static func signedBytes(domain: String, type: [UInt8], payload: [UInt8]) -> [UInt8] {
        var buffer = ByteBuffer()
        for part in [Array(domain.utf8), type, payload] {
            buffer.writeUnsignedVarint(UInt64(part.count))
            buffer.writeBytes(part)
        }
        return Array(buffer.readableBytesView)
    }
}
