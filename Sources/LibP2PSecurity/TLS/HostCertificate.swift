import Crypto
import PeerIdentity
import SwiftASN1

/// The certificates of libp2p's TLS handshake (libp2p/specs, tls): signed by themselves, they carry the host's public key and
/// its signature over the certificate's key.
///
/// DER is written and read here and not with swift-certificates, which would bring Foundation's dates into the product.
public enum HostCertificate {
    static let hostKeyExtension: ASN1ObjectIdentifier = [1, 3, 6, 1, 4, 1, 53594, 1, 1]
    static let signaturePrefix = Array("libp2p-tls-handshake:".utf8)

    /// Makes the certificate of `identity` for `key`, in DER.
    ///
    /// Its dates are so wide that a node without a clock, as edge nodes are after power loss, accepts and is accepted.
    static func make(identity: KeyPair, key: P256.Signing.PrivateKey) throws -> [UInt8] {
        let subjectPublicKeyInfo = Array(key.publicKey.derRepresentation)
        let signature = try identity.sign(Self.signaturePrefix + subjectPublicKeyInfo)
        var serial = (0..<16).map { _ in UInt8.random(in: 0...255) }
        // A positive number without leading zeros.
        serial[0] = serial[0] & 0x7F | 0x40

        var signedKey = DER.Serializer()
        try signedKey.appendConstructedNode(identifier: .sequence) { coder in
            try coder.serialize(ASN1OctetString(contentBytes: identity.publicKey.protobuf[...]))
            try coder.serialize(ASN1OctetString(contentBytes: signature[...]))
        }
        var body = DER.Serializer()
        try body.appendConstructedNode(identifier: .sequence) { coder in
            // Version 3.
            try coder.serialize(explicitlyTaggedWithTagNumber: 0, tagClass: .contextSpecific) { try $0.serialize(2) }
            coder.appendPrimitiveNode(identifier: .integer) { $0 += serial }
            try Self.writeSignatureAlgorithm(into: &coder)
            try Self.writeName(into: &coder)
            try coder.appendConstructedNode(identifier: .sequence) { coder in
                try coder.serialize(UTCTime(year: 1975, month: 1, day: 1, hours: 0, minutes: 0, seconds: 0))
                try coder.serialize(
                    GeneralizedTime(
                        year: 4096,
                        month: 1,
                        day: 1,
                        hours: 0,
                        minutes: 0,
                        seconds: 0,
                        fractionalSeconds: 0
                    )
                )
            }
            try Self.writeName(into: &coder)
            coder.serializeRawBytes(subjectPublicKeyInfo)
            try coder.serialize(explicitlyTaggedWithTagNumber: 3, tagClass: .contextSpecific) { coder in
                try coder.appendConstructedNode(identifier: .sequence) { coder in
                    try coder.appendConstructedNode(identifier: .sequence) { coder in
                        try coder.serialize(Self.hostKeyExtension)
                        try coder.serialize(ASN1OctetString(contentBytes: signedKey.serializedBytes[...]))
                    }
                }
            }
        }
        let certificateSignature = try key.signature(for: body.serializedBytes).derRepresentation
        var certificate = DER.Serializer()
        try certificate.appendConstructedNode(identifier: .sequence) { coder in
            coder.serializeRawBytes(body.serializedBytes)
            try Self.writeSignatureAlgorithm(into: &coder)
            try coder.serialize(ASN1BitString(bytes: Array(certificateSignature)[...]))
        }
        return certificate.serializedBytes
    }

    /// ecdsa-with-SHA256.
    private static func writeSignatureAlgorithm(into coder: inout DER.Serializer) throws {
        try coder.appendConstructedNode(identifier: .sequence) { coder in
            try coder.serialize([1, 2, 840, 10045, 4, 3, 2] as ASN1ObjectIdentifier)
        }
    }

    /// `CN=libp2p`: nobody reads it, but some refuse an issuer without a name.
    private static func writeName(into coder: inout DER.Serializer) throws {
        try coder.appendConstructedNode(identifier: .sequence) { coder in
            try coder.appendConstructedNode(identifier: .set) { coder in
                try coder.appendConstructedNode(identifier: .sequence) { coder in
                    try coder.serialize([2, 5, 4, 3] as ASN1ObjectIdentifier)
                    try coder.serialize(ASN1UTF8String("libp2p"))
                }
            }
        }
    }
}
