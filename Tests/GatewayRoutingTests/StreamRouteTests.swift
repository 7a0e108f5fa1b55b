import GatewayRouting
import KubeModel
import MeshCore
import Testing

@Suite("Gateway API: GRPCRoute, TLSRoute, TCPRoute, UDPRoute, BackendTLSPolicy")
struct StreamRouteTests {
    typealias C = Conformance

    @Test("Methods of gRPC are paths")
    func grpcMethods() throws {
        let cluster = try TestCluster(
            C.plain
                + C.route(
                    "g",
                    kind: "GRPCRoute",
                    """
                      rules:
                      - {matches: [{method: {service: pkg.Echo, method: Echo}}], \(C.backend("v1"))}
                      - {matches: [{method: {service: pkg.Echo, method: EchoTwo}}], \(C.backend("v2"))}
                      - {matches: [{method: {service: pkg.All}}], \(C.backend("v3"))}
                      - {matches: [{method: {method: Anywhere}}], \(C.backend("v2"))}
                      - {matches: [{method: {type: RegularExpression, service: "a[0-9]+", method: "M.*"}}], \(C.backend("v1"))}
                      - {matches: [{headers: [{name: version, value: two}]}], \(C.backend("v3"))}
                    """
                ),
            services: C.services
        )
        func call(_ path: String, _ headers: [String: String] = [:]) throws -> String {
            try cluster.outcome(path, method: "POST", headers: headers)
        }
        #expect(try call("/pkg.Echo/Echo") == "v1")
        #expect(try call("/pkg.Echo/EchoTwo") == "v2")
        #expect(try call("/pkg.Echo/EchoThree") == "404")
        #expect(try call("/pkg.All/Any") == "v3")
        #expect(try call("/x.Y/Anywhere") == "v2")
        #expect(try call("/a12/More") == "v1")
        #expect(try call("/pkg.Echo/EchoThree", ["version": "two"]) == "v3")
        #expect(try cluster.outcome("/pkg.Echo/Echo", method: "GET") == "404")
        guard
            case .forward(let backends)? = cluster.hosts(80)?.rule(
                for: try TestRequest("/pkg.All/Any", method: "POST")
            )?.action
        else {
            return #expect(Bool(false))
        }
        #expect(backends[0].backend?.application == .http2)
    }

    private static func services(_ plan: ListenerPlan.Service?, _ name: String?) -> [String]? {
        let route: StreamRoute
        switch plan {
        case .stream(let stream): route = stream
        case .tls(let servers):
            guard case .stream(let stream)? = TLSServer.best(of: servers, for: name)?.service else { return nil }
            route = stream
        default: return nil
        }
        return route.backends.map { "\($0.backend?.service.name ?? "-")*\($0.weight)" }
    }

