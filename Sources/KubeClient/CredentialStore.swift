import Glibc
import KubeModel
import NIOSSL

/// Gives each request its credentials and each connection its TLS context. Reads files anew, so that rotation needs no
/// restart; keeps an exec plugin's answer until it expires or the server refuses it.
actor CredentialStore {
    private let configuration: KubeConfiguration
    private var execCredential: ExecCredential?
    /// Requests that come while the plugin runs wait for the same run.
    private var execRun: Task<ExecCredential, any Error>?
    private var contextKey: TLSMaterial?
    private var context: NIOSSLContext?

    private struct TLSMaterial: Hashable {
        var authority: [UInt8]?
        var certificate: [UInt8]?
        var key: [UInt8]?
    }

    init(_ configuration: KubeConfiguration) {
        self.configuration = configuration
    }

    /// The value of the `Authorization` header, if there is one.
    func authorization() async throws -> String? {
        switch self.configuration.credentials {
        case .none:
            return nil
        case .token(let token):
            return "Bearer \(token)"
        case .tokenFile(let path):
            let text = String(decoding: try SmallFile.read(path), as: UTF8.self)
            let token = text.split(whereSeparator: \.isWhitespace).joined()
            guard !token.isEmpty else { throw KubeError(.credentials, "\(path) holds no token") }
            return "Bearer \(token)"
        case .basic(let user, let password):
            return "Basic \(Base64.encode(Array("\(user):\(password)".utf8)))"
        case .exec(let plugin):
            return try await self.credential(of: plugin).token.map { "Bearer \($0)" }
        }
    }

    /// Call when the server answered 401: the next request asks the exec plugin again.
    func refuse() {
        self.execCredential = nil
    }

    /// Nil for http.
    func tlsContext() async throws -> NIOSSLContext? {
        let endpoint = self.configuration.endpoint
        guard endpoint.scheme == .https else { return nil }
        var material = TLSMaterial(
            authority: try endpoint.tls.certificateAuthority?.bytes(),
            certificate: try endpoint.tls.clientCertificate?.bytes(),
            key: try endpoint.tls.clientKey?.bytes()
        )
        if case .exec(let plugin) = self.configuration.credentials {
            let credential = try await self.credential(of: plugin)
            material.certificate = credential.certificate ?? material.certificate
            material.key = credential.key ?? material.key
        }
        if let context = self.context, material == self.contextKey { return context }
        let context = try Self.makeContext(
            material,
            skipsVerification: endpoint.tls.skipsVerification,
            endpoint: endpoint
        )
        self.context = context
        self.contextKey = material
        return context
    }

    private func credential(of plugin: ExecPlugin) async throws -> ExecCredential {
        // A little early, so that no request leaves with a token that expires on its way.
        if let known = self.execCredential, known.expiration.map({ $0 > Int64(time(nil)) + 10 }) ?? true {
            return known
        }
        let endpoint = self.configuration.endpoint
        let run = self.execRun ?? Task { try await plugin.run(for: endpoint) }
        self.execRun = run
        defer { self.execRun = nil }
        let credential = try await run.value
        self.execCredential = credential
        return credential
    }

    private static func makeContext(
        _ material: TLSMaterial,
        skipsVerification: Bool,
        endpoint: KubeEndpoint
    ) throws(KubeError) -> NIOSSLContext {
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.minimumTLSVersion = .tlsv12
        tls.certificateVerification = skipsVerification ? .none : .fullVerification
        tls.applicationProtocols = ["http/1.1"]
        func failure(_ what: String, _ source: PEMSource?, _ error: any Error) -> KubeError {
            let place = if case .file(let path) = source { " in \(path)" } else { "" }
            return KubeError(.tls, "\(what)\(place) for \(endpoint.url) cannot be used: is it PEM?", cause: error)
        }
        if let authority = material.authority {
            do {
                tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(authority))
            } catch {
                throw failure("the certificate authority", endpoint.tls.certificateAuthority, error)
            }
        }
        if let certificate = material.certificate, let key = material.key {
            do {
                tls.certificateChain = try NIOSSLCertificate.fromPEMBytes(certificate).map { .certificate($0) }
            } catch {
                throw failure("the client certificate", endpoint.tls.clientCertificate, error)
            }
            do {
                tls.privateKey = .privateKey(try NIOSSLPrivateKey(bytes: key, format: .pem))
            } catch {
                throw failure("the client key", endpoint.tls.clientKey, error)
            }
        }
        do {
            return try NIOSSLContext(configuration: tls)
        } catch {
            throw failure("the TLS configuration", nil, error)
        }
    }
}
