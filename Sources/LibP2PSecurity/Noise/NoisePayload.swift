import Multiformats
import NIOCore
import PeerIdentity

/// What libp2p says inside the handshake (libp2p/specs, noise): who each side is, and which muxers it has.
struct NoisePayload {
    private static let signaturePrefix = Array("noise-libp2p-static-key:".utf8)

    var identityKey: [UInt8] = []
    var identitySignature: [UInt8] = []
    var muxers: [String] = []

    /// The proof that `identity` uses the Noise key with this public half; made once, good for all handshakes.
    init(identity: KeyPair, staticKey: [UInt8]) throws(PeerIdentityError) {
        self.identityKey = identity.publicKey.protobuf
        self.identitySignature = try identity.sign(Self.signaturePrefix + staticKey)
    }

    init(protobuf: [UInt8]) throws(LibP2PSecurityError) {
        do {
            var reader = ProtobufReader(protobuf)
            while let field = try reader.next() {
                switch field.number {
                case 1: self.identityKey = try field.bytes()
                case 2: self.identitySignature = try field.bytes()
                case 4:
                    // Field 1 of the extensions, hashes of certificates, is for WebTransport only.
                    var extensions = try field.message()
                    while let field = try extensions.next() {
                        if field.number == 2 { self.muxers.append(try field.text()) }
                    }
                default: break
                }
            }
        } catch {
            throw LibP2PSecurityError(
                code: .malformed,
                message: "a Noise handshake payload that cannot be read",
                cause: error
            )
        }
    }

    var protobuf: [UInt8] {
        var writer = ProtobufWriter()
        writer.write(bytes: self.identityKey, to: 1)
        writer.write(bytes: self.identitySignature, to: 2)
        if !self.muxers.isEmpty {
            writer.write(messageTo: 4) { for muxer in self.muxers { $0.write(text: muxer, to: 2) } }
        }
        return writer.bytes
    }

    /// The identity, if it signed the Noise key that its owner has just shown to possess.
    func verified(staticKey: [UInt8]) throws(LibP2PSecurityError) -> PublicKey {
        do {
            let key = try PublicKey(protobuf: self.identityKey)
            try key.verify(signature: self.identitySignature, for: Self.signaturePrefix + staticKey)
            return key
        } catch {
            throw LibP2PSecurityError(
                code: .handshakeFailed,
                message: "the peer does not prove the identity that it shows in the Noise handshake",
                cause: error
            )
        }
    }
}