    @Test("TLS passed through by the name that the client asks for")
    func tlsRoutes() throws {
        let listeners =
            "[{name: one, port: 443, protocol: TLS, hostname: abc.example.com, tls: {mode: Passthrough}}, "
            + "{name: wide, port: 443, protocol: TLS, hostname: \"*.example.com\", tls: {mode: Passthrough}}]"
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("gw", listeners)
                + C.route("one", kind: "TLSRoute", "  hostnames: [\"*.example.com\"]\n  rules: [{\(C.backend("v1"))}]")
                + C.route(
                    "two",
                    parent: "{name: gw, sectionName: wide}",
                    kind: "TLSRoute",
                    "  hostnames: [two.example.com]\n  rules: [{\(C.backend("v2"))}]"
                )
                + C.route("not", kind: "TLSRoute", "  hostnames: [example.org]\n  rules: [{\(C.backend("v3"))}]"),
            services: C.services
        )
        let service = cluster.listener(443)?.service
        #expect(Self.services(service, "abc.example.com") == ["v1*1"])
        #expect(Self.services(service, "two.example.com") == ["v2*1"])
        #expect(Self.services(service, "z.example.com") == ["v1*1"])
        #expect(Self.services(service, "example.org") == nil)
        #expect(Self.services(service, nil) == nil)
        #expect(cluster.status(.tlsRoute, "infra/not")?.parents[0].conditions[0].reason == "NoMatchingListenerHostname")
    }

    @Test("Names belong to a Gateway only at the addresses that it shares")
    func gatewaysWithAddressesOfTheirOwn() throws {
        func gateway(_ name: String, _ hostname: String, at address: String) -> String {
            C.gateway(
                name,
                "[{name: l, port: 443, protocol: TLS, hostname: \"\(hostname)\", tls: {mode: Passthrough}}]\n"
                    + "  addresses: [{value: \(address)}]"
            )
        }
        func route(_ gateway: String, _ backend: String) -> String {
            C.route(
                gateway,
                parent: "{name: \(gateway)}",
                kind: "TLSRoute",
                "  hostnames: [a.example.com]\n  rules: [{\(C.backend(backend))}]"
            )
        }
        let cluster = try TestCluster(
            C.gatewayClass + gateway("narrow", "a.example.com", at: "10.0.0.1") + route("narrow", "v1")
                + gateway("wide", "*.example.com", at: "10.0.0.2") + route("wide", "v2")
                + gateway("shared", "*.com", at: "10.0.0.1") + route("shared", "v3"),
            services: C.services
        )
        func service(_ address: String) -> ListenerPlan.Service? {
            cluster.plan.listeners.first { $0.key.address?.description == address }?.service
        }
        #expect(Self.services(service("10.0.0.1"), "a.example.com") == ["v1*1"])
        #expect(Self.services(service("10.0.0.2"), "a.example.com") == ["v2*1"])
    }

    @Test("A port for TLS is open before there is a route, and leads nowhere")
    func tlsWithoutARoute() throws {
        let listener = "[{name: l, port: 443, protocol: TLS, hostname: a.io, tls: {mode: Passthrough}}]"
        let cluster = try TestCluster(C.gatewayClass + C.gateway("gw", listener))
        #expect(cluster.listener(443) != nil)
        #expect(Self.services(cluster.listener(443)?.service, "a.io") == nil)
    }

    @Test("TLS that ends here, with bytes within")
    func terminatedTLS() throws {
        let cluster = try TestCluster(
            C.gatewayClass
                + C.gateway(
                    "gw",
                    "[{name: l, port: 443, protocol: TLS, hostname: a.io, tls: {mode: Terminate, certificateRefs: [{name: good}]}}]"
                )
                + C.route("r", kind: "TLSRoute", "  hostnames: [a.io]\n  rules: [{\(C.backend("v1"))}]"),
            services: C.services,
            secrets: ["infra/good"]
        )
        guard case .tls(let servers)? = cluster.listener(443)?.service else { return #expect(Bool(false)) }
        #expect(servers.map { $0.termination?.certificates.map(\.description) } == [["infra/good"]])
        #expect(Self.services(.tls(servers), "a.io") == ["v1*1"])
    }

    @Test("TCP and UDP", arguments: [("TCP", ObjectKind.tcpRoute, TransportProtocol.tcp), ("UDP", .udpRoute, .udp)])
    func streams(name: String, kind: ObjectKind, transport: TransportProtocol) throws {
        let cluster = try TestCluster(
            C.gatewayClass
                + C.gateway(
                    "gw",
                    "[{name: a, port: 9000, protocol: \(name)}, {name: b, port: 9001, protocol: \(name)}, {name: h, port: 80, protocol: HTTP}]"
                )
                + C.route(
                    "r",
                    parent: "{name: gw, sectionName: a}",
                    kind: "\(name)Route",
                    "  rules: [{backendRefs: [{name: v1, port: 8080, weight: 9}, {name: v2, port: 8080}]}]"
                )
                + C.route(
                    "bad",
                    parent: "{name: gw, sectionName: h}",
                    kind: "\(name)Route",
                    "  rules: [{\(C.backend("v1"))}]"
                )
                + C.route(
                    "gone",
                    parent: "{name: gw, port: 9001}",
                    kind: "\(name)Route",
                    "  rules: [{\(C.backend("gone"))}]"
                ),
            services: C.services
        )
        #expect(cluster.listener(9000)?.key.transport == transport)
        #expect(Self.services(cluster.listener(9000)?.service, nil) == ["v1*9", "v2*1"])
        #expect(Self.services(cluster.listener(9001)?.service, nil) == ["-*1"])
        #expect(cluster.status(kind, "infra/bad")?.parents[0].conditions[0].reason == "NotAllowedByListeners")
        #expect(cluster.status(kind, "infra/gone")?.parents[0].conditions[1].reason == "BackendNotFound")
    }

    private static func policy(_ name: String, _ validation: String, created: String = "2024-01-01T00:00:00Z") -> String
    {
        """
        apiVersion: gateway.networking.k8s.io/v1alpha3
        kind: BackendTLSPolicy
        metadata: {name: \(name), namespace: infra, creationTimestamp: "\(created)"}
        spec: {targetRefs: [{group: "", kind: Service, name: v1}], validation: {\(validation)}}
        ---

        """
    }

    @Test("TLS to backends")
    func backendTLS() throws {
        func cluster(_ policies: String, configMaps: Set<String> = []) throws -> TestCluster {
            try TestCluster(
                C.plain + C.route("r", "  rules: [{\(C.backend("v1"))}]") + policies,
                services: C.services,
                configMaps: configMaps
            )
        }
        func tls(_ cluster: TestCluster) throws -> BackendTLS? {
            guard case .forward(let backends)? = cluster.hosts(80)?.rule(for: try TestRequest())?.action else {
                return nil
            }
            return backends[0].backend?.tls
        }
        let system = try cluster(Self.policy("p", "hostname: a.io, wellKnownCACertificates: System"))
        #expect(try tls(system) == BackendTLS(name: "a.io", authorities: nil))
        let own = try cluster(
            Self.policy("p", "hostname: a.io, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]"),
            configMaps: ["infra/ca"]
        )
        #expect(try tls(own)?.authorities?.map(\.description) == ["infra/ca"])
        let missing = try cluster(
            Self.policy("p", "hostname: a.io, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]")
        )
        #expect(try missing.outcome("/") == "500")
        #expect(
            missing.status(.backendTLSPolicy, "infra/p")?.conditions.map(\.reason) == [
                "NoValidCACertificate", "InvalidCACertificateRef",
            ]
        )
        let two = try cluster(
            Self.policy("young", "hostname: b.io, wellKnownCACertificates: System", created: "2025-01-01T00:00:00Z")
                + Self.policy("old", "hostname: a.io, wellKnownCACertificates: System")
        )
        #expect(try tls(two)?.name == "a.io")
        #expect(two.status(.backendTLSPolicy, "infra/young")?.conditions[0].reason == "Conflicted")
    }

    @Test("a policy tells its state at the Gateways with a route to its target, whether or not it is in force")
    func policyAncestors() throws {
        let cluster = try TestCluster(
            C.plain + C.gateway("other", "[{name: a, port: 81, protocol: HTTP}, {name: b, port: 82, protocol: HTTP}]")
                + C.route("r", "  rules: [{\(C.backend("v1"))}, {\(C.backend("v1"))}]")
                + C.route(
                    "s",
                    parent: "{name: other, sectionName: a}, {name: other, port: 82}",
                    "  rules: [{\(C.backend("v1"))}]"
                )
                + C.route("t", parent: "{name: gw}, {name: foreign}", "  rules: [{\(C.backend("v2"))}]")
                + Self.policy("old", "hostname: a.io, wellKnownCACertificates: System")
                + Self.policy(
                    "young",
                    "hostname: b.io, wellKnownCACertificates: System",
                    created: "2025-01-01T00:00:00Z"
                )
                + Self.policy("unused", "hostname: a.io, wellKnownCACertificates: System").replacing("v1}", with: "v3}"),
            services: C.services
        )
        func ancestors(_ name: String) -> [String] {
            (cluster.status(.backendTLSPolicy, "infra/\(name)")?.parents ?? []).map { parent in
                let target = parent.reference.target
                let place = "\(target.kind) \(target.namespace ?? "")/\(target.name)"
                #expect(parent.reference.sectionName == nil && parent.reference.port == nil)
                return "\(place) \(TestCluster.text(parent.conditions))"
            }
        }
        let good = "Accepted=Accepted ResolvedRefs=ResolvedRefs"
        #expect(ancestors("old") == ["Gateway infra/gw \(good)", "Gateway infra/other \(good)"])
        let conflicted = "!Accepted=Conflicted ResolvedRefs=ResolvedRefs"
        #expect(ancestors("young") == ["Gateway infra/gw \(conflicted)", "Gateway infra/other \(conflicted)"])
        #expect(ancestors("unused").isEmpty)
    }
}

