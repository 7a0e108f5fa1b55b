import GatewayRouting
public import MeshCore
import NIOSSL
import Synchronization

/// What a Secret or ConfigMap holds for TLS, as PEM. Its description tells nothing of it.
public struct CertificateMaterial: Sendable, Hashable, CustomStringConvertible, CustomReflectable {
    /// `tls.crt`: the certificate and what leads to its root; empty if there is none.
    public var chain: [UInt8]
    /// `tls.key`.
    public var key: [UInt8]
    /// `ca.crt` or `cacert`.
    public var authorities: [UInt8]

    public init(chain: [UInt8] = [], key: [UInt8] = [], authorities: [UInt8] = []) {
        self.chain = chain
        self.key = key
        self.authorities = authorities
    }

    public var description: String { "CertificateMaterial" }
    public var customMirror: Swift.Mirror { Swift.Mirror(self, children: []) }
}

/// The material of a name now; nil if there is none. Any thread; must not block.
public typealias CertificateLookup = @Sendable (ObjectName) -> CertificateMaterial?

/// TLS contexts of a plan, made once and kept while plan and material stay the same. Connections go on with the context that
/// they began with, so a new certificate ends none. Any thread.
final class CertificateStore: Sendable {
    /// A certificate with the names that it is for.
    struct Named: Sendable {
        var names: [HostPattern]
        var context: NIOSSLContext
    }

    private struct ServerEntry {
        var material: [CertificateMaterial?]
        var result: Result<[Named], GatewayError>
    }

    private struct ClientKey: Hashable {
        var tls: BackendTLS
        var application: ApplicationProtocol
    }

    private struct State {
        var server: [TLSTermination: ServerEntry] = [:]
        var client: [ClientKey: (material: [CertificateMaterial?], context: NIOSSLContext)] = [:]
    }

    /// Terminations and backends whose contexts are kept; beyond that all are made anew.
    private static let maximumEntries = 4_096

    private let lookup: CertificateLookup
    private let state = Mutex(State())

    init(_ lookup: @escaping CertificateLookup) { self.lookup = lookup }

    /// The context for a name: that of the certificate that fits, else the first.
    func serverContext(_ termination: TLSTermination, for name: String?) throws(GatewayError) -> NIOSSLContext {
        let known = self.state.withLock { $0.server[termination]?.result }
        let contexts = try (known ?? self.prepare(termination)).get()
        let fitting = name.flatMap { name in contexts.first { $0.names.contains { $0.matches(name) } } }
        guard let context = fitting ?? contexts.first else {
            throw GatewayError(.certificate, "no certificate is named for this host")
        }
        return context.context
    }

    /// Makes the contexts of a termination if they are not there or their material is another now. What it costs, some
    /// milliseconds for each certificate, is better spent off the loops.
    @discardableResult
    func prepare(_ termination: TLSTermination) -> Result<[Named], GatewayError> {
        let objects = termination.certificates + termination.authorities
        let material = objects.map { self.lookup($0) }
        if let entry = self.state.withLock({ $0.server[termination] }), entry.material == material {
            return entry.result
        }
        let result = Result { () throws(GatewayError) in try self.contexts(termination, material) }
        self.state.withLock { state in
            if state.server.count >= Self.maximumEntries { state.server = [:] }
            state.server[termination] = ServerEntry(material: material, result: result)
        }
        return result
    }

    /// Forgets what no plan names any more.
    func keep(only terminations: Set<TLSTermination>) {
        self.state.withLock { state in
            state.server = state.server.filter { terminations.contains($0.key) }
        }
    }

    private func contexts(
        _ termination: TLSTermination,
        _ material: [CertificateMaterial?]
    ) throws(GatewayError) -> [Named] {
        var named: [Named] = []
        var problem: GatewayError?
        let count = termination.certificates.count
        let authorities = try self.authorities(termination, material)
        for (object, found) in zip(termination.certificates, material.prefix(count)) {
            do {
                named.append(try self.context(termination, object, found, authorities))
            } catch {
                // One broken Secret leaves the others in force.
                problem = error
            }
        }
        if named.isEmpty, let problem { throw problem }
        return named
    }

    private func authorities(
        _ termination: TLSTermination,
        _ material: [CertificateMaterial?]
    ) throws(GatewayError) -> [NIOSSLCertificate] {
        guard termination.clientCertificates != .ignored else { return [] }
        let count = termination.certificates.count
        let sources = termination.authorities.isEmpty ? material.prefix(count) : material.dropFirst(count)
        var certificates: [NIOSSLCertificate] = []
        do {
            for source in sources {
                guard let pem = source?.authorities, !pem.isEmpty else { continue }
                certificates += try NIOSSLCertificate.fromPEMBytes(pem)
            }
        } catch {
            throw GatewayError(.certificate, "the authorities of client certificates are no PEM", cause: error)
        }
        guard !certificates.isEmpty else {
            let names = (termination.authorities.isEmpty ? termination.certificates : termination.authorities)
            throw GatewayError(
                .certificate,
                "client certificates are asked for, but none of \(names) has ca.crt or cacert to verify them with"
            )
        }
        return certificates
    }

