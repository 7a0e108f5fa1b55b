import Documents
import GatewayRouting
import KubeModel
import MeshCore
import Testing

/// A request as tests write it.
struct TestRequest: GatewayRequest {
    var method = "GET"
    var path = "/"
    var query: String?
    var authority = "example.com"
    var scheme = "http"
    var port: UInt16 = 80
    var headers: [String: String] = [:]

    init(
        _ target: String = "/",
        host: String = "example.com",
        method: String = "GET",
        headers: [String: String] = [:],
        scheme: String = "http",
        port: UInt16 = 80
    ) throws {
        let target = try RequestTarget(target)
        (self.path, self.query) = (target.path, target.query)
        (self.authority, self.method, self.scheme, self.port) = (host, method, scheme, port)
        for (name, value) in headers { self.headers[name.lowercased()] = value }
    }

    func header(_ name: String) -> String? { self.headers[name] }
}

/// An object of Istio's in the namespace `shop`.
func istioObject(_ kind: String, _ name: String, _ spec: Document) -> Document {
    [
        "apiVersion": "networking.istio.io/v1", "kind": .string(kind),
        "metadata": ["name": .string(name), "namespace": "shop"], "spec": spec,
    ]
}

func gatewayResources(_ documents: [Document]) throws -> [GatewayResource] {
    try documents.flatMap { document in
        try ClusterObject.decode(document).compactMap { if case .gateway(let resource) = $0 { resource } else { nil } }
    }
}

/// A cluster of manifests, and the plan that is made of it.
struct TestCluster {
    let compilation: GatewayCompilation

    /// - Parameters:
    ///   - services: `NAMESPACE/NAME:PORT`, with `=PROTOCOL` after it for an `appProtocol`.
    ///   - secrets: `NAMESPACE/NAME`, with `+ca` after it for one with a `ca.crt`.
    init(
        _ manifests: String,
        services: [String] = [],
        secrets: [String] = [],
        namespaces: [String: [String: String]] = [:],
        configMaps: Set<String> = [],
        settings: CompilerSettings = CompilerSettings()
    ) throws {
        var resources: [GatewayResource] = []
        var rules: [DestinationRuleObject] = []
        for document in try Document.parseYAML(Array(manifests.utf8)) where !document.isNull {
            for object in try ClusterObject.decode(document) {
                switch object {
                case .gateway(let resource): resources.append(resource)
                case .destinationRule(let rule): rules.append(rule)
                default: Issue.record("unexpected \(object)")
                }
            }
        }
        var facts: [ObjectName: ServiceFacts] = [:]
        for text in services {
            let (place, appProtocol) = Self.cut(text, at: "=")
            let (full, number) = Self.cut(place, at: ":")
            let (namespace, short) = Self.cut(full, at: "/")
            let name = ObjectName(namespace: namespace, name: short)
            let port = try #require(UInt16(number))
            let servicePort = ServiceObject.Port(port: port, appProtocol: appProtocol.isEmpty ? nil : appProtocol)
            let subsets = rules.filter { $0.host == short }.flatMap(\.subsets.keys)
            facts[name, default: ServiceFacts(ports: [], subsets: Set(subsets))].ports.append(servicePort)
        }
        let known = facts
        let input = GatewayInput(
            resources: resources,
            destinationRules: rules,
            namespaceLabels: namespaces,
            service: { known[$0] },
            secret: { name in
                let hasAuthority = secrets.contains("\(name)+ca")
                guard hasAuthority || secrets.contains("\(name)") else { return nil }
                return SecretFacts(hasCertificate: true, hasAuthority: hasAuthority)
            },
            hasAuthority: { configMaps.contains("\($0)") }
        )
        self.compilation = GatewayCompiler.compile(input, settings: settings)
    }

    private static func cut(_ text: String, at mark: Character) -> (String, String) {
        let parts = text.split(separator: mark, maxSplits: 1).map(String.init)
        return (parts[0], parts.count > 1 ? parts[1] : "")
    }

    var plan: GatewayPlan { self.compilation.plan }

