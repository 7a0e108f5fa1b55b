import GatewayRouting
import KubeModel
import MeshCore
import Testing

@Suite("Istio: Gateways and VirtualServices")
struct IstioTests {
    private static let services = [
        "default/reviews:9080", "default/ratings:9080", "default/productpage:9080", "prod/web:80",
    ]

    private static func gateway(_ servers: String, name: String = "gw", namespace: String = "default") -> String {
        """
        apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata: {name: \(name), namespace: \(namespace)}
        spec:
          selector: {istio: ingressgateway}
          servers: \(servers)
        ---

        """
    }

    private static let plain = gateway("[{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]")

    /// - Parameter spec: `http`, `tls` or `tcp`, indented by two.
    private static func service(
        _ spec: String,
        name: String = "vs",
        hosts: String = "[\"*\"]",
        gateways: String = "[gw]",
        namespace: String = "default",
        created: String = ""
    ) -> String {
        """
        apiVersion: networking.istio.io/v1beta1
        kind: VirtualService
        metadata: {name: \(name), namespace: \(namespace), creationTimestamp: "\(created)"}
        spec:
          hosts: \(hosts)
          gateways: \(gateways)
        \(spec)
        ---

        """
    }

    private static func to(_ host: String, port: Int = 9080) -> String {
        "route: [{destination: {host: \(host), port: {number: \(port)}}}]"
    }

    private static func cluster(_ http: String, rules: String = "") throws -> TestCluster {
        try TestCluster(plain + service("  http:\n" + http) + rules, services: services)
    }

    private static func rule(_ http: String, _ request: TestRequest, rules: String = "") throws -> HTTPRule {
        try #require(try self.cluster(http, rules: rules).hosts(80)?.rule(for: request))
    }

    @Test("The sample of Bookinfo")
    func bookinfo() throws {
        let cluster = try Self.cluster(
            """
              - match: [{uri: {exact: /productpage}}, {uri: {prefix: /static}}, {uri: {exact: /login}}, {uri: {prefix: /api/v1/products}}]
                \(Self.to("productpage"))
            """
        )
        for target in [
            "/productpage", "/productpage?u=1", "/static/x.css", "/staticfile", "/login", "/api/v1/products/3",
        ] {
            #expect(try cluster.outcome(target) == "productpage", "\(target)")
        }
        for target in ["/", "/productpage/", "/logins", "/api/v1"] {
            #expect(try cluster.outcome(target) == "404", "\(target)")
        }
    }

    /// A match, a target, a method, headers, whether it holds.
    private static let matches: [(String, String, String, [String: String], Bool)] = [
        ("{headers: {end-user: {exact: jason}}}", "/", "GET", ["End-User": "jason"], true),
        ("{headers: {end-user: {exact: jason}}}", "/", "GET", ["End-User": "jasons"], false),
        (
            "{headers: {cookie: {regex: \"^(.*?;)?(user=jason)(;.*)?$\"}}}", "/", "GET",
            ["Cookie": "a=b;user=jason;c=d"], true
        ),
        ("{headers: {x: {prefix: ab}}}", "/", "GET", ["X": "abc"], true),
        ("{headers: {x: {}}}", "/", "GET", ["X": ""], true),
        ("{headers: {x: {}}}", "/", "GET", [:], false), ("{withoutHeaders: {x: {}}}", "/", "GET", [:], true),
        ("{withoutHeaders: {x: {exact: a}}}", "/", "GET", ["X": "b"], true),
        ("{withoutHeaders: {x: {exact: a}}}", "/", "GET", ["X": "a"], false),
        ("{queryParams: {k: {exact: v}}}", "/?k=v", "GET", [:], true),
        ("{queryParams: {k: {regex: \"\\\\d+$\"}}}", "/?k=123", "GET", [:], true),
        ("{queryParams: {k: {regex: \"\\\\d+$\"}}}", "/?k=123abc", "GET", [:], false),
        ("{queryParams: {k: {exact: \"\"}}}", "/?k", "GET", [:], true),
        ("{method: {exact: POST}}", "/", "POST", [:], true),
        ("{method: {regex: \"PUT|POST\"}}", "/", "GET", [:], false),
        ("{scheme: {exact: https}}", "/", "GET", [:], false), ("{authority: {prefix: example}}", "/", "GET", [:], true),
        ("{uri: {regex: \"/a/[0-9]+\"}}", "/a/12", "GET", [:], true),
        ("{uri: {regex: \"/a/[0-9]+\"}}", "/a/12/b", "GET", [:], false),
        ("{uri: {exact: /Abc}, ignoreUriCase: true}", "/aBC", "GET", [:], true),
        ("{uri: {prefix: /}}", "/anything/at/all", "GET", [:], true),
        ("{port: 80}", "/", "GET", [:], true), ("{port: 81}", "/", "GET", [:], false),
        ("{gateways: [gw]}", "/", "GET", [:], true),
        ("{gateways: [mesh]}", "/", "GET", [:], false), ("{sourceLabels: {app: x}}", "/", "GET", [:], false),
        ("{uri: {prefix: /a}, headers: {x: {exact: b}}}", "/a", "GET", [:], false),
    ]