    private func context(
        _ termination: TLSTermination,
        _ object: ObjectName,
        _ material: CertificateMaterial?,
        _ authorities: [NIOSSLCertificate]
    ) throws(GatewayError) -> Named {
        guard let material, !material.chain.isEmpty, !material.key.isEmpty else {
            throw GatewayError(.certificate, "Secret \(object) is not there or has no tls.crt and tls.key")
        }
        do {
            let chain = try NIOSSLCertificate.fromPEMBytes(material.chain)
            guard let leaf = chain.first else {
                throw GatewayError(.certificate, "tls.crt of Secret \(object) holds no certificate")
            }
            let key = try NIOSSLPrivateKey(bytes: material.key, format: .pem)
            var configuration = TLSConfiguration.makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) },
                privateKey: .privateKey(key)
            )
            configuration.applicationProtocols = ["h2", "http/1.1"]
            configuration.minimumTLSVersion = termination.minimumVersion.version
            configuration.maximumTLSVersion = termination.maximumVersion.version
            if !termination.cipherSuites.isEmpty {
                configuration.cipherSuites = termination.cipherSuites.joined(separator: ":")
            }
            switch termination.clientCertificates {
            case .ignored: configuration.certificateVerification = .none
            case .optional, .unverified: configuration.certificateVerification = .optionalVerification
            case .required: configuration.certificateVerification = .noHostnameVerification
            }
            if !authorities.isEmpty {
                configuration.trustRoots = .certificates(authorities)
                // By the authorities' names clients choose among their certificates (RFC 8446 section 4.2.4).
                configuration.sendCANameList = true
            }
            return Named(
                names: CertificateNames.patterns(leaf),
                context: try NIOSSLContext(configuration: configuration)
            )
        } catch let error as GatewayError {
            throw error
        } catch {
            throw GatewayError(
                .certificate,
                "Secret \(object) has a certificate or key that cannot be used",
                cause: error
            )
        }
    }

    func clientContext(
        _ tls: BackendTLS,
        _ application: ApplicationProtocol
    ) throws(GatewayError) -> NIOSSLContext {
        let key = ClientKey(tls: tls, application: application)
        let material = (tls.authorities ?? []).map { self.lookup($0) }
        if let known = self.state.withLock({ $0.client[key] }), known.material == material { return known.context }
        do {
            var configuration = TLSConfiguration.makeClientConfiguration()
            configuration.applicationProtocols = application == .http2 ? ["h2"] : ["http/1.1"]
            if tls.authorities != nil {
                let authorities = try material.flatMap { try NIOSSLCertificate.fromPEMBytes($0?.authorities ?? []) }
                guard !authorities.isEmpty else {
                    throw GatewayError(.certificate, "no authority is there to verify \(tls.name) with")
                }
                configuration.trustRoots = .certificates(authorities)
            }
            let context = try NIOSSLContext(configuration: configuration)
            self.state.withLock { state in
                if state.client.count >= Self.maximumEntries { state.client = [:] }
                state.client[key] = (material, context)
            }
            return context
        } catch let error as GatewayError {
            throw error
        } catch {
            throw GatewayError(.certificate, "TLS to \(tls.name) cannot be set up", cause: error)
        }
    }
}

/// Names in certificates.
enum CertificateNames {
    static func patterns(_ certificate: NIOSSLCertificate) -> [HostPattern] {
        self.names(certificate, [.dnsName]).compactMap { HostPattern($0) }
    }

    /// Whether it holds one of `names` as a DNS name, URI or mail address.
    static func holds(_ certificate: NIOSSLCertificate, oneOf names: [String]) -> Bool {
        !Set(self.names(certificate, [.dnsName, .uri, .email])).isDisjoint(with: names)
    }

    private static func names(
        _ certificate: NIOSSLCertificate,
        _ types: [_SubjectAlternativeName.NameType]
    ) -> [String] {
        certificate._subjectAlternativeNames().filter { types.contains($0.nameType) }
            .map { String(decoding: $0.contents, as: UTF8.self) }
    }
}

extension TLSTermination.Version {
    fileprivate var version: TLSVersion {
        switch self {
        case .tls10: .tlsv1
        case .tls11: .tlsv11
        case .tls12: .tlsv12
        case .tls13: .tlsv13
        }
    }
}
