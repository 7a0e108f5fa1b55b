import GatewayRouting
import MeshCore
import Testing

@Suite("Requests")
struct MatchingTests {
    /// A target, its path in the one form, its query.
    private static let targets: [(String, String, String?)] = [
        ("/", "/", nil), ("/a/b?c=d", "/a/b", "c=d"), ("/?", "/", ""), ("/a?b?c", "/a", "b?c"), ("*", "*", nil),
        ("//", "/", nil), ("//a///b//", "/a/b/", nil), ("/a/./b", "/a/b", nil), ("/a/.", "/a/", nil),
        ("/a/../b", "/b", nil), ("/a/b/..", "/a/", nil), ("/a/b/../../c", "/c", nil), ("/a//../b", "/b", nil),
        ("/a/.../b", "/a/.../b", nil), ("/a/..b", "/a/..b", nil),
        ("/%61dmin", "/admin", nil), ("/a/%2e%2E/b", "/b", nil), ("/a/%2e./b", "/b", nil), ("/%7euser", "/~user", nil),
        ("/a%2fb", "/a%2Fb", nil), ("/a%2F..%2fb", "/a%2F..%2Fb", nil), ("/a%5c..%5Cb", "/a%5C..%5Cb", nil),
        ("/a\\..\\b", "/b", nil), ("/%c3%a9", "/%C3%A9", nil), ("/%25%32%65", "/%252e", nil),
        ("/a%20b+c", "/a%20b+c", nil),
        ("/a;x=1/b", "/a;x=1/b", nil), ("/a?x=/../y", "/a", "x=/../y"),
    ]

    @Test("One form of a path", arguments: targets)
    func target(text: String, path: String, query: String?) throws {
        let target = try RequestTarget(text)
        #expect(target.path == path)
        #expect(target.query == query)
        // What has the form keeps it, so that nothing behind the gateway can find another meaning in it.
        #expect(try RequestTarget(path).path == path)
    }

    @Test(
        "Refused targets",
        arguments: [
            ("", RequestTarget.Failure.badForm), ("a", .badForm), ("http://a/", .badForm), ("*a", .badForm),
            ("/..", .aboveRoot), ("/a/../..", .aboveRoot), ("/%2e%2e/a", .aboveRoot), ("/..\\", .aboveRoot),
            ("/%", .badEscape), ("/%4", .badEscape), ("/%g1", .badEscape), ("/%00", .badEscape),
            ("/a b", .badCharacter), ("/a\u{1}", .badCharacter), ("/a\u{7F}", .badCharacter), ("/é", .badCharacter),
            ("/a#b", .badCharacter), ("/a?b#c", .badCharacter), ("/a?\r\nx", .badCharacter), ("/a\0", .badCharacter),
        ]
    )
    func refused(text: String, failure: RequestTarget.Failure) {
        #expect(throws: failure) { try RequestTarget(text) }
    }

    @Test("A target at the limit, and beyond")
    func targetLimit() throws {
        let text = "/" + String(repeating: "a", count: RequestTarget.maximumBytes - 1)
        #expect(try RequestTarget(text).path == text)
        #expect(throws: RequestTarget.Failure.tooLong) { try RequestTarget(text + "a") }
    }

    @Test(
        "Hosts of requests",
        arguments: [
            ("Example.COM", "example.com", nil), ("a.b.", "a.b", nil), ("a:80", "a", 80), ("a:", "a", nil),
            ("a.:1", "a", 1),
            ("10.0.0.1:8080", "10.0.0.1", 8080), ("[fd00::1]", "fd00::1", nil), ("[FD00::1]:443", "fd00::1", 443),
            ("a_b", "a_b", nil),
        ] as [(String, String, UInt16?)]
    )
    func host(text: String, name: String, port: UInt16?) throws {
        let host = try #require(RequestHost(text))
        #expect(host.name == name)
        #expect(host.port == port)
    }

