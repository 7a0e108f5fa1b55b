import Glibc
import KubeModel
import MeshCore
import Testing

@testable import KubeClient

/// A folder of files for one test, removed at its end.
final class TestFolder {
    let path: String

    init() throws {
        var template = Array("/tmp/edgemesh-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw KubeError(.invalidConfiguration, "no temporary folder") }
        self.path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        for name in self.names { unlink("\(self.path)/\(name)") }
        rmdir(self.path)
    }

    private var names: Set<String> = []

    @discardableResult
    func write(_ text: String, to name: String, mode: mode_t = 0o600) throws -> String {
        self.names.insert(name)
        let file = "\(self.path)/\(name)"
        // Beside and renamed, as a kubelet rotates: no reader sees half a file.
        let descriptor = open("\(file).new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw KubeError(.invalidConfiguration, "cannot write \(file)") }
        let bytes = Array(text.utf8)
        _ = Glibc.write(descriptor, bytes, bytes.count)
        close(descriptor)
        rename("\(file).new", file)
        return file
    }

    /// Makes `name` be removed at the end too, though a child process wrote it.
    func adopt(_ name: String) -> String {
        self.names.insert(name)
        return "\(self.path)/\(name)"
    }
}

@Suite struct KubeconfigTests {
    private func kubeconfig(cluster: String, user: String) -> String {
        """
        apiVersion: v1
        kind: Config
        current-context: edge
        contexts:
        - name: other
          context: {cluster: none, user: none}
        - name: edge
          context: {cluster: c, user: u, namespace: x}
        clusters:
        - name: c
          cluster: \(cluster)
        users:
        - name: u
          user: \(user)
        """
    }

    private func load(cluster: String, user: String, server: String? = nil) throws -> KubeConfiguration {
        let folder = try TestFolder()
        let file = try folder.write(self.kubeconfig(cluster: cluster, user: user), to: "config")
        return try KubeConfiguration.kubeconfig(path: file, server: server)
    }

    @Test func readsEndpointAndTLS() throws {
        let folder = try TestFolder()
        let text = self.kubeconfig(
            cluster: "{server: 'https://[fd00::1]:6443/k8s/', certificate-authority: ca.crt, tls-server-name: kube}",
            user: "{client-certificate-data: QUJD, client-key: /k.pem, tokenFile: sub/token}"
        )
        let configuration = try KubeConfiguration.kubeconfig(path: try folder.write(text, to: "config"))
        #expect(configuration.endpoint.url == "https://[fd00::1]:6443/k8s")
        #expect(configuration.endpoint.host == "fd00::1")
        #expect(configuration.endpoint.tls.certificateAuthority == .file("\(folder.path)/ca.crt"))
        #expect(configuration.endpoint.tls.serverName == "kube")
        #expect(configuration.endpoint.tls.clientCertificate == .inline(Array("ABC".utf8)))
        #expect(configuration.endpoint.tls.clientKey == .file("/k.pem"))
        #expect(configuration.credentials == .tokenFile("\(folder.path)/sub/token"))
    }

    @Test func readsCredentials() throws {
        let cluster = "{server: 'http://h:1', insecure-skip-tls-verify: true}"
        #expect(try self.load(cluster: cluster, user: "{token: abc}").credentials == .token("abc"))
        #expect(try self.load(cluster: cluster, user: "{}").credentials == .none)
        #expect(
            try self.load(cluster: cluster, user: "{username: u, password: p}").credentials
                == .basic(user: "u", password: "p")
        )
        #expect(try self.load(cluster: cluster, user: "{}").endpoint.tls.skipsVerification)
        #expect(
            try self.load(cluster: cluster, user: "{}", server: "10.0.0.1:8080").endpoint.url == "http://10.0.0.1:8080"
        )
        let exec = try self.load(
            cluster: cluster,
            user:
                "{exec: {apiVersion: client.authentication.k8s.io/v1, command: get, args: [a], "
                + "env: [{name: N, value: V}]}}"
        )
        guard case .exec(let plugin) = exec.credentials else {
            Issue.record("no exec plugin")
            return
        }
        #expect(plugin.command == "get" && plugin.arguments == ["a"])
        #expect(plugin.environment == [.init(name: "N", value: "V")])
    }

    @Test func secretsAreNotPrinted() throws {
        let password = try self.load(cluster: "{server: 'http://h:1'}", user: "{username: u, password: hidden}")
        let token = try self.load(cluster: "{server: 'http://h:1'}", user: "{token: hidden}")
        #expect(!"\(password) \(token)".contains("hidden") && "\(password)".contains("password of u"))
    }