    @Test("Matches", arguments: matches)
    func match(match: String, target: String, method: String, headers: [String: String], holds: Bool) throws {
        let cluster = try Self.cluster("  - {match: [\(match)], \(Self.to("reviews"))}")
        #expect(try cluster.outcome(target, method: method, headers: headers) == (holds ? "reviews" : "404"))
    }

    @Test("The first rule that matches is in force, and a rule without a match takes all")
    func order() throws {
        let cluster = try Self.cluster(
            """
              - {match: [{uri: {prefix: /a}}], \(Self.to("reviews"))}
              - {match: [{uri: {prefix: /a/b}}], \(Self.to("ratings"))}
              - {\(Self.to("productpage"))}
            """
        )
        #expect(try cluster.outcome("/a/b") == "reviews")
        #expect(try cluster.outcome("/z") == "productpage")
    }

    @Test("Several VirtualServices of one host: the older first, what takes everything last")
    func merged() throws {
        let cluster = try TestCluster(
            Self.plain
                + Self.service(
                    "  http: [{match: [{uri: {prefix: /a}}], \(Self.to("ratings"))}]",
                    name: "young",
                    created: "2024-02-01T00:00:00Z"
                )
                + Self.service(
                    "  http: [{match: [{uri: {prefix: /a/b}}], \(Self.to("productpage"))}, {\(Self.to("reviews"))}]",
                    name: "old",
                    created: "2024-01-01T00:00:00Z"
                ),
            services: Self.services
        )
        #expect(try cluster.outcome("/a/b") == "productpage")
        #expect(try cluster.outcome("/a") == "ratings")
        #expect(try cluster.outcome("/z") == "reviews")
    }

    @Test("Hosts: the most specific alone is in force")
    func hosts() throws {
        let cluster = try TestCluster(
            Self.gateway(
                "[{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*.example.com\", \"prod/other.io\", \"./own.io\"]}]"
            )
                + Self.service("  http: [{\(Self.to("reviews"))}]", name: "wide", hosts: "[\"*.example.com\"]")
                + Self.service(
                    "  http: [{match: [{uri: {prefix: /a}}], \(Self.to("ratings"))}]",
                    name: "narrow",
                    hosts: "[a.example.com, not.io]"
                )
                + Self.service("  http: [{\(Self.to("reviews"))}]", name: "shut", hosts: "[other.io, own.io]")
                + Self.service(
                    "  http: [{\(Self.to("web", port: 80))}]",
                    name: "far",
                    hosts: "[other.io, own.io]",
                    gateways: "[default/gw]",
                    namespace: "prod"
                ),
            services: Self.services
        )
        #expect(try cluster.outcome("/", host: "b.example.com") == "reviews")
        #expect(try cluster.outcome("/a", host: "a.example.com:80") == "ratings")
        #expect(try cluster.outcome("/", host: "a.example.com") == "404")
        #expect(try cluster.outcome("/", host: "example.com") == "404")
        #expect(try cluster.outcome("/", host: "not.io") == "404")
        #expect(try cluster.outcome("/", host: "other.io") == "web")
        #expect(try cluster.outcome("/", host: "own.io") == "reviews")
    }

    /// How a VirtualService of the namespace `prod` names the gateway, what it is exported to, whether it is bound.
    private static let bindings: [(String, String, Bool)] = [
        ("[default/gw]", "[]", true), ("[default/gw]", "[\"*\"]", true), ("[default/gw]", "[\".\"]", false),
        ("[default/gw]", "[default]", true),
        ("[default/gw]", "[prod]", false), ("[mesh, default/gw]", "[]", true), ("[mesh]", "[]", false),
        ("[]", "[]", false), ("[./gw]", "[]", false),
        // As EdgeMesh 1.17 had it, with a warning.
        ("[gw]", "[]", true),
    ]

