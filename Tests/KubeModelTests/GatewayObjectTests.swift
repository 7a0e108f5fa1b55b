import Documents
import KubeModel
import MeshCore
import Testing

@Suite("Objects of the edge gateway")
struct GatewayObjectTests {
    private static func decode(_ text: String) throws -> GatewayResource {
        let documents = try Document.parseYAML(Array(text.utf8))
        guard case .gateway(let resource)? = try ClusterObject.decode(#require(documents.first)).first else {
            throw NoResource()
        }
        return resource
    }

    private struct NoResource: Error {}

    private static func object(_ kind: String, _ version: String, _ spec: String) -> String {
        "apiVersion: \(version)\nkind: \(kind)\nmetadata: {name: x, namespace: n, generation: 7, creationTimestamp: \"2024-05-06T07:08:09Z\"}\nspec: \(spec)\n"
    }

    private static let istio = "networking.istio.io/v1alpha3"
    private static let api = "gateway.networking.k8s.io/v1"

    private static let kinds: [(String, String, String, ObjectKind)] = [
        ("Gateway", istio, "{servers: []}", .istioGateway), ("Gateway", "networking.istio.io/v1", "{}", .istioGateway),
        ("VirtualService", "networking.istio.io/v1beta1", "{hosts: [a]}", .virtualService),
        ("GatewayClass", api, "{controllerName: a.io/b}", .gatewayClass),
        ("Gateway", api, "{gatewayClassName: a}", .gateway),
        ("Gateway", "gateway.networking.k8s.io/v1beta1", "{gatewayClassName: a}", .gateway),
        ("HTTPRoute", api, "{rules: []}", .httpRoute),
        ("GRPCRoute", api, "{}", .grpcRoute), ("TLSRoute", "gateway.networking.k8s.io/v1alpha2", "{}", .tlsRoute),
        ("TCPRoute", "gateway.networking.k8s.io/v1alpha2", "{}", .tcpRoute),
        ("UDPRoute", "gateway.networking.k8s.io/v1alpha2", "{}", .udpRoute),
        ("ReferenceGrant", "gateway.networking.k8s.io/v1beta1", "{from: [], to: []}", .referenceGrant),
        ("BackendTLSPolicy", "gateway.networking.k8s.io/v1alpha3", "{validation: {hostname: a}}", .backendTLSPolicy),
    ]

    @Test("Kinds, also those that share a name; what is written reads back", arguments: kinds)
    func readsBack(kind: String, version: String, spec: String, expected: ObjectKind) throws {
        let resource = try Self.decode(Self.object(kind, version, spec))
        #expect(resource.kind == expected)
        #expect(resource.name == ObjectName(namespace: expected == .gatewayClass ? "" : "n", name: "x"))
        #expect(resource.generation == 7)
        #expect(resource.created == "2024-05-06T07:08:09Z")
        #expect(ObjectKind.gatewayKinds.contains(resource.kind))
        let object = ClusterObject.gateway(resource)
        #expect(try ClusterObject.decode(object.document) == [object])
        #expect(try ClusterObject.decode(Document.parseJSON(Array(object.document.jsonText().utf8))) == [object])
    }

