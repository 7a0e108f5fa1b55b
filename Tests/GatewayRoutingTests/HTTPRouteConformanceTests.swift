import GatewayRouting
import KubeModel
import MeshCore
import Testing

/// The published cases for HTTPRoute, as far as a plan decides them: the routes are ours, the expectations those of the
/// specification.
@Suite("Gateway API: HTTPRoute")
struct HTTPRouteConformanceTests {
    typealias C = Conformance

    /// A target, a method, headers, what becomes of it.
    typealias Case = (String, String, [String: String], String)

    private static func check(_ manifests: String, _ cases: [Case]) throws {
        let cluster = try TestCluster(C.plain + manifests, services: C.services)
        for (target, method, headers, outcome) in cases {
            #expect(
                try cluster.outcome(target, method: method, headers: headers) == outcome,
                "\(method) \(target) \(headers)"
            )
        }
        #expect(!cluster.compilation.findings.contains { $0.severity == .error })
    }

    @Test("Paths and headers to several backends")
    func matching() throws {
        try Self.check(
            C.route(
                "matching",
                """
                  rules:
                  - matches: [{\(C.path("/"))}, {headers: [{name: version, value: one}]}]
                    \(C.backend("v1"))
                  - matches: [{\(C.path("/v2"))}, {headers: [{name: version, value: two}]}]
                    \(C.backend("v2"))
                """
            ),
            [
                ("/", "GET", [:], "v1"), ("/example", "GET", [:], "v1"), ("/", "GET", ["Version": "one"], "v1"),
                ("/v2", "GET", [:], "v2"), ("/v2/example", "GET", [:], "v2"), ("/", "GET", ["Version": "two"], "v2"),
                ("/v2/", "GET", [:], "v2"), ("/v2example", "GET", [:], "v1"), ("/foo/v2/example", "GET", [:], "v1"),
            ]
        )
    }

    @Test("The order of paths")
    func pathOrder() throws {
        try Self.check(
            C.route(
                "order",
                """
                  rules:
                  - {matches: [{\(C.path("/match", "Exact"))}], \(C.backend("v1"))}
                  - {matches: [{\(C.path("/match/exact", "Exact"))}], \(C.backend("v2"))}
                  - {matches: [{\(C.path("/match/exact/one", "Exact"))}], \(C.backend("v3"))}
                  - {matches: [{\(C.path("/match/"))}], \(C.backend("v3"))}
                  - {matches: [{\(C.path("/match/prefix/"))}], \(C.backend("v1"))}
                  - {matches: [{\(C.path("/match/prefix/one"))}], \(C.backend("v2"))}
                """
            ),
            [
                ("/match/exact/one", "GET", [:], "v3"), ("/match/exact", "GET", [:], "v2"),
                ("/match", "GET", [:], "v1"),
                ("/match/prefix/one/any", "GET", [:], "v2"), ("/match/prefix/any", "GET", [:], "v1"),
                ("/match/any", "GET", [:], "v3"), ("/", "GET", [:], "404"),
            ]
        )
    }

    @Test("Exact paths")
    func exactPaths() throws {
        try Self.check(
            C.route(
                "exact",
                """
                  rules:
                  - {matches: [{\(C.path("/one", "Exact"))}], \(C.backend("v1"))}
                  - {matches: [{\(C.path("/two", "Exact"))}], \(C.backend("v2"))}
                """
            ),
            [
                ("/one", "GET", [:], "v1"), ("/two", "GET", [:], "v2"), ("/", "GET", [:], "404"),
                ("/one/example", "GET", [:], "404"), ("/two/", "GET", [:], "404"), ("/Two", "GET", [:], "404"),
            ]
        )
    }

    @Test("Headers")
    func headers() throws {
        let rules: [(String, String)] = [
            ("[{headers: [{name: version, value: one}]}]", "v1"), ("[{headers: [{name: version, value: two}]}]", "v2"),
            ("[{headers: [{name: version, value: two}, {name: color, value: orange}]}]", "v1"),
            ("[{headers: [{name: color, value: blue}]}, {headers: [{name: color, value: green}]}]", "v1"),
            ("[{headers: [{name: color, value: red}]}, {headers: [{name: color, value: yellow}]}]", "v2"),
        ]
        try Self.check(
            C.route(
                "headers",
                "  rules:\n" + rules.map { "  - {matches: \($0), \(C.backend($1))}" }.joined(separator: "\n")
            ),
            [
                ("/", "GET", ["Version": "one"], "v1"), ("/", "GET", ["Version": "two"], "v2"),
                ("/", "GET", ["Version": "two", "Color": "orange"], "v1"),
                ("/", "GET", ["Version": "two", "Color": "blue"], "v2"), ("/", "GET", ["Color": "orange"], "404"),
                ("/", "GET", ["Some-Other-Header": "one"], "404"), ("/", "GET", ["Color": "blue"], "v1"),
                ("/", "GET", ["Color": "green"], "v1"), ("/", "GET", ["Color": "red"], "v2"),
                ("/", "GET", ["Color": "yellow"], "v2"), ("/", "GET", ["Color": "purple"], "404"),
            ]
        )
    }

    @Test("Methods")
    func methods() throws {
        let rules: [(String, String)] = [
            ("[{method: POST}]", "v1"), ("[{method: GET}]", "v2"), ("[{\(C.path("/path1")), method: GET}]", "v1"),
            ("[{headers: [{name: version, value: one}], method: PUT}]", "v2"),
            ("[{\(C.path("/path2")), headers: [{name: version, value: two}], method: POST}]", "v3"),
            (
                "[{\(C.path("/path3")), method: PATCH}, {\(C.path("/path4")), headers: [{name: version, value: three}], method: DELETE}]",
                "v1"
            ),
            ("[{\(C.path("/path5"))}]", "v1"), ("[{method: PATCH}]", "v2"),
            ("[{headers: [{name: version, value: four}]}]", "v3"),
        ]
        try Self.check(
            C.route(
                "methods",
                "  rules:\n" + rules.map { "  - {matches: \($0), \(C.backend($1))}" }.joined(separator: "\n")
            ),
            [
                ("/", "POST", [:], "v1"), ("/", "GET", [:], "v2"), ("/", "HEAD", [:], "404"),
                ("/path1", "GET", [:], "v1"),
                ("/", "PUT", ["version": "one"], "v2"), ("/path2", "POST", ["version": "two"], "v3"),
                ("/path3", "PATCH", [:], "v1"), ("/path4", "DELETE", ["version": "three"], "v1"),
                ("/", "PUT", [:], "404"),
                ("/path4", "DELETE", [:], "404"), ("/path5", "PATCH", [:], "v1"),
                ("/", "PATCH", ["version": "four"], "v2"),
            ]
        )
    }

    @Test("Parameters of the query")
    func query() throws {
        func animal(_ value: String) -> String { "queryParams: [{name: animal, value: \(value)}]" }
        func version(_ value: String) -> String { "headers: [{name: version, value: \(value)}]" }
        let rules: [(String, String)] = [
            ("[{\(animal("whale"))}]", "v1"), ("[{\(animal("dolphin"))}]", "v2"),
            (
                "[{queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}, {queryParams: [{name: ANIMAL, value: Whale}]}]",
                "v3"
            ),
            ("[{\(C.path("/path1")), \(animal("whale"))}]", "v1"), ("[{\(version("one")), \(animal("whale"))}]", "v2"),
            ("[{\(C.path("/path2")), \(version("two")), \(animal("whale"))}]", "v3"),
            (
                "[{\(C.path("/path3")), \(animal("shark"))}, {\(C.path("/path4")), \(version("three")), \(animal("kraken"))}]",
                "v1"
            ),
            ("[{\(C.path("/path5"))}]", "v1"), ("[{\(animal("hydra"))}]", "v2"), ("[{\(version("four"))}]", "v3"),
        ]
        try Self.check(
            C.route(
                "query",
                "  rules:\n" + rules.map { "  - {matches: \($0), \(C.backend($1))}" }.joined(separator: "\n")
            ),
            [
                ("/?animal=whale", "GET", [:], "v1"), ("/?animal=dolphin", "GET", [:], "v2"),
                ("/?animal=dolphin&color=blue", "GET", [:], "v3"), ("/?ANIMAL=Whale", "GET", [:], "v3"),
                ("/?animal=whale&otherparam=irrelevant", "GET", [:], "v1"),
                ("/?animal=dolphin&color=yellow", "GET", [:], "v2"),
                ("/?color=blue", "GET", [:], "404"), ("/?animal=dog", "GET", [:], "404"),
                ("/?animal=whaledolphin", "GET", [:], "404"),
                ("/", "GET", [:], "404"), ("/path1?animal=whale", "GET", [:], "v1"),
                ("/?animal=whale", "GET", ["version": "one"], "v2"),
                ("/path2?animal=whale", "GET", ["version": "two"], "v3"),
                ("/path3?animal=shark", "GET", [:], "v1"), ("/path4?animal=kraken", "GET", ["version": "three"], "v1"),
                ("/?animal=shark", "GET", [:], "404"), ("/path4?animal=kraken", "GET", [:], "404"),
                ("/path5?animal=hydra", "GET", [:], "v1"), ("/?animal=hydra", "GET", ["version": "four"], "v3"),
            ]
        )
    }

    @Test("Several routes of one host")
    func acrossRoutes() throws {
        let cluster = try TestCluster(
            C.plain
                + C.route(
                    "part1",
                    """
                      hostnames: [example.com, example.net]
                      rules:
                      - {matches: [{\(C.path("/"))}, {headers: [{name: version, value: one}]}], \(C.backend("v1"))}
                    """
                )
                + C.route(
                    "part2",
                    """
                      hostnames: [example.com]
                      rules:
                      - {matches: [{\(C.path("/v2"))}, {headers: [{name: version, value: two}]}], \(C.backend("v2"))}
                    """
                ),
            services: C.services
        )
        #expect(try cluster.outcome("/") == "v1")
        #expect(try cluster.outcome("/example", host: "example.net") == "v1")
        #expect(try cluster.outcome("/example", headers: ["Version": "one"]) == "v1")
        #expect(try cluster.outcome("/v2") == "v2")
        #expect(try cluster.outcome("/v2", host: "example.net") == "v1")
        #expect(try cluster.outcome("/v2/example") == "v2")
        #expect(try cluster.outcome("/", headers: ["Version": "two"]) == "v2")
    }

    @Test("Hostnames of listeners and routes")
    func hostnameIntersection() throws {
        let listeners = """
            [{name: l1, port: 80, protocol: HTTP, hostname: very.specific.com},
             {name: l2, port: 80, protocol: HTTP, hostname: "*.wildcard.io"},
             {name: l3, port: 80, protocol: HTTP, hostname: "*.anotherwildcard.io"}]
            """.replacing("\n", with: "")
        func route(_ name: String, _ hosts: String, _ path: String, _ backend: String) -> String {
            C.route(name, "  hostnames: \(hosts)\n  rules: [{matches: [{\(C.path(path))}], \(C.backend(backend))}]")
        }
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("gw", listeners)
                + route("r1", "[non.matching.com, \"*.nonmatchingwildcard.io\", very.specific.com]", "/s1", "v1")
                + route(
                    "r2",
                    "[non.matching.com, wildcard.io, foo.wildcard.io, bar.wildcard.io, foo.bar.wildcard.io]",
                    "/s2",
                    "v2"
                )
                + route("r3", "[non.matching.com, \"*.specific.com\"]", "/s3", "v3")
                + route("r4", "[\"*.anotherwildcard.io\"]", "/s4", "v1")
                + route("r5", "[specific.but.wrong.com, wildcard.io]", "/s5", "v1"),
            services: C.services
        )
        let cases: [(String, String, String)] = [
            ("very.specific.com", "/s1", "v1"), ("very.specific.com:1234", "/s1", "v1"),
            ("non.matching.com", "/s1", "404"),
            ("foo.nonmatchingwildcard.io", "/s1", "404"), ("foo.wildcard.io", "/s1", "404"),
            ("very.specific.com", "/x", "404"),
            ("foo.wildcard.io", "/s2", "v2"), ("bar.wildcard.io", "/s2", "v2"), ("foo.bar.wildcard.io", "/s2", "v2"),
            ("wildcard.io", "/s2", "404"), ("very.specific.com", "/s2", "404"), ("very.specific.com", "/s3", "v3"),
            ("foo.specific.com", "/s3", "404"), ("foo.anotherwildcard.io", "/s4", "v1"),
            ("foo.bar.anotherwildcard.io", "/s4", "v1"),
            ("anotherwildcard.io", "/s4", "404"), ("wildcard.io", "/s5", "404"),
            ("specific.but.wrong.com", "/s5", "404"),
        ]
        for (host, target, outcome) in cases {
            #expect(try cluster.outcome(target, host: host) == outcome, "\(host)\(target)")
        }
        let none = try #require(cluster.status(.httpRoute, "infra/r5")?.parents.first)
        #expect(TestCluster.text(none.conditions) == "!Accepted=NoMatchingListenerHostname ResolvedRefs=ResolvedRefs")
        #expect(cluster.status(.gateway, "infra/gw")?.listeners.map(\.attachedRoutes) == [2, 1, 1])
    }

    @Test("A listener's host is its own, even where it has no route")
    func isolation() throws {
        let listeners =
            "[{name: all, port: 80, protocol: HTTP}, {name: wide, port: 80, protocol: HTTP, hostname: \"*.example.com\"}, "
            + "{name: narrow, port: 80, protocol: HTTP, hostname: \"*.foo.example.com\"}, {name: one, port: 80, protocol: HTTP, hostname: abc.foo.example.com}]"
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("gw", listeners)
                + ["all", "wide", "narrow", "one"].map { name in
                    C.route(
                        name,
                        parent: "{name: gw, sectionName: \(name)}",
                        "  rules: [{matches: [{\(C.path("/" + name))}], \(C.backend("v1"))}]"
                    )
                }.joined(),
            services: C.services
        )
        for (host, section) in [
            ("bar.com", "all"), ("bar.example.com", "wide"), ("bar.foo.example.com", "narrow"),
            ("abc.foo.example.com", "one"),
        ] {
            for other in ["all", "wide", "narrow", "one"] {
                #expect(
                    try cluster.outcome("/" + other, host: host) == (other == section ? "v1" : "404"),
                    "\(host) /\(other)"
                )
            }
        }
    }

    @Test("A port of the parent chooses the listener")
    func listenerPort() throws {
        let cluster = try TestCluster(
            C.gatewayClass
                + C.gateway("gw", "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 8080, protocol: HTTP}]")
                + C.route("r", parent: "{name: gw, port: 8080}", "  rules: [{\(C.backend("v1"))}]"),
            services: C.services
        )
        #expect(try cluster.outcome("/") == "404")
        #expect(try cluster.outcome("/", port: 8080) == "v1")
    }

    @Test("Weights")
    func weights() throws {
        let refs =
            "[{name: v1, port: 8080, weight: 70}, {name: v2, port: 8080, weight: 30}, {name: v3, port: 8080, weight: 0}]"
        let cluster = try TestCluster(C.plain + C.route("r", "  rules: [{backendRefs: \(refs)}]"), services: C.services)
        #expect(try cluster.outcome("/") == "v1*70 v2*30")
    }

    /// The filter of a rule for the prefix `/p`, a target, where it is sent.
    private static let redirects: [(String, String, String)] = [
        ("hostname: example.org", "/p", "302 http://example.org/p"),
        ("hostname: example.org, statusCode: 301", "/p/x?q=1", "301 http://example.org/p/x?q=1"),
        ("port: 8083", "/p", "302 http://example.com:8083/p"),
        ("port: 80, hostname: example.org", "/p", "302 http://example.org/p"),
        ("scheme: https", "/p", "302 https://example.com/p"),
        ("scheme: https, port: 443", "/p", "302 https://example.com/p"),
        ("scheme: https, port: 8443", "/p", "302 https://example.com:8443/p"),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}", "/p/lemon", "302 http://example.com/new/lemon"),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", "/p", "302 http://example.com/"),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: /full}, statusCode: 308", "/p/lemon",
            "308 http://example.com/full"
        ),
        (
            "hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /full}, statusCode: 307", "/p",
            "307 http://example.org/full"
        ),
        ("statusCode: 303", "/p", "303 http://example.com/p"),
    ]

    @Test("Redirects", arguments: redirects)
    func redirect(filter: String, target: String, outcome: String) throws {
        let cluster = try TestCluster(
            C.plain
                + C.route(
                    "r",
                    "  rules: [{matches: [{\(C.path("/p"))}], filters: [{type: RequestRedirect, requestRedirect: {\(filter)}}]}]"
                )
        )
        #expect(try cluster.outcome(target) == outcome)
    }

    @Test("A redirect keeps the listener's port and scheme unless it names a scheme")
    func redirectPort() throws {
        let cluster = try TestCluster(
            C.gatewayClass + C.gateway("gw", "[{name: a, port: 8080, protocol: HTTP}]")
                + C.route(
                    "r",
                    """
                      rules:
                      - {matches: [{\(C.path("/nil"))}], filters: [{type: RequestRedirect, requestRedirect: {hostname: e.org}}]}
                      - {matches: [{\(C.path("/80"))}], filters: [{type: RequestRedirect, requestRedirect: {hostname: e.org, port: 80}}]}
                      - {matches: [{\(C.path("/https"))}], filters: [{type: RequestRedirect, requestRedirect: {hostname: e.org, scheme: https}}]}
                    """
                )
        )
        #expect(try cluster.outcome("/nil", port: 8080) == "302 http://e.org:8080/nil")
        #expect(try cluster.outcome("/80", port: 8080) == "302 http://e.org/80")
        #expect(try cluster.outcome("/https", port: 8080) == "302 https://e.org/https")
    }

    @Test("Filters for requests, answers and single backends")
    func filters() throws {
        let modifier = "set: [{name: X-Set, value: s}], add: [{name: X-Add, value: a}], remove: [X-Remove]"
        let cluster = try TestCluster(
            C.plain
                + C.route(
                    "r",
                    """
                      rules:
                      - matches: [{\(C.path("/prefix/one"))}]
                        filters:
                        - {type: RequestHeaderModifier, requestHeaderModifier: {\(modifier)}}
                        - {type: ResponseHeaderModifier, responseHeaderModifier: {\(modifier)}}
                        - {type: URLRewrite, urlRewrite: {hostname: one.example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}
                        - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 8080}, percent: 20}}
                        - {type: RequestMirror, requestMirror: {backendRef: {name: v3, port: 8080}, fraction: {numerator: 1, denominator: 8}}}
                        backendRefs:
                        - name: v1
                          port: 8080
                          filters:
                          - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Backend, value: v1}]}}
                          - {type: URLRewrite, urlRewrite: {hostname: b.example}}
                        timeouts: {request: 500ms, backendRequest: 100ms}
                        retry: {codes: [500, 503], attempts: 3, backoff: 10ms}
                    """
                ),
            services: C.services
        )
        let request = try TestRequest("/prefix/one/two?q")
        let rule = try #require(cluster.hosts(80)?.rule(for: request))
        let edits = HeaderEdits(
            set: [.init(name: "x-set", value: "s")],
            add: [.init(name: "x-add", value: "a")],
            remove: ["x-remove"]
        )
        #expect(rule.filters.request == edits)
        #expect(rule.filters.response == edits)
        #expect(rule.filters.authority == "one.example.org")
        #expect(rule.filters.target(of: request, match: rule.match(for: request)) == "/one/two?q")
        #expect(rule.mirrors.map(\.share) == [200_000, 125_000])
        #expect(rule.mirrors.map(\.backend.service.name) == ["v2", "v3"])
        guard case .forward(let backends) = rule.action else { return #expect(Bool(false)) }
        #expect(backends[0].filters.request.set == [.init(name: "backend", value: "v1")])
        #expect(backends[0].filters.authority == "b.example")
        #expect(rule.timeout == .milliseconds(500))
        #expect(rule.tryTimeout == .milliseconds(100))
        #expect(rule.retries?.attempts == 3)
        #expect(rule.retries?.conditions == [.status(500), .status(503), .connectFailure, .refusedStream, .reset])
    }

    @Test("Protocols of backends")
    func backendProtocol() throws {
        let cluster = try TestCluster(
            C.plain + C.route("r", "  rules: [{\(C.backend("h2"))}]"),
            services: ["infra/h2:8080=kubernetes.io/h2c"]
        )
        guard case .forward(let backends)? = cluster.hosts(80)?.rule(for: try TestRequest())?.action else {
            return #expect(Bool(false))
        }
        #expect(backends[0].backend?.application == .http2)
    }

    @Test("No backend, or none that may be used: 500")
    func withoutBackends() throws {
        let cluster = try TestCluster(
            C.plain
                + C.route(
                    "r",
                    """
                      rules:
                      - {matches: [{\(C.path("/none"))}]}
                      - {matches: [{\(C.path("/zero"))}], backendRefs: [{name: v1, port: 8080, weight: 0}]}
                      - {matches: [{\(C.path("/missing"))}], \(C.backend("missing"))}
                      - {matches: [{\(C.path("/kind"))}], backendRefs: [{group: x.io, kind: Bucket, name: v1, port: 8080}]}
                      - {matches: [{\(C.path("/extension"))}], filters: [{type: ExtensionRef, extensionRef: {group: x, kind: y, name: z}}], \(C.backend("v1"))}
                    """
                ),
            services: C.services
        )
        for path in ["/none", "/zero", "/missing", "/kind", "/extension"] {
            #expect(try cluster.outcome(path) == "500", "\(path)")
        }
    }
}