    @Test(arguments: [
        ("{server: 'https://h:6443', proxy-url: 'http://p'}", "{}", "proxy-url"),
        ("{}", "{}", "server"),
        ("{server: 'ftp://h'}", "{}", "unknown scheme"),
        ("{server: 'https://h:99999'}", "{}", "bad port"),
        ("{server: 'https://h', certificate-authority-data: '*'}", "{}", "certificate-authority-data is not base 64"),
        ("{server: 'https://h', insecure-skip-tls-verify: maybe}", "{}", "true or false"),
        ("{server: 'https://h'}", "{client-certificate: a}", "given together"),
        ("{server: 'https://h'}", "{token: 12}", "token must be a text"),
        ("{server: 'https://h'}", "{exec: {command: x, apiVersion: v9}}", "exec.apiVersion"),
        ("{server: 'https://h'}", "{exec: {apiVersion: client.authentication.k8s.io/v1}}", "exec.command"),
        (
            "{server: 'https://h'}",
            "{exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}}", "terminal"
        ),
        ("{server: 'https://h'}", "{auth-provider: {name: gcp}}", "auth-provider"),
        ("{server: 'https://h'}", "{token: t, as: admin}", "as is not supported"),
        ("{server: 'https://h'}", "{token: t, as-groups: [a]}", "as-groups is not supported"),
        ("5", "{}", "cluster is missing"),
        ("{server: 'https://h'", "{}", "is no kubeconfig"),
    ])
    func errorsNameFileAndKey(cluster: String, user: String, expected: String) throws {
        let error = #expect(throws: KubeError.self) { try self.load(cluster: cluster, user: user) }
        let message = error?.message ?? ""
        #expect(message.contains(expected) && message.contains("/config"), "\(message)")
    }

    @Test func missingPartsAreNamed() throws {
        let folder = try TestFolder()
        #expect(throws: KubeError.self) { try KubeConfiguration.kubeconfig(path: "\(folder.path)/absent") }
        let file = try folder.write(self.kubeconfig(cluster: "{server: h}", user: "{}"), to: "config")
        let unknown = #expect(throws: KubeError.self) { try KubeConfiguration.kubeconfig(path: file, context: "nope") }
        #expect(unknown?.message.contains("'nope'") ?? false)
        let empty = try folder.write("", to: "empty")
        #expect(throws: KubeError.self) { try KubeConfiguration.kubeconfig(path: empty) }
    }

    @Test func inCluster() throws {
        let folder = try TestFolder()
        let environment = ["KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"]
        #expect(throws: KubeError.self) {
            try KubeConfiguration.inCluster(folder: folder.path) { environment[$0] }
        }
        try folder.write("token", to: "token")
        let configuration = try KubeConfiguration.inCluster(folder: folder.path) { environment[$0] }
        #expect(configuration.endpoint.url == "https://[fd00::1]:443")
        #expect(configuration.credentials == .tokenFile("\(folder.path)/token"))
        #expect(throws: KubeError.self) { try KubeConfiguration.inCluster(folder: folder.path) { _ in nil } }
    }

    @Test func metaServer() throws {
        var security = KubeConfiguration.MetaServerSecurity()
        let plain = try KubeConfiguration.metaServer("http://127.0.0.1:10550", security: security)
        #expect(plain.endpoint.url == "http://127.0.0.1:10550" && plain.credentials == .none && plain.isMetaServer)
        security.requiresAuthorization = true
        let mutual = try KubeConfiguration.metaServer("http://127.0.0.1:10550", security: security)
        #expect(mutual.endpoint.scheme == .https)
        #expect(mutual.endpoint.tls.clientKey == .file("/etc/edgemesh/metaserver/server.key"))
        #expect(mutual.credentials == .tokenFile("/var/run/secrets/kubernetes.io/serviceaccount/token"))
        security.skipsTLSVerification = true
        let oneWay = try KubeConfiguration.metaServer("http://127.0.0.1:10550", security: security)
        #expect(oneWay.endpoint.tls.skipsVerification && oneWay.endpoint.tls.clientKey == nil)
    }
}

@Suite struct SmallDecoderTests {
    @Test func base64() {
        for (text, plain) in [("", ""), ("TQ==", "M"), ("TWE=", "Ma"), ("TWFu", "Man"), ("TW\nFu", "Man"), ("TQ", "M")]
        {
            #expect(Base64.decode(text.utf8) == Array(plain.utf8))
        }
        for bad in ["T", "TQ===", "T*==", "TQ==x", "TR=="] { #expect(Base64.decode(bad.utf8) == nil, "\(bad)") }
        var generator = SeededGenerator(seed: 3)
        for count in 0..<70 {
            let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
            #expect(Base64.decode(Base64.encode(bytes).utf8) == bytes)
        }
    }

    @Test func timestamps() {
        #expect(Timestamp.rfc3339("1970-01-01T00:00:00Z") == 0)
        #expect(Timestamp.rfc3339("2024-02-29T12:30:45.123Z") == 1_709_209_845)
        #expect(Timestamp.rfc3339("2024-02-29T14:30:45+02:00") == 1_709_209_845)
        #expect(Timestamp.rfc3339("2024-02-29t10:30:45-02:00") == 1_709_209_845)
        #expect(Timestamp.httpDate("Sun, 06 Nov 1994 08:49:37 GMT") == 784_111_777)
        for bad in ["", "2024-02-29", "2024-13-01T00:00:00Z", "2024-02-29T12:30:45", "x024-02-29T12:30:45Z"] {
            #expect(Timestamp.rfc3339(bad) == nil)
        }
        for bad in ["", "Sun, 06 Nov 1994 08:49:37", "Sunday, 06-Nov-94 08:49:37 GMT", "a b Nov d e GMT"] {
            #expect(Timestamp.httpDate(bad) == nil)
        }
    }
}
