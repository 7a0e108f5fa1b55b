import GatewayRouting
import KubeModel
import MeshCore
import Testing

/// The published cases that ask for conditions.
@Suite("Gateway API: status, references, conflicts")
struct GatewayStatusTests {
    typealias C = Conformance

    private static func grant(_ namespace: String, from: String, _ fromNamespace: String, to: String) -> String {
        """
        apiVersion: gateway.networking.k8s.io/v1beta1
        kind: ReferenceGrant
        metadata: {name: g, namespace: \(namespace)}
        spec:
          from: [{group: gateway.networking.k8s.io, kind: \(from), namespace: \(fromNamespace)}]
          to: [\(to)]
        ---

        """
    }

    /// What stands in a route's rule, and the conditions that the route has.
    private static let references: [(String, String)] = [
        ("backendRefs: [{name: v1, port: 8080}]", "Accepted=Accepted ResolvedRefs=ResolvedRefs"),
        ("backendRefs: [{name: nope, port: 8080}]", "Accepted=Accepted !ResolvedRefs=BackendNotFound"),
        ("backendRefs: [{name: v1, port: 81}]", "Accepted=Accepted !ResolvedRefs=BackendNotFound"),
        ("backendRefs: [{group: x.io, kind: Bucket, name: v1}]", "Accepted=Accepted !ResolvedRefs=InvalidKind"),
        ("backendRefs: [{name: web, namespace: other, port: 8080}]", "Accepted=Accepted !ResolvedRefs=RefNotPermitted"),
        ("filters: [{type: ExtensionRef}]", "Accepted=Accepted !ResolvedRefs=InvalidKind"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}, {type: URLRewrite, urlRewrite: {hostname: a.b}}]",
            "!Accepted=IncompatibleFilters ResolvedRefs=ResolvedRefs"
        ),
    ]

    @Test("References of routes", arguments: references)
    func referenceConditions(rule: String, conditions: String) throws {
        let cluster = try TestCluster(
            C.plain + C.route("r", "  rules: [{\(rule)}]"),
            services: C.services + ["other/web:8080"]
        )
        let status = try #require(cluster.status(.httpRoute, "infra/r"))
        #expect(status.parents.map { TestCluster.text($0.conditions) } == [conditions])
    }

    @Test(
        "A ReferenceGrant opens what it names and nothing else",
        arguments: [
            ("HTTPRoute", "infra", "{group: \"\", kind: Service, name: web}", true),
            ("HTTPRoute", "infra", "{kind: Service}", true),
            ("HTTPRoute", "infra", "{kind: Service, name: other}", false),
            ("HTTPRoute", "infra", "{kind: Secret}", false),
            ("HTTPRoute", "elsewhere", "{kind: Service}", false), ("GRPCRoute", "infra", "{kind: Service}", false),
        ]
    )
    func grants(from: String, namespace: String, to: String, isGranted: Bool) throws {
        let cluster = try TestCluster(
            C.plain + C.route("r", "  rules: [{backendRefs: [{name: web, namespace: other, port: 8080}]}]")
                + Self.grant("other", from: from, namespace, to: to),
            services: ["other/web:8080"]
        )
        #expect(try cluster.outcome("/") == (isGranted ? "web" : "500"))
    }

    @Test("Of a rule with a bad and a good backend each has its share")
    func partlyInvalid() throws {
        let refs = "[{name: v1, port: 8080}, {name: web, namespace: other, port: 8080}]"
        let cluster = try TestCluster(
            C.plain + C.route("r", "  rules: [{backendRefs: \(refs)}]"),
            services: C.services + ["other/web:8080"]
        )
        #expect(try cluster.outcome("/") == "v1 500")
    }

    /// The parent, the namespace of the route, the conditions; nil for no status at all.
    private static let parents: [(String, String, String?)] = [
        ("{name: gw}", "infra", "Accepted=Accepted ResolvedRefs=ResolvedRefs"),
        ("{name: gw, sectionName: web}", "infra", "Accepted=Accepted ResolvedRefs=ResolvedRefs"),
        ("{name: gw, sectionName: nope}", "infra", "!Accepted=NoMatchingParent ResolvedRefs=ResolvedRefs"),
        ("{name: gw, port: 81}", "infra", "!Accepted=NoMatchingParent ResolvedRefs=ResolvedRefs"),
        ("{name: gw, sectionName: web, port: 81}", "infra", "!Accepted=NoMatchingParent ResolvedRefs=ResolvedRefs"),
        ("{name: gw, namespace: infra}", "apps", "!Accepted=NotAllowedByListeners ResolvedRefs=ResolvedRefs"),
        ("{name: other}", "infra", nil), ("{group: x.io, kind: Mesh, name: gw}", "infra", nil),
    ]

    @Test("Parents of routes", arguments: parents)
    func parentConditions(parent: String, namespace: String, conditions: String?) throws {
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("gw", "[{name: web, port: 80, protocol: HTTP}]")
                + C.route("r", parent: parent, namespace: namespace, "  rules: [{\(C.backend("v1"))}]"),
            services: ["infra/v1:8080", "apps/v1:8080"]
        )
        let status = cluster.status(.httpRoute, "\(namespace)/r")
        #expect(status?.parents.map { TestCluster.text($0.conditions) } == conditions.map { [$0] })
    }

    @Test(
        "Namespaces that a listener takes routes from",
        arguments: [
            ("{from: All}", ["infra", "apps", "dev"]), ("{from: Same}", ["infra"]), ("{}", ["infra"]),
            ("{from: None}", []),
            ("{from: Selector, selector: {matchLabels: {team: a}}}", ["apps"]),
            (
                "{from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a, b]}]}}",
                ["apps", "dev"]
            ),
            ("{from: Selector, selector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}", ["infra"]),
            (
                "{from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}",
                ["infra", "dev"]
            ),
        ]
    )
    func allowedNamespaces(namespaces: String, taken: [String]) throws {
        let all = ["infra", "apps", "dev"]
        let cluster = try TestCluster(
            C.gatewayClass
                + C.gateway("gw", "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: \(namespaces)}}]")
                + all.map {
                    C.route(
                        "r",
                        parent: "{name: gw, namespace: infra}",
                        namespace: $0,
                        "  hostnames: [\($0).io]\n  rules: [{\(C.backend("v1"))}]"
                    )
                }
                .joined(),
            services: all.map { "\($0)/v1:8080" },
            namespaces: ["infra": [:], "apps": ["team": "a"], "dev": ["team": "b"]]
        )
        for name in all {
            #expect(try cluster.outcome("/", host: "\(name).io") == (taken.contains(name) ? "v1" : "404"), "\(name)")
        }
        #expect(cluster.status(.gateway, "infra/gw")?.listeners[0].attachedRoutes == taken.count)
    }

    /// A listener, its conditions, the kinds that it takes.
    private static let listeners: [(String, String, [String])] = [
        (
            "port: 80, protocol: HTTP",
            "Accepted=Accepted Programmed=Programmed ResolvedRefs=ResolvedRefs !Conflicted=NoConflicts",
            ["HTTPRoute", "GRPCRoute"]
        ),
        (
            "port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}",
            "Accepted=Accepted Programmed=Programmed ResolvedRefs=ResolvedRefs !Conflicted=NoConflicts", ["HTTPRoute"]
        ),
        (
            "port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: Nope}]}",
            "Accepted=Accepted Programmed=Programmed !ResolvedRefs=InvalidRouteKinds !Conflicted=NoConflicts", []
        ),
        (
            "port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: Nope}, {kind: HTTPRoute}]}",
            "Accepted=Accepted Programmed=Programmed !ResolvedRefs=InvalidRouteKinds !Conflicted=NoConflicts",
            ["HTTPRoute"]
        ),
        (
            "port: 80, protocol: SCTP",
            "!Accepted=UnsupportedProtocol !Programmed=Invalid ResolvedRefs=ResolvedRefs !Conflicted=NoConflicts", []
        ),
        (
            "port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}",
            "Accepted=Accepted Programmed=Programmed ResolvedRefs=ResolvedRefs !Conflicted=NoConflicts",
            ["HTTPRoute", "GRPCRoute"]
        ),
        (
            "port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nope}]}",
            "Accepted=Accepted !Programmed=Invalid !ResolvedRefs=InvalidCertificateRef !Conflicted=NoConflicts",
            ["HTTPRoute", "GRPCRoute"]
        ),
        (
            "port: 443, protocol: HTTPS, tls: {certificateRefs: [{group: x.io, kind: Vault, name: good}]}",
            "Accepted=Accepted !Programmed=Invalid !ResolvedRefs=InvalidCertificateRef !Conflicted=NoConflicts",
            ["HTTPRoute", "GRPCRoute"]
        ),
        (
            "port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: far, namespace: other}]}",
            "Accepted=Accepted !Programmed=Invalid !ResolvedRefs=RefNotPermitted !Conflicted=NoConflicts",
            ["HTTPRoute", "GRPCRoute"]
        ),
        (
            "port: 443, protocol: TLS, tls: {mode: Passthrough}",
            "Accepted=Accepted Programmed=Programmed ResolvedRefs=ResolvedRefs !Conflicted=NoConflicts", ["TLSRoute"]
        ),
        (
            "port: 53, protocol: UDP",
            "Accepted=Accepted Programmed=Programmed ResolvedRefs=ResolvedRefs !Conflicted=NoConflicts", ["UDPRoute"]
        ),
    ]

    @Test("Listeners", arguments: listeners)
    func listener(spec: String, conditions: String, kinds: [String]) throws {
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("gw", "[{name: l, \(spec)}]"),
            secrets: ["infra/good", "other/far"]
        )
        let listener = try #require(cluster.status(.gateway, "infra/gw")?.listeners.first)
        #expect(TestCluster.text(listener.conditions) == conditions)
        #expect(listener.supportedKinds == kinds)
    }

    /// A listener with the Secret `other/far`, and a ReferenceGrant.
    private static func withFarSecret(_ grant: String) throws -> TestCluster {
        let listener =
            "[{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: far, namespace: other}]}}]"
        return try TestCluster(
            C.gatewayClass + C.gateway("gw", listener) + Self.grant("other", from: "Gateway", "infra", to: grant),
            secrets: ["other/far"]
        )
    }

    @Test(
        "A Secret of another namespace, by a ReferenceGrant",
        arguments: ["{kind: Secret}", "{kind: Secret, name: far}"]
    )
    func secretGrant(to: String) throws {
        let cluster = try Self.withFarSecret(to)
        let status = try #require(cluster.status(.gateway, "infra/gw"))
        #expect(TestCluster.text(status.conditions) == "Accepted=Accepted Programmed=Programmed")
        #expect(cluster.compilation.secrets.map(\.description) == ["other/far"])
    }

    @Test("A grant for something else opens no Secret", arguments: ["{kind: Secret, name: near}", "{kind: ConfigMap}"])
    func otherGrants(to: String) throws {
        let cluster = try Self.withFarSecret(to)
        let conditions = try #require(cluster.status(.gateway, "infra/gw")).listeners[0].conditions
        #expect(conditions.first { $0.type == "ResolvedRefs" }?.reason == "RefNotPermitted")
        #expect(cluster.plan.listeners.isEmpty)
    }

    @Test("A listener takes no routes but those of its kinds")
    func otherKinds() throws {
        let cluster = try TestCluster(
            C.gatewayClass
                + C.gateway("gw", "[{name: l, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]")
                + C.route("r", "  rules: [{\(C.backend("v1"))}]"),
            services: C.services
        )
        let conditions = cluster.status(.httpRoute, "infra/r")?.parents.map { TestCluster.text($0.conditions) }
        #expect(conditions == ["!Accepted=NotAllowedByListeners ResolvedRefs=ResolvedRefs"])
        #expect(try cluster.outcome("/") == "404")
    }

    @Test("Listeners of one Gateway that conflict are all out of force")
    func conflicts() throws {
        let listeners =
            "[{name: a, port: 80, protocol: HTTP, hostname: a.io}, {name: b, port: 80, protocol: HTTP, hostname: a.io}, "
            + "{name: c, port: 81, protocol: HTTP}, {name: d, port: 81, protocol: TCP}, {name: e, port: 82, protocol: HTTP}, "
            + "{name: f, port: 53, protocol: UDP}, {name: g, port: 53, protocol: TCP}]"
        let cluster = try TestCluster(C.gatewayClass + C.gateway("gw", listeners))
        let status = try #require(cluster.status(.gateway, "infra/gw"))
        let reasons = status.listeners.map { $0.conditions.first { $0.type == "Conflicted" }?.reason }
        #expect(
            reasons == [
                "HostnameConflict", "HostnameConflict", "ProtocolConflict", "ProtocolConflict", "NoConflicts",
                "NoConflicts", "NoConflicts",
            ]
        )
        #expect(TestCluster.text(status.conditions) == "Accepted=ListenersNotValid Programmed=Programmed")
        #expect(cluster.plan.listeners.map(\.key.port) == [82])
    }

    @Test("Of two Gateways the older has a port, and plain HTTP is shared")
    func severalGateways() throws {
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("a", "[{name: l, port: 80, protocol: HTTP}]")
                + C.gateway("b", "[{name: l, port: 80, protocol: HTTP}]")
                + C.gateway("c", "[{name: l, port: 80, protocol: TCP}]")
                + C.route("ra", parent: "{name: a}", "  rules: [{matches: [{\(C.path("/a"))}], \(C.backend("v1"))}]")
                + C.route("rb", parent: "{name: b}", "  rules: [{matches: [{\(C.path("/b"))}], \(C.backend("v2"))}]"),
            services: C.services
        )
        #expect(try cluster.outcome("/a") == "v1")
        #expect(try cluster.outcome("/b") == "v2")
        #expect(cluster.status(.gateway, "infra/c")?.listeners[0].conditions.last?.reason == "ProtocolConflict")
    }

    @Test("Classes of other controllers are left alone")
    func otherClass() throws {
        let cluster = try TestCluster(
            C.gateway("gw", "[{name: l, port: 80, protocol: HTTP}]")
                + "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: edge}\nspec: {controllerName: other.io/x}\n"
        )
        #expect(cluster.plan.listeners.isEmpty)
        #expect(cluster.compilation.statuses.isEmpty)
    }

    @Test("Static addresses")
    func addresses() throws {
        func gateway(_ addresses: String) -> String {
            C.gateway("gw", "[{name: l, port: 80, protocol: HTTP}]\n  addresses: \(addresses)")
        }
        let cluster = try TestCluster(
            C.gatewayClass + gateway("[{type: IPAddress, value: 10.0.0.1}, {value: \"fd00::1\"}]")
        )
        #expect(cluster.plan.listeners.compactMap(\.key.address?.description) == ["10.0.0.1", "fd00::1"])
        let bad = try TestCluster(C.gatewayClass + gateway("[{type: Hostname, value: a.io}]"))
        #expect(bad.plan.listeners.isEmpty)
        #expect(
            TestCluster.text(bad.status(.gateway, "infra/gw")?.conditions ?? [])
                == "!Accepted=UnsupportedAddress !Programmed=Invalid"
        )
    }

    @Test("Client certificates")
    func clientCertificates() throws {
        func cluster(_ validation: String, configMaps: Set<String>) throws -> TestCluster {
            try TestCluster(
                C.gatewayClass
                    + C.gateway(
                        "gw",
                        "[{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: good}], frontendValidation: \(validation)}}]"
                    ),
                secrets: ["infra/good"],
                configMaps: configMaps
            )
        }
        func termination(_ cluster: TestCluster) -> TLSTermination? {
            guard case .tls(let servers)? = cluster.listener(443)?.service else { return nil }
            return servers.first?.termination
        }
        let good = termination(
            try cluster("{caCertificateRefs: [{kind: ConfigMap, name: ca}]}", configMaps: ["infra/ca"])
        )
        #expect(good?.clientCertificates == .required)
        #expect(good?.authorities.map(\.description) == ["infra/ca"])
        let bad = try cluster("{caCertificateRefs: [{kind: ConfigMap, name: ca}]}", configMaps: [])
        #expect(termination(bad) == nil)
        #expect(bad.status(.gateway, "infra/gw")?.listeners[0].conditions[2].reason == "InvalidCACertificateRef")
        let lax = try cluster(
            "{mode: AllowInsecureFallback, caCertificateRefs: [{name: ca}]}",
            configMaps: ["infra/ca"]
        )
        // A bad certificate lets a client in as none does.
        #expect(termination(lax)?.clientCertificates == .ignored)
        #expect(
            TestCluster.text(lax.status(.gateway, "infra/gw")?.conditions ?? [])
                == "Accepted=Accepted Programmed=Programmed InsecureFrontendValidationMode=ConfigurationChanged"
        )
    }

    @Test("Parameters of a Gateway")
    func parameters() throws {
        let cluster = try TestCluster(
            C.gatewayClass
                + C.gateway(
                    "gw",
                    "[{name: l, port: 80, protocol: HTTP}]\n  infrastructure: {parametersRef: {group: x.io, kind: P, name: p}}"
                )
        )
        #expect(cluster.plan.listeners.isEmpty)
        #expect(
            TestCluster.text(cluster.status(.gateway, "infra/gw")?.conditions ?? [])
                == "!Accepted=InvalidParameters !Programmed=Invalid"
        )
    }
}
