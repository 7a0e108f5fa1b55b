import Crypto
// The certificate package takes its dates from here; this target is test support and in no shipped binary.
import FoundationEssentials
import NIOSSL
import SwiftASN1
import X509

/// A certificate authority made for one test, with a server certificate for loopback and certificates for clients.
public struct FakeKubeCertificates: Sendable {
    public struct Identity: Sendable {
        public var certificatePEM: String
        public var keyPEM: String
    }

    public let authorityPEM: String
    public let server: Identity
    private let authorityKey: P256.Signing.PrivateKey
    private let authorityName: DistinguishedName

    /// - Parameters:
    ///   - names: DNS names of the server.
    ///   - addresses: its addresses, as network bytes.
    public init(names: [String] = ["localhost"], addresses: [[UInt8]] = [[127, 0, 0, 1]]) throws {
        let key = P256.Signing.PrivateKey()
        let name = try DistinguishedName { CommonName("fake kube authority") }
        let authority = try Self.issue(
            name,
            key: key.publicKey,
            issuer: name,
            issuerKey: key,
            extensions: try Certificate.Extensions {
                Critical(BasicConstraints.isCertificateAuthority(maxPathLength: nil))
                Critical(KeyUsage(keyCertSign: true))
            }
        )
        self.authorityPEM = try authority.serializeAsPEM().pemString
        self.authorityKey = key
        self.authorityName = name
        let alternatives =
            names.map { GeneralName.dnsName($0) }
            + addresses.map { GeneralName.ipAddress(ASN1OctetString(contentBytes: $0[...])) }
        self.server = try Self.identity("kube-apiserver", alternatives: alternatives, issuer: name, issuerKey: key)
    }

    /// A certificate that this authority's servers accept.
    public func client(named name: String) throws -> Identity {
        try Self.identity(name, alternatives: [], issuer: self.authorityName, issuerKey: self.authorityKey)
    }

    func serverContext(requiresClientCertificate: Bool) throws -> NIOSSLContext {
        var tls = TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMBytes(Array(self.server.certificatePEM.utf8)).map {
                .certificate($0)
            },
            privateKey: .privateKey(try NIOSSLPrivateKey(bytes: Array(self.server.keyPEM.utf8), format: .pem))
        )
        if requiresClientCertificate {
            tls.certificateVerification = .noHostnameVerification
            tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(self.authorityPEM.utf8)))
        }
        return try NIOSSLContext(configuration: tls)
    }

    private static func identity(
        _ name: String,
        alternatives: [GeneralName],
        issuer: DistinguishedName,
        issuerKey: P256.Signing.PrivateKey
    ) throws -> Identity {
        let key = P256.Signing.PrivateKey()
        var extensions = try Certificate.Extensions { Critical(BasicConstraints.notCertificateAuthority) }
        if !alternatives.isEmpty {
            try extensions.append(.init(SubjectAlternativeNames(alternatives), critical: false))
        }
        let certificate = try Self.issue(
            try DistinguishedName { CommonName(name) },
            key: key.publicKey,
            issuer: issuer,
            issuerKey: issuerKey,
            extensions: extensions
        )
        return Identity(
            certificatePEM: try certificate.serializeAsPEM().pemString,
            keyPEM: key.pemRepresentation
        )
    }

    private static func issue(
        _ subject: DistinguishedName,
        key: P256.Signing.PublicKey,
        issuer: DistinguishedName,
        issuerKey: P256.Signing.PrivateKey,
        extensions: Certificate.Extensions
    ) throws -> Certificate {
        try Certificate(
            version: .v3,
            serialNumber: .init(),
            publicKey: .init(key),
            notValidBefore: Date.now.addingTimeInterval(-3600),
            notValidAfter: Date.now.addingTimeInterval(86_400),
            issuer: issuer,
            subject: subject,
            signatureAlgorithm: .ecdsaWithSHA256,
            extensions: extensions,
            issuerPrivateKey: .init(issuerKey)
        )
    }
}
