import Documents
import KubeModel
import MeshCore
import Testing

/// Secrets and ConfigMaps: what they hold for TLS, and that nothing tells it.
@Suite struct CredentialObjectTests {
    private static func decode(_ yaml: String) throws -> CredentialObject {
        let objects = try ClusterObject.decode(try Document.parseYAML(Array(yaml.utf8))[0])
        guard case .credentials(let object) = try #require(objects.first) else {
            throw ObjectError(.unsupportedKind, field: "", message: "\(objects)", at: .none)
        }
        return object
    }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    @Test func theFormsOfKubernetesAndIstioAreRead() throws {
        // `c`, `k` and `a` in base 64.
        let kubernetes = try Self.decode(
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {tls.crt: Yw==, tls.key: aw==, ca.crt: YQ==}}"
        )
        #expect(kubernetes.kind == .secret && kubernetes.name.description == "default/s")
        let istio = try Self.decode(
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {cert: Yw==, key: aw==, cacert: YQ==}}"
        )
        let written = try Self.decode(
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {tls.crt: c, tls.key: k, ca.crt: a}}"
        )
        for object in [kubernetes, istio, written] {
            #expect([object.chain, object.key, object.authorities].map(Self.text) == ["c", "k", "a"])
        }
        let map = try Self.decode(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {ca.crt: a, tls.key: k, other: x}}"
        )
        #expect(map.kind == .configMap && map.key.isEmpty && Self.text(map.authorities) == "a")
    }

    @Test func nothingPrintsIt() throws {
        let object = try Self.decode(
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {tls.crt: open, tls.key: hidden}}"
        )
        let event = SourceEvent.upsert(.credentials(object))
        var dumped = ""
        dump(event, to: &dumped)
        for text in ["\(object)", "\(event)", dumped, ClusterObject.credentials(object).document.jsonText()] {
            #expect(!text.contains("hidden") && !text.contains("104, 105"), "\(text)")
        }
    }

    @Test(arguments: ["{tls.key: '%%'}", "{tls.key: {secret: 1}}", "{tls.key: [secret]}", "{tls.key: 12345}"])
    func errorsDoNotTellWhatIsThere(data: String) {
        #expect {
            try Self.decode("{apiVersion: v1, kind: Secret, metadata: {name: s}, data: \(data)}")
        } throws: { error in
            "\(error)" == "Secret default/s: data.tls.key is no base 64"
        }
    }
}