    @Test(
        "No hosts",
        arguments: ["", ".", "a b", "a/b", "a:x", "a:70000", "a:+1", "[a", "[a]b", "user@a", "a,b", "*", "é"]
    )
    func noHost(text: String) { #expect(RequestHost(text) == nil) }

    @Test("The best host")
    func bestHost() throws {
        func host(_ pattern: String) throws -> HTTPHosts.Host {
            HTTPHosts.Host(pattern: try #require(HostPattern(pattern)), rules: [])
        }
        let hosts = HTTPHosts([try host("a.b.c"), try host("*.b.c"), try host("*.c"), try host("x")])
        #expect(hosts.host(named: "a.b.c")?.pattern.text == "a.b.c")
        #expect(hosts.host(named: "z.b.c")?.pattern.text == "*.b.c")
        #expect(hosts.host(named: "y.z.b.c")?.pattern.text == "*.b.c")
        #expect(hosts.host(named: "b.c")?.pattern.text == "*.c")
        #expect(hosts.host(named: "c") == nil)
        #expect(hosts.host(named: "y") == nil)
        var all = hosts
        all.hosts.append(try host("*"))
        #expect(all.host(named: "y")?.pattern == .any)
    }

    @Test(
        "Whole elements of a path",
        arguments: [
            ("/", ["/", "/a", "/a/b"], []), ("/abc", ["/abc", "/abc/", "/abc/def"], ["/abcd", "/ab", "/"]),
            ("/abc/", ["/abc", "/abc/def"], ["/abcd"]),
        ] as [(String, [String], [String])]
    )
    func elements(prefix: String, yes: [String], no: [String]) {
        for path in yes { #expect(PathMatch.elements(prefix).holds(for: path), "\(path)") }
        for path in no { #expect(!PathMatch.elements(prefix).holds(for: path), "\(path)") }
    }

    @Test("Case of paths")
    func pathCase() {
        #expect(PathMatch.exact("/A", ignoresCase: true).holds(for: "/a"))
        #expect(!PathMatch.exact("/A", ignoresCase: false).holds(for: "/a"))
        #expect(!PathMatch.exact("/A", ignoresCase: true).holds(for: "/ab"))
        #expect(PathMatch.prefix("/Ab", ignoresCase: true).holds(for: "/aBc"))
    }

    @Test(
        "Parameters of a query",
        arguments: [
            ("a=1", "1"), ("b=2&a=1", "1"), ("a=1&a=2", "1"), ("a", ""), ("a=", ""), ("%61=%31", "1"),
            ("a=x+y%20z", "x y z"),
            ("a=%zz", "%zz"), ("a=%+1", "% 1"), ("aa=1", nil), ("", nil), ("a==", "="),
        ] as [(String, String?)]
    )
    func query(query: String, value: String?) throws {
        var match = HTTPMatch()
        match.query = [NamedMatch(name: "a", value: value.map { .exact($0) } ?? .present)]
        #expect(match.holds(for: try TestRequest("/?" + query)) == (value != nil))
    }

    /// A match, what is put in its place, a path, the new path.
    private static let rewrites: [(PathMatch, PathRewrite, String, String)] = [
        (.elements("/foo"), .prefix("/xyz"), "/foo/bar", "/xyz/bar"),
        (.elements("/foo"), .prefix("/xyz/"), "/foo/bar", "/xyz/bar"),
        (.elements("/foo/"), .prefix("/xyz"), "/foo/bar", "/xyz/bar"),
        (.elements("/foo/"), .prefix("/xyz/"), "/foo/bar", "/xyz/bar"),
        (.elements("/foo"), .prefix("/xyz"), "/foo", "/xyz"), (.elements("/foo"), .prefix("/xyz"), "/foo/", "/xyz/"),
        (.elements("/foo"), .prefix(""), "/foo/bar", "/bar"), (.elements("/foo"), .prefix("/"), "/foo/bar", "/bar"),
        (.elements("/foo"), .prefix("/"), "/foo", "/"), (.elements("/foo"), .prefix(""), "/foo", "/"),
        (.elements("/"), .prefix("/xyz"), "/foo", "/xyz/foo"),
        (.prefix("/a", ignoresCase: false), .prefix("/b"), "/abc", "/bbc"),
        (.prefix("/a", ignoresCase: false), .prefix("/"), "/a/c", "/c"),
        (.prefix("/", ignoresCase: false), .prefix("/v1/"), "/c", "/v1/c"),
        (.exact("/a", ignoresCase: false), .prefix("/b"), "/a", "/b"),
        (.elements("/a"), .full("/x"), "/a/b", "/x"),
    ]

    @Test("Rewriting", arguments: rewrites)
    func rewrite(match: PathMatch, rewrite: PathRewrite, path: String, result: String) throws {
        #expect(rewrite.path(of: path, match: HTTPMatch(path: match)) == result)
        var filters = HTTPFilters()
        filters.path = rewrite
        #expect(filters.target(of: try TestRequest(path + "?q=1"), match: HTTPMatch(path: match)) == result + "?q=1")
    }

    @Test("Edits of headers: removed, set, added")
    func edits() {
        struct List: EditableHeaders {
            var fields: [(String, String)] = []
            mutating func remove(name: String) { self.fields.removeAll { $0.0 == name } }
            mutating func add(name: String, value: String) { self.fields.append((name, value)) }
            mutating func replaceOrAdd(name: String, value: String) {
                self.remove(name: name)
                self.add(name: name, value: value)
            }
        }
        var list = List(fields: [("a", "1"), ("b", "1"), ("c", "1")])
        HeaderEdits(
            set: [.init(name: "a", value: "2")],
            add: [.init(name: "c", value: "2"), .init(name: "b", value: "3")],
            remove: ["b"]
        )
        .apply(to: &list)
        #expect(list.fields.map { "\($0)=\($1)" } == ["c=1", "a=2", "c=2", "b=3"])
    }

    @Test("A choice falls as the weights are")
    func weights() {
        struct Sequence: RandomNumberGenerator {
            var state: UInt64
            // Steps of equal size through all numbers: each share is met as often as its weight says.
            mutating func next() -> UInt64 {
                self.state &+= UInt64.max / 1_000
                return self.state
            }
        }
        let backends = [("a", 7), ("b", 0), ("c", 3)].map { name, weight in
            WeightedBackend(
                backend: Backend(service: ObjectName(namespace: "n", name: name), port: 1),
                weight: UInt32(weight)
            )
        }
        var generator = Sequence(state: 0)
        var counts: [String: Int] = [:]
        for _ in 0..<1_000 { counts[backends.choose(using: &generator)?.backend?.service.name ?? "", default: 0] += 1 }
        #expect(counts["b"] == nil)
        #expect(abs((counts["a"] ?? 0) - 700) <= 2)
        #expect(abs((counts["c"] ?? 0) - 300) <= 2)
        #expect([WeightedBackend(backend: nil, weight: 0)].choose(using: &generator) == nil)
        #expect([WeightedBackend]().choose(using: &generator) == nil)
        #expect((1_000_000 as UInt32).ofMillionFalls(using: &generator))
        #expect(!(0 as UInt32).ofMillionFalls(using: &generator))
    }

    @Test("The server of a TLS client")
    func tlsServers() throws {
        func server(_ hosts: String...) throws -> TLSServer {
            TLSServer(
                hosts: try hosts.map { try #require(HostPattern($0)) },
                termination: nil,
                service: .stream(StreamRoute(backends: []))
            )
        }
        let servers = [try server("*.b", "x.c"), try server("a.b"), try server("*")]
        #expect(TLSServer.best(of: servers, for: "a.b") == servers[1])
        #expect(TLSServer.best(of: servers, for: "z.b") == servers[0])
        #expect(TLSServer.best(of: servers, for: "z") == servers[2])
        #expect(TLSServer.best(of: servers, for: nil) == servers[2])
        #expect(TLSServer.best(of: Array(servers[..<2]), for: nil) == nil)
        #expect(TLSServer.best(of: [servers[1]], for: nil) == servers[1])
        #expect(TLSServer.best(of: [servers[1]], for: "q") == nil)
        #expect(servers[0].serves("q.b") && !servers[0].serves("b"))
    }
}