    func listener(_ port: UInt16, address: String? = nil) -> ListenerPlan? {
        self.plan.listeners.first { $0.key.port == port && $0.key.address == address.flatMap { IPAddress($0) } }
    }

    /// The hosts behind a port; of TLS those of the server for `name`.
    func hosts(_ port: UInt16, name: String? = nil) -> HTTPHosts? {
        switch self.listener(port)?.service {
        case .http(let hosts): return hosts
        case .tls(let servers):
            guard case .http(let hosts)? = TLSServer.best(of: servers, for: name)?.service else { return nil }
            return hosts
        default: return nil
        }
    }

    /// What becomes of a request: the names of its backends with those weights that are not 1, a status, or where it is sent.
    func outcome(_ request: TestRequest) -> String {
        guard let rule = self.hosts(request.port, name: RequestHost(request.authority)?.name)?.rule(for: request) else {
            return "404"
        }
        switch rule.action {
        case .respond(let response): return "\(response.status)"
        case .redirect(let redirect):
            return "\(redirect.status) \(redirect.location(for: request, match: rule.match(for: request)) ?? "-")"
        case .forward(let backends):
            return backends.map { entry in
                guard let backend = entry.backend else { return "500" }
                let subset = backend.subset.map { "[\($0)]" } ?? ""
                return backend.service.name + subset + (entry.weight == 1 ? "" : "*\(entry.weight)")
            }.joined(separator: " ")
        }
    }

    func outcome(
        _ target: String,
        host: String = "example.com",
        method: String = "GET",
        headers: [String: String] = [:],
        port: UInt16 = 80
    ) throws -> String {
        self.outcome(try TestRequest(target, host: host, method: method, headers: headers, port: port))
    }

    func status(_ kind: ObjectKind, _ name: String) -> GatewayStatus? {
        self.compilation.statuses.first { $0.kind == kind && $0.name.description == name }
    }

    /// `Type=Reason` of the conditions that are true, `!Type=Reason` of those that are not.
    static func text(_ conditions: [GatewayCondition]) -> String {
        conditions.map { "\($0.isTrue ? "" : "!")\($0.type)=\($0.reason)" }.joined(separator: " ")
    }

    func finds(_ severity: GatewayFinding.Severity, _ field: String, _ text: String) -> Bool {
        self.compilation.findings.contains { $0.severity == severity && $0.field == field && $0.message.contains(text) }
    }
}

/// The class and the plain Gateway that most cases need; backends `v1` to `v3` in the namespace `infra`.
enum Conformance {
    static let services = ["infra/v1:8080", "infra/v2:8080", "infra/v3:8080"]

    static let gatewayClass = """
        apiVersion: gateway.networking.k8s.io/v1
        kind: GatewayClass
        metadata: {name: edge}
        spec: {controllerName: kubeedge.io/edgemesh-gateway}
        ---

        """

    static func gateway(_ name: String, _ listeners: String, namespace: String = "infra") -> String {
        """
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: \(name), namespace: \(namespace)}
        spec:
          gatewayClassName: edge
          listeners: \(listeners)
        ---

        """
    }

    static let plain = gatewayClass + gateway("gw", "[{name: http, port: 80, protocol: HTTP}]")

    /// - Parameter spec: what stands in `spec` besides the parent, indented by two.
    static func route(
        _ name: String,
        parent: String = "{name: gw}",
        kind: String = "HTTPRoute",
        namespace: String = "infra",
        _ spec: String
    ) -> String {
        """
        apiVersion: gateway.networking.k8s.io/v1
        kind: \(kind)
        metadata: {name: \(name), namespace: \(namespace)}
        spec:
          parentRefs: [\(parent)]
        \(spec)
        ---

        """
    }

    static func backend(_ name: String) -> String { "backendRefs: [{name: \(name), port: 8080}]" }

    static func path(_ path: String, _ type: String = "PathPrefix") -> String {
        "path: {type: \(type), value: \"\(path)\"}"
    }
}

extension TLSServer {
    static func best(of servers: [TLSServer], for name: String?) -> TLSServer? {
        TLSNames(servers).position(of: name).map { servers[$0] }
    }
}