@Suite("CORS")
struct CORSTests {
    typealias C = Conformance

    private static let filter =
        "allowOrigins: [\"https://www.foo.com\", \"https://*.bar.com\"], allowMethods: [GET, OPTIONS], "
        + "allowHeaders: [x-1, x-2], exposeHeaders: [x-3], allowCredentials: true, maxAge: 3600"

    private static func decision(
        _ filter: String,
        _ origin: String?,
        method: String = "GET",
        asks: String? = nil,
        headers: String? = nil
    ) throws -> CORSDecision {
        let cluster = try TestCluster(
            C.plain + C.route("r", "  rules: [{filters: [{type: CORS, cors: {\(filter)}}], \(C.backend("v1"))}]"),
            services: C.services
        )
        var fields: [String: String] = [:]
        fields["origin"] = origin
        fields["access-control-request-method"] = asks
        fields["access-control-request-headers"] = headers
        let request = try TestRequest("/", method: method, headers: fields)
        return try #require(cluster.hosts(80)?.rule(for: request)?.cors).decision(for: request)
    }

    private static func text(_ decision: CORSDecision) -> [String] {
        switch decision {
        case .none: ["none"]
        case .refusedPreflight: ["refused"]
        case .preflight(let fields), .actual(let fields):
            fields.map { "\($0.name.replacing("access-control-", with: ""))=\($0.value)" }.filter {
                !$0.hasPrefix("vary")
            }
        }
    }

