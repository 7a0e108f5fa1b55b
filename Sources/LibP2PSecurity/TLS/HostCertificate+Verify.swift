import Crypto
public import PeerIdentity
import SwiftASN1

extension HostCertificate {
    /// Checks a certificate as libp2p's TLS handshake demands (libp2p/specs, tls) and gives the host key that it proves.
    ///
    /// - Parameters:
    ///   - certificates: what the peer sent, in DER.
    ///   - now: the wall clock, in seconds since 1970.
    /// - Throws: `malformed` for what is no such certificate, `handshakeFailed` for one that proves nothing. Never anything else.
    public static func verify(_ certificates: [[UInt8]], now: Int64) throws(LibP2PSecurityError) -> PublicKey {
        guard certificates.count == 1 else {
            throw Self.refused("the peer sent \(certificates.count) certificates instead of one")
        }
        do {
            let certificate = try ParsedCertificate(DER.parse(certificates[0]))
            try certificate.checkDates(now: now)
            try certificate.checkSignature()
            let signedKey = try certificate.signedKey()
            let key = try PublicKey(protobuf: signedKey.publicKey)
            try key.verify(
                signature: signedKey.signature,
                for: Self.signaturePrefix + certificate.subjectPublicKeyInfo
            )
            return key
        } catch let error as LibP2PSecurityError {
            throw error
        } catch let error as PeerIdentityError {
            throw LibP2PSecurityError(
                code: .handshakeFailed,
                message: "the peer's TLS certificate does not prove the identity that it carries",
                cause: error
            )
        } catch {
            throw LibP2PSecurityError(code: .malformed, message: "a TLS certificate that cannot be read", cause: error)
        }
    }

    fileprivate static func refused(_ what: String) -> LibP2PSecurityError {
        LibP2PSecurityError(code: .handshakeFailed, message: "the peer's TLS certificate is refused: \(what)")
    }
}

/// The parts of an X.509 certificate (RFC 5280, 4.1) that matter here, as slices of its DER.
private struct ParsedCertificate {
    private struct Extension {
        var identifier: ASN1ObjectIdentifier
        var isCritical: Bool
        var value: ArraySlice<UInt8>
    }

    /// Extensions that may be critical because they say nothing about who the peer is: key usage, basic constraints and
    /// extended key usage.
    private static let harmless: Set<ASN1ObjectIdentifier> = [[2, 5, 29, 15], [2, 5, 29, 19], [2, 5, 29, 37]]

    private let body: ArraySlice<UInt8>
    private let signatureAlgorithm: ASN1ObjectIdentifier
    private let signature: ArraySlice<UInt8>
    private let validity: ClosedRange<Int64>
    let subjectPublicKeyInfo: ArraySlice<UInt8>
    private let extensions: [Extension]

    init(_ root: ASN1Node) throws {
        let (body, algorithm, signature) = try DER.sequence(root, identifier: .sequence) { nodes in
            let body = try Self.next(&nodes)
            return (body, try Self.next(&nodes), try ASN1BitString(derEncoded: &nodes))
        }
        self.body = body.encodedBytes
        guard signature.paddingBits == 0 else {
            throw HostCertificate.refused("its signature is no whole number of bytes")
        }
        self.signature = signature.bytes
        self.signatureAlgorithm = try Self.algorithm(algorithm)

        var iterator = try Self.children(of: body)
        let version = try DER.optionalExplicitlyTagged(&iterator, tagNumber: 0, tagClass: .contextSpecific) {
            try Int(derEncoded: $0)
        }
        guard version == 2 else { throw HostCertificate.refused("it is not of X.509 version 3") }
        _ = try Self.next(&iterator)  // serial number
        guard try Self.next(&iterator).encodedBytes == algorithm.encodedBytes else {
            throw HostCertificate.refused("it names two signature algorithms")
        }
        _ = try Self.next(&iterator)  // issuer
        self.validity = try DER.sequence(Self.next(&iterator), identifier: .sequence) { nodes in
            let (start, end) = (try Self.seconds(Self.next(&nodes)), try Self.seconds(Self.next(&nodes)))
            guard start <= end else { throw HostCertificate.refused("it ends before it begins") }
            return start...end
        }
        _ = try Self.next(&iterator)  // subject
        self.subjectPublicKeyInfo = try Self.next(&iterator).encodedBytes
        // Unique IDs of issuer and subject, [1] and [2], must not be there; what stands in their place is no [3].
        let extensions = try DER.optionalExplicitlyTagged(&iterator, tagNumber: 3, tagClass: .contextSpecific) { node in
            var extensions: [Extension] = []
            var list = try Self.children(of: node)
            while let next = list.next() { extensions.append(try Self.readExtension(next)) }
            return extensions
        }
        guard iterator.next() == nil else { throw HostCertificate.refused("it has fields that libp2p forbids") }
        self.extensions = extensions ?? []
    }

    func checkDates(now: Int64) throws(LibP2PSecurityError) {
        guard self.validity.contains(now) else {
            throw HostCertificate.refused(
                "it is valid from \(self.validity.lowerBound) to \(self.validity.upperBound), this node's clock says \(now) "
                    + "(seconds since 1970); check the clocks of both nodes"
            )
        }
    }