    @Test("Names of gateways and exportTo", arguments: bindings)
    func isBoundTo(gateways: String, exportTo: String, isBound: Bool) throws {
        let cluster = try TestCluster(
            Self.plain
                + Self.service(
                    "  exportTo: \(exportTo)\n  http: [{\(Self.to("web", port: 80))}]",
                    gateways: gateways,
                    namespace: "prod"
                ),
            services: Self.services
        )
        #expect(try cluster.outcome("/") == (isBound ? "web" : "404"))
        #expect(
            cluster.finds(.warning, "spec.gateways", "Istio wants it written as default/gw") == (gateways == "[gw]")
        )
    }

    @Test("A name that two Gateways have means the one of its own namespace")
    func sameNames() throws {
        let cluster = try TestCluster(
            Self.plain
                + Self.gateway("[{port: {number: 81, name: http, protocol: HTTP}, hosts: [\"*\"]}]", namespace: "prod")
                + Self.service("  http: [{\(Self.to("web", port: 80))}]", namespace: "prod"),
            services: Self.services
        )
        #expect(try cluster.outcome("/", port: 80) == "404")
        #expect(try cluster.outcome("/", port: 81) == "web")
    }

    @Test(
        "Destinations",
        arguments: [
            "reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local",
            "Reviews.default.svc.cluster.local.",
        ]
    )
    func destinations(host: String) throws {
        #expect(try Self.cluster("  - {\(Self.to(host))}").outcome("/") == "reviews")
        #expect(try Self.cluster("  - {route: [{destination: {host: \(host)}}]}").outcome("/") == "reviews")
    }

    @Test("Weights and subsets")
    func weights() throws {
        let subset = """
            apiVersion: networking.istio.io/v1
            kind: DestinationRule
            metadata: {name: r, namespace: default}
            spec: {host: reviews, subsets: [{name: v2, labels: {version: v2}}], trafficPolicy: {tls: {mode: SIMPLE, sni: r.io}}}

            """
        let http =
            "  - route: [{destination: {host: reviews, subset: v2}, weight: 25}, {destination: {host: reviews, subset: v9}, weight: 5}, {destination: {host: ratings}, weight: 70}, {destination: {host: productpage}}]"
        let cluster = try Self.cluster(http, rules: subset)
        #expect(try cluster.outcome("/") == "reviews[v2]*25 reviews[v9]*5 ratings*70")
        #expect(cluster.finds(.error, "spec.http[0].route[1].destination.subset", "has the subset v9"))
        guard case .forward(let backends) = try Self.rule(http, TestRequest(), rules: subset).action else {
            return #expect(Bool(false))
        }
        #expect(backends[0].backend?.tls == BackendTLS(name: "r.io", authorities: nil))
        #expect(backends[2].backend?.tls == nil)
        // The first alone, as EdgeMesh 1.17 had it.
        #expect(
            try Self.cluster("  - route: [{destination: {host: reviews}}, {destination: {host: ratings}}]").outcome("/")
                == "reviews"
        )
    }

    /// A match, a rewrite, a target, what the backend is asked for.
    private static let rewrites: [(String, String, String, String)] = [
        ("{uri: {prefix: /ratings}}", "uri: /v1/bookRatings", "/ratings/7?x", "/v1/bookRatings/7?x"),
        ("{uri: {prefix: /a}}", "uri: /", "/a/b", "/b"),
        ("{uri: {prefix: /a/}}", "uri: /", "/a/b", "/b"), ("{uri: {exact: /a}}", "uri: /b", "/a", "/b"),
        ("{uri: {regex: \"/a/.*\"}}", "uri: /b", "/a/c", "/b"), ("{method: {exact: GET}}", "uri: /v1", "/c", "/v1c"),
        (
            "{uri: {prefix: /}}",
            "uriRegexRewrite: {match: \"^/service/([^/]+)(/.*)$\", rewrite: \"\\\\2/customer/\\\\1\"}",
            "/service/foo/v1", "/v1/customer/foo"
        ),
    ]

    @Test("Rewrites", arguments: rewrites)
    func rewrite(match: String, rewrite: String, target: String, result: String) throws {
        let request = try TestRequest(target)
        let rule = try Self.rule(
            "  - {match: [\(match)], rewrite: {\(rewrite), authority: new.host}, \(Self.to("reviews"))}",
            request
        )
        #expect(rule.filters.target(of: request, match: rule.match(for: request)) == result)
        #expect(rule.filters.authority == "new.host")
    }

    /// A redirect, the request's host, where it goes.
    private static let redirects: [(String, String, String)] = [
        ("uri: /v1/b, authority: new.default.svc", "a.io", "301 http://new.default.svc/v1/b?q"),
        ("scheme: https", "a.io:8080", "301 https://a.io/x?q"),
        ("uri: /y", "a.io:8080", "301 http://a.io:8080/y?q"),
        ("authority: \"b.io:8443\", scheme: https, redirectCode: 308", "a.io", "308 https://b.io:8443/x?q"),
        ("port: 9090, redirectCode: 302", "a.io", "302 http://a.io:9090/x?q"),
        ("derivePort: FROM_REQUEST_PORT, scheme: https", "a.io:8443", "301 https://a.io:8443/x?q"),
        ("uri: \"/y?z=1\"", "a.io", "301 http://a.io/y?z=1"),
    ]

    @Test("Redirects", arguments: redirects)
    func redirect(redirect: String, host: String, outcome: String) throws {
        #expect(try Self.cluster("  - {redirect: {\(redirect)}}").outcome("/x?q", host: host) == outcome)
    }

    @Test("All that a route can ask for besides")
    func extras() throws {
        let rule = try Self.rule(
            """
              - route:
                - destination: {host: reviews}
                  headers: {response: {remove: [x-own]}}
                timeout: 5s
                retries: {attempts: 3, perTryTimeout: 2s, retryOn: "gateway-error,connect-failure,refused-stream,418"}
                fault: {delay: {percentage: {value: 0.1}, fixedDelay: 5s}, abort: {percentage: {value: 50}, httpStatus: 400}}
                mirror: {host: ratings}
                mirrorPercentage: {value: 12.5}
                headers: {request: {set: {Host: new.io, x-a: "1"}, add: {x-b: "2"}, remove: [x-c]}, response: {set: {x-d: "3", "bad name": x, x-e: "a\\r\\nb"}}}
                corsPolicy: {allowOrigins: [{exact: "https://a.io"}, {regex: "https://.*\\\\.b\\\\.io"}], allowMethods: [POST], maxAge: 24h, allowCredentials: false}
            """,
            try TestRequest()
        )
        #expect(rule.timeout == .seconds(5))
        #expect(rule.tryTimeout == .seconds(2))
        #expect(rule.retries?.attempts == 3)
        #expect(rule.retries?.conditions == [.gatewayError, .connectFailure, .refusedStream, .status(418)])
        #expect(rule.fault?.delay == .seconds(5))
        #expect(rule.fault?.delayShare == 1_000)
        #expect(rule.fault?.abortStatus == 400)
        #expect(rule.fault?.abortShare == 500_000)
        #expect(rule.mirrors.map(\.share) == [125_000])
        #expect(rule.filters.authority == "new.io")
        #expect(
            rule.filters.request
                == HeaderEdits(
                    set: [.init(name: "x-a", value: "1")],
                    add: [.init(name: "x-b", value: "2")],
                    remove: ["x-c"]
                )
        )
        #expect(rule.filters.response.set == [.init(name: "x-d", value: "3")])
        let origins = try ["https://a.io", "https://x.b.io", "https://b.io"].map { origin in
            rule.cors?.decision(for: try TestRequest(headers: ["Origin": origin]))
        }
        #expect(origins.map { $0 == CORSDecision.none } == [false, false, true])
        guard case .forward(let backends) = rule.action else { return #expect(Bool(false)) }
        #expect(backends[0].filters.response.remove == ["x-own"])
    }

    @Test("Answers without a backend")
    func directResponse() throws {
        let rule = try Self.rule("  - {directResponse: {status: 503, body: {string: away}}}", try TestRequest())
        #expect(rule.action == .respond(DirectResponse(status: 503, body: Array("away".utf8))))
    }

    /// A rule, the field that a finding names, a part of what it says.
    private static let wrong: [(String, String, String)] = [
        ("{delegate: {name: x}}", "spec.http[0].delegate", "are not followed"),
        ("{timeout: 1s}", "spec.http[0]", "exactly one of"),
        ("{match: [{uri: {regex: \"(\"}}], \(to("reviews"))}", "spec.http[0].match[0].uri.regex", "not closed"),
        (
            "{route: [{destination: {host: example.org.uk}}]}", "spec.http[0].route[0].destination.host",
            "no service of the cluster"
        ),
        ("{redirect: {redirectCode: 200}}", "spec.http[0].redirect.redirectCode", "no redirect"),
        (
            "{rewrite: {uriRegexRewrite: {match: a, rewrite: \"\\\\1\"}}, \(to("reviews"))}",
            "spec.http[0].rewrite.uriRegexRewrite.rewrite", "does not have"
        ),
    ]

    @Test("What cannot be served is said", arguments: wrong)
    func saysError(rule: String, field: String, message: String) throws {
        let cluster = try Self.cluster("  - \(rule)")
        #expect(cluster.finds(.error, field, message), "\(cluster.compilation.findings)")
    }

    @Test("TLS: modes, versions, the redirect of plain HTTP")
    func tls() throws {
        let servers =
            "[{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.io], tls: {httpsRedirect: true}}, "
            + "{port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.io], tls: {mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3}}, "
            + "{port: {number: 443, name: b, protocol: HTTPS}, hosts: [b.io], tls: {mode: MUTUAL, credentialName: b}}, "
            + "{port: {number: 443, name: c, protocol: HTTPS}, hosts: [c.io], tls: {mode: OPTIONAL_MUTUAL, credentialName: a, subjectAltNames: [client]}}, "
            + "{port: {number: 443, name: d, protocol: TLS}, hosts: [d.io], tls: {mode: PASSTHROUGH}}]"
        let cluster = try TestCluster(
            Self.gateway(servers) + Self.service("  http: [{\(Self.to("reviews"))}]", hosts: "[a.io, b.io]")
                + Self.service(
                    "  tls: [{match: [{sniHosts: [d.io]}], \(Self.to("ratings"))}]",
                    name: "t",
                    hosts: "[d.io]"
                ),
            services: Self.services,
            secrets: ["default/a", "default/a-cacert+ca", "default/b+ca"]
        )
        #expect(cluster.hosts(80)?.host(named: "a.io")?.redirectsToHTTPS == true)
        guard case .tls(let all)? = cluster.listener(443)?.service else { return #expect(Bool(false)) }
        func server(_ name: String) -> TLSServer? { TLSServer.best(of: all, for: name) }
        #expect(server("a.io")?.termination?.minimumVersion == .tls13)
        #expect(server("a.io")?.termination?.clientCertificates == .ignored)
        #expect(server("b.io")?.termination?.clientCertificates == .required)
        #expect(server("b.io")?.termination?.authorities.isEmpty == true)
        #expect(server("c.io")?.termination?.clientCertificates == .optional)
        #expect(server("c.io")?.termination?.authorities.map(\.name) == ["a-cacert"])
        #expect(server("c.io")?.termination?.subjectAltNames == ["client"])
        #expect(server("d.io").map { $0.termination == nil } == true)
        #expect(server("e.io") == nil)
        #expect(try cluster.outcome("/", host: "b.io", port: 443) == "reviews")
        #expect(cluster.compilation.secrets.map(\.name).sorted() == ["a", "a-cacert", "b", "b-cacert"])
    }

    @Test("TCP routes by port; servers of one port that speak otherwise")
    func tcp() throws {
        let cluster = try TestCluster(
            Self.gateway(
                "[{port: {number: 27017, name: mongo, protocol: MONGO}, hosts: [\"*\"]}, {port: {number: 27018, name: tcp, protocol: TCP}, hosts: [\"*\"]}, {port: {number: 27018, name: http, protocol: HTTP}, hosts: [\"*\"]}]"
            )
                + Self.service(
                    "  tcp: [{match: [{port: 27017}], \(Self.to("reviews"))}, {match: [{port: 27018}], \(Self.to("ratings"))}]"
                ),
            services: Self.services
        )
        func backend(_ port: UInt16) -> String? {
            guard case .stream(let route)? = cluster.listener(port)?.service else { return nil }
            return route.backends[0].backend?.service.name
        }
        #expect(backend(27017) == "reviews")
        #expect(backend(27018) == "ratings")
        #expect(cluster.finds(.error, "spec.servers[2]", "use another port"))
    }

    @Test("The selector is looked at only if the gateway's labels are given")
    func selector() throws {
        let text = Self.plain + Self.service("  http: [{\(Self.to("reviews"))}]")
        for (labels, outcome) in [
            (nil, "reviews"), (["istio": "ingressgateway", "x": "y"], "reviews"), (["istio": "other"], "404"),
        ] {
            #expect(
                try TestCluster(text, services: Self.services, settings: CompilerSettings(podLabels: labels)).outcome(
                    "/"
                ) == outcome
            )
        }
    }
}