    @Test(
        "Preflights of exact and wildcard origins",
        arguments: ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"]
    )
    func preflight(origin: String) throws {
        let decision = try Self.decision(Self.filter, origin, method: "OPTIONS", asks: "GET", headers: "x-1")
        #expect(
            Self.text(decision) == [
                "allow-origin=\(origin)", "allow-credentials=true", "expose-headers=x-3", "allow-methods=GET, OPTIONS",
                "allow-headers=x-1, x-2",
                "max-age=3600",
            ]
        )
    }

    @Test(
        "Origins that are not allowed",
        arguments: ["https://foobar.com", "https://bar.com", "http://www.foo.com", "https://www.bar.com.evil", "null"]
    )
    func foreign(origin: String) throws {
        #expect(try Self.decision(Self.filter, origin, method: "OPTIONS", asks: "GET") == .refusedPreflight)
        #expect(try Self.decision(Self.filter, origin) == .actual([]))
    }

    @Test("Requests themselves")
    func actual() throws {
        let decision = try Self.decision(Self.filter, "https://www.foo.com")
        #expect(
            Self.text(decision) == ["allow-origin=https://www.foo.com", "allow-credentials=true", "expose-headers=x-3"]
        )
        #expect(try Self.decision(Self.filter, nil) == .none)
        // OPTIONS that asks for no method is a request like others.
        #expect(Self.text(try Self.decision(Self.filter, "https://www.foo.com", method: "OPTIONS")).count == 3)
    }

    @Test("Wildcards for methods and headers say what was asked for")
    func wildcards() throws {
        let filter = "allowOrigins: [\"*\"], allowMethods: [\"*\"], allowHeaders: [\"*\"], allowCredentials: "
        let asked = ["allow-origin=https://o.com:12345", "allow-methods=PUT", "allow-headers=x-1, x-2", "max-age=5"]
        let open = try Self.decision(
            filter + "false",
            "https://o.com:12345",
            method: "OPTIONS",
            asks: "PUT",
            headers: "x-1, x-2"
        )
        #expect(Self.text(open) == asked)
        let closed = try Self.decision(
            filter + "true",
            "https://o.com:12345",
            method: "OPTIONS",
            asks: "PUT",
            headers: "x-1, x-2"
        )
        #expect(Self.text(closed).contains("allow-credentials=true"))
    }
}