    /// The kind, its version, the spec, the field at fault, a part of what is said.
    private static let broken: [(String, String, String, String, String)] = [
        ("Gateway", istio, "{servers: [{hosts: [a]}]}", "spec.servers[0].port.number", "is missing"),
        (
            "Gateway", istio, "{servers: [{port: {number: 0, protocol: HTTP}}]}", "spec.servers[0].port.number",
            "from 1 to 65535"
        ),
        (
            "Gateway", istio, "{servers: [{port: {number: 80, protocol: HTTP}, tls: {mode: simple}}]}",
            "spec.servers[0].tls.mode", "SIMPLE"
        ),
        (
            "Gateway", istio, "{servers: [{port: {number: 80, protocol: HTTP}, hosts: a}]}", "spec.servers[0].hosts",
            "must be a list"
        ),
        (
            "VirtualService", istio, "{http: [{match: [{uri: {exact: a, prefix: b}}]}]}", "spec.http[0].match[0].uri",
            "one of exact"
        ),
        (
            "VirtualService", istio, "{http: [{match: [{headers: [a]}]}]}", "spec.http[0].match[0].headers",
            "must be an object"
        ),
        (
            "VirtualService", istio, "{http: [{route: [{destination: {}}]}]}", "spec.http[0].route[0].destination.host",
            "is missing"
        ),
        (
            "VirtualService", istio, "{http: [{route: [{destination: {host: a}, weight: -1}]}]}",
            "spec.http[0].route[0].weight", "-1"
        ),
        ("VirtualService", istio, "{http: [{timeout: soon}]}", "spec.http[0].timeout", "a duration such as"),
        ("VirtualService", istio, "{http: [{timeout: 99999999999999h}]}", "spec.http[0].timeout", "at most"),
        (
            "VirtualService", istio, "{http: [{directResponse: {status: 99}}]}", "spec.http[0].directResponse.status",
            "from 200 to 599"
        ),
        (
            "VirtualService", istio, "{http: [{rewrite: {uri: /a, uriRegexRewrite: {match: a}}}]}",
            "spec.http[0].rewrite.uriRegexRewrite", "remove one"
        ),
        ("VirtualService", istio, "{tls: [{match: [{port: 1}]}]}", "spec.tls[0].match[0].sniHosts", "is missing"),
        ("GatewayClass", api, "{}", "spec.controllerName", "is missing"),
        ("Gateway", api, "{}", "spec.gatewayClassName", "is missing"),
        (
            "Gateway", api,
            "{gatewayClassName: a, listeners: [{name: l, port: 1, protocol: TCP}, {name: l, port: 2, protocol: TCP}]}",
            "spec.listeners[1].name", "another listener"
        ),
        (
            "Gateway", api,
            "{gatewayClassName: a, listeners: [{name: l, port: 1, protocol: TCP, allowedRoutes: {namespaces: {from: all}}}]}",
            "spec.listeners[0].allowedRoutes.namespaces.from", "All, Same, Selector"
        ),
        (
            "HTTPRoute", api, "{rules: [{matches: [{path: {value: a}}]}]}", "spec.rules[0].matches[0].path.value",
            "begins with /"
        ),
        (
            "HTTPRoute", api, "{rules: [{matches: [{path: {type: Prefix, value: /}}]}]}",
            "spec.rules[0].matches[0].path.type", "PathPrefix"
        ),
        (
            "HTTPRoute", api, "{rules: [{backendRefs: [{name: a, weight: 2000000}]}]}",
            "spec.rules[0].backendRefs[0].weight", "1000000"
        ),
        ("HTTPRoute", api, "{rules: [{filters: [{}]}]}", "spec.rules[0].filters[0].type", "is missing"),
        (
            "HTTPRoute", api,
            "{rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}, fraction: {numerator: 3, denominator: 2}}}]}]}",
            "spec.rules[0].filters[0].requestMirror.fraction", "at most 1"
        ),
        (
            "GRPCRoute", api, "{rules: [{matches: [{method: {}}]}]}", "spec.rules[0].matches[0].method",
            "service, method or both"
        ),
        ("HTTPRoute", api, "{parentRefs: [{}]}", "spec.parentRefs[0].name", "is missing"),
        ("ReferenceGrant", api, "{from: [{kind: a}]}", "spec.from[0].namespace", "is missing"),
        ("BackendTLSPolicy", api, "{}", "spec.validation.hostname", "is missing"),
    ]

    @Test("What is wrong is said with its place", arguments: broken)
    func refused(kind: String, version: String, spec: String, field: String, message: String) throws {
        let error = #expect(throws: ObjectError.self) { try Self.decode(Self.object(kind, version, spec)) }
        #expect(error?.field == field)
        #expect(error?.message.contains(message) == true, "\(String(describing: error))")
        #expect(error?.position.line == 4)
        #expect(error?.rejectedObject != nil)
    }

    @Test("Labels of namespaces; subsets and TLS of DestinationRules read back")
    func others() throws {
        let texts = [
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {team: x}}\n",
            """
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: a, namespace: n}
            spec:
              host: a
              trafficPolicy:
                tls: {mode: SIMPLE, sni: s, credentialName: c, subjectAltNames: [t]}
                portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]
              subsets: [{name: v1, labels: {version: v1}}, {name: v2}]
            """,
        ]
        for text in texts {
            let document = try #require(try Document.parseYAML(Array(text.utf8)).first)
            let object = try #require(try ClusterObject.decode(document).first)
            #expect(try ClusterObject.decode(object.document) == [object])
            switch object {
            case .namespace(let namespace): #expect(namespace.labels == ["team": "x"])
            case .destinationRule(let rule):
                #expect(rule.tls?.sni == "s")
                #expect(rule.portTLS[80]?.mode == "DISABLE")
                #expect(rule.subsets == ["v1": ["version": "v1"], "v2": [:]])
            default: Issue.record("\(object)")
            }
        }
    }
}
