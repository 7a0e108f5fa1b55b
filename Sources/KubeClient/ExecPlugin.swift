import Documents
import KubeModel
import NIOCore
import NIOPosix

/// A command that hands out credentials (client-go credential plugins, client.authentication.k8s.io).
public struct ExecPlugin: Hashable, Sendable {
    public struct Variable: Hashable, Sendable {
        public var name: String
        public var value: String

        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    static let apiVersions = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"]

    public var command: String
    public var arguments: [String] = []
    /// Added to this process's environment.
    public var environment: [Variable] = []
    public var apiVersion: String
    public var providesClusterInfo = false
    /// What the kubeconfig's author says to do when the command is missing.
    public var installHint: String?
    /// The command is killed after this time.
    public var timeLimit: Duration = .seconds(30)

    public init(command: String, apiVersion: String) {
        self.command = command
        self.apiVersion = apiVersion
    }

    /// Runs the command on a thread of NIO's pool, where waiting for it blocks nobody.
    func run(for endpoint: KubeEndpoint) async throws -> ExecCredential {
        let request = self.execInfo(endpoint).jsonText(pretty: false)
        let variables = self.environment.map { "\($0.name)=\($0.value)" } + ["KUBERNETES_EXEC_INFO=\(request)"]
        let process = ChildProcess(
            command: self.command,
            arguments: self.arguments,
            variables: variables,
            timeLimit: self.timeLimit
        )
        do {
            let output = try await NIOThreadPool.singleton.runIfActive { try process.run() }
            return try ExecCredential(output, command: self.command, apiVersion: self.apiVersion)
        } catch var error as KubeError {
            if let hint = self.installHint { error.message += "; \(hint)" }
            throw error
        }
    }

    private func execInfo(_ endpoint: KubeEndpoint) -> Document {
        var spec: [Document.Member] = [.init("interactive", false)]
        if self.providesClusterInfo {
            var cluster: [Document.Member] = [.init("server", .string(endpoint.url))]
            if let name = endpoint.tls.serverName { cluster.append(.init("tls-server-name", .string(name))) }
            if endpoint.tls.skipsVerification { cluster.append(.init("insecure-skip-tls-verify", true)) }
            if let authority = endpoint.tls.certificateAuthority, let bytes = try? authority.bytes() {
                cluster.append(.init("certificate-authority-data", .string(Base64.encode(bytes))))
            }
            spec.append(.init("cluster", .object(cluster)))
        }
        return ["apiVersion": .string(self.apiVersion), "kind": "ExecCredential", "spec": .object(spec)]
    }
}

/// What an exec plugin printed.
struct ExecCredential: Hashable, Sendable {
    var token: String?
    var certificate: [UInt8]?
    var key: [UInt8]?
    /// Seconds since 1970; nil means that it lasts until the server refuses it.
    var expiration: Int64?

    init(_ output: [UInt8], command: String, apiVersion: String) throws(KubeError) {
        func invalid(_ reason: String, cause: (any Error)? = nil) -> KubeError {
            KubeError(.credentials, "exec plugin \(command) \(reason)", cause: cause)
        }
        let document: Document
        do {
            document = try Document.parseJSON(output)
        } catch {
            throw invalid("printed no JSON", cause: error)
        }
        guard document["kind"]?.string == "ExecCredential", document["apiVersion"]?.string == apiVersion else {
            throw invalid("printed no ExecCredential of \(apiVersion)")
        }
        guard let status = document["status"] else { throw invalid("printed no status") }
        self.token = status["token"]?.string
        self.certificate = status["clientCertificateData"]?.string.map { Array($0.utf8) }
        self.key = status["clientKeyData"]?.string.map { Array($0.utf8) }
        guard (self.certificate == nil) == (self.key == nil), self.token != nil || self.certificate != nil else {
            throw invalid("must print status.token, or clientCertificateData with clientKeyData")
        }
        if let text = status["expirationTimestamp"]?.string {
            guard let seconds = Timestamp.rfc3339(text) else {
                throw invalid("printed an expirationTimestamp that is no RFC 3339 time: '\(text)'")
            }
            self.expiration = seconds
        }
    }
}

extension PEMSource {
    func bytes() throws(KubeError) -> [UInt8] {
        switch self {
        case .inline(let bytes): bytes
        case .file(let path): try SmallFile.read(path)
        }
    }
}