    func checkSignature() throws {
        let isValid: Bool
        switch self.signatureAlgorithm {
        case [1, 2, 840, 10045, 4, 3, 2]: isValid = try self.ecdsa(SHA256.hash(data: self.body))
        case [1, 2, 840, 10045, 4, 3, 3]: isValid = try self.ecdsa(SHA384.hash(data: self.body))
        case [1, 2, 840, 10045, 4, 3, 4]: isValid = try self.ecdsa(SHA512.hash(data: self.body))
        case [1, 3, 101, 112]:
            // The key is the last 32 bytes of its SubjectPublicKeyInfo of 44.
            guard self.subjectPublicKeyInfo.count == 44 else { throw HostCertificate.refused("its key is not Ed25519") }
            let key = try Curve25519.Signing.PublicKey(rawRepresentation: self.subjectPublicKeyInfo.suffix(32))
            isValid = key.isValidSignature(self.signature, for: self.body)
        default:
            throw HostCertificate.refused("it is signed with \(self.signatureAlgorithm), neither ECDSA nor Ed25519")
        }
        guard isValid else { throw HostCertificate.refused("its signature over itself is wrong") }
    }

    private func ecdsa(_ digest: some Digest) throws -> Bool {
        let signature = Array(self.signature)
        let key = Array(self.subjectPublicKeyInfo)
        if let key = try? P256.Signing.PublicKey(derRepresentation: key) {
            return key.isValidSignature(try .init(derRepresentation: signature), for: digest)
        }
        if let key = try? P384.Signing.PublicKey(derRepresentation: key) {
            return key.isValidSignature(try .init(derRepresentation: signature), for: digest)
        }
        let p521 = try P521.Signing.PublicKey(derRepresentation: key)
        return p521.isValidSignature(try .init(derRepresentation: signature), for: digest)
    }

    /// The content of libp2p's extension; no other critical extension may be there that is not understood.
    func signedKey() throws -> (publicKey: ArraySlice<UInt8>, signature: ArraySlice<UInt8>) {
        for other in self.extensions where other.isCritical && other.identifier != HostCertificate.hostKeyExtension {
            guard Self.harmless.contains(other.identifier) else {
                throw HostCertificate.refused("it has the unknown critical extension \(other.identifier)")
            }
        }
        let found = self.extensions.filter { $0.identifier == HostCertificate.hostKeyExtension }
        guard found.count == 1 else {
            throw HostCertificate.refused("it has \(found.count) of libp2p's extensions with the host's key, not one")
        }
        return try DER.sequence(DER.parse(found[0].value), identifier: .sequence) { nodes in
            (try ASN1OctetString(derEncoded: &nodes).bytes, try ASN1OctetString(derEncoded: &nodes).bytes)
        }
    }

    private static func readExtension(_ node: ASN1Node) throws -> Extension {
        try DER.sequence(node, identifier: .sequence) { nodes in
            let identifier = try ASN1ObjectIdentifier(derEncoded: &nodes)
            let isCritical: Bool = try DER.decodeDefault(&nodes, defaultValue: false)
            return Extension(
                identifier: identifier,
                isCritical: isCritical,
                value: try ASN1OctetString(derEncoded: &nodes).bytes
            )
        }
    }

    /// The algorithm; its parameters are part of the key.
    private static func algorithm(_ node: ASN1Node) throws -> ASN1ObjectIdentifier {
        var nodes = try self.children(of: node)
        return try ASN1ObjectIdentifier(derEncoded: &nodes)
    }

    private static func children(of node: ASN1Node) throws -> ASN1NodeCollection.Iterator {
        guard node.identifier == .sequence, case .constructed(let nodes) = node.content else {
            throw HostCertificate.refused("it is no X.509 certificate")
        }
        return nodes.makeIterator()
    }

    private static func next(_ nodes: inout ASN1NodeCollection.Iterator) throws -> ASN1Node {
        guard let node = nodes.next() else { throw HostCertificate.refused("it is no X.509 certificate") }
        return node
    }

    /// Seconds since 1970 of either form of a time (RFC 5280, 4.1.2.5).
    private static func seconds(_ node: ASN1Node) throws -> Int64 {
        if node.identifier == .utcTime {
            let time = try UTCTime(derEncoded: node)
            return self.seconds(time.year, time.month, time.day, time.hours, time.minutes, time.seconds)
        }
        let time = try GeneralizedTime(derEncoded: node)
        return self.seconds(time.year, time.month, time.day, time.hours, time.minutes, time.seconds)
    }

    /// Days are counted in years that begin in March, so that a leap day is the last of its year.
    private static func seconds(_ year: Int, _ month: Int, _ day: Int, _ h: Int, _ m: Int, _ s: Int) -> Int64 {
        let shifted = month > 2 ? year : year - 1
        let dayOfYear = (153 * ((month + 9) % 12) + 2) / 5 + day - 1
        let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + dayOfYear - 719_468
        return Int64(((days * 24 + h) * 60 + m) * 60 + s)
    }
}
