import GatewayRouting
import KubeModel
import MeshCore
import MeshTesting
import NIOCore
import NIOPosix
import Testing

@testable import EdgeGateway

private func get(_ path: String, _ more: String = "Connection: close\r\n") -> String {
    "GET \(path) HTTP/1.1\r\nHost: web.example\r\n\(more)\r\n"
}

func matching(_ path: String, _ action: HTTPRule.Action) -> HTTPRule {
    HTTPRule(origin: path, matches: [HTTPMatch(path: .elements(path))], action: action)
}

@Suite struct HTTPProxyTests {
    /// A gateway before one HTTP/1.1 server, `web`.
    static func withWeb(
        _ rules: [HTTPRule] = [forwarding("web")],
        dialer: LoopbackDialer = LoopbackDialer(),
        limits: GatewayLimits = GatewayLimits(),
        _ body: (UInt16, TestBackend, GatewayRig) async throws -> Void
    ) async throws {
        let server = try await TestBackend.start()
        try await GatewayRig.with(
            [.http(hosts(rules))],
            services: [makeService("web", ports: [server.port]), makeService("empty", ports: [])],
            dialer: dialer,
            limits: limits
        ) { rig, ports in
            try await body(ports[0], server, rig)
        }
        try await server.stop()
    }

    @Test func forwardsWithTheFieldsOfAGateway() async throws {
        try await Self.withWeb { port, server, _ in
            let text = try await RawClient.exchange(
                port,
                get(
                    "/a/b?c=d",
                    "X-Forwarded-For: 9.9.9.9\r\nX-Request-Id: mine\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\n"
                )
            )
            #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n"))
            #expect(text.contains("GET /a/b?c=d HTTP/1.1\n"))
            #expect(text.contains("x-forwarded-for: 9.9.9.9, 127.0.0.1\n"))
            #expect(text.contains("x-forwarded-proto: http\n") && text.contains("x-forwarded-host: web.example\n"))
            #expect(text.contains("x-request-id: mine\n") && text.contains("host: web.example\n"))
            #expect(!text.contains("x-gone"))
            #expect(text.contains("connection: close\r\n"))
        }
    }

    @Test("a stream that lives on another loop serves as well")
    func farLoop() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        try await Self.withWeb(dialer: LoopbackDialer(farLoop: group.next())) { port, server, _ in
            for _ in 0..<3 { #expect(try await RawClient.exchange(port, get("/far")).contains("GET /far HTTP/1.1\n")) }
            let big = try await RawClient.exchange(port, get("/big/3000000"))
            #expect(big.utf8.count > 3_000_000)
            #expect(server.connections == 1, "one connection serves them all")
        }
        try await group.shutdownGracefully()
    }

    @Test("one connection, many requests, sent ahead")
    func pipelining() async throws {
        try await Self.withWeb { port, server, _ in
            let requests = (1...20).map { get("/n/\($0)", $0 == 20 ? "Connection: close\r\n" : "") }.joined()
            let text = try await RawClient.exchange(port, requests)
            let order = text.replacing("\r\n", with: "\n").split(separator: "\n").filter { $0.hasPrefix("GET /n/") }.map
            {
                $0.split(separator: " ")[1]
            }
            #expect(order.map(String.init) == (1...20).map { "/n/\($0)" })
            #expect(server.connections == 1)
        }
    }

    @Test func contentOfKnownAndUnknownLength() async throws {
        try await Self.withWeb { port, server, _ in
            let body = String(repeating: "0123456789", count: 30_000)
            let known = "POST /known HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + body
            let chunked =
                "POST /chunked-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                + "493e0;x=y\r\n\(body)\r\n0\r\nX-Sum: 7\r\n\r\n"
            let text = try await RawClient.exchange(port, known + chunked)
            #expect(server.requests == ["POST /known 300000", "POST /chunked-in 300000"])
            #expect(text.contains("trailer x-sum: 7\n"))
        }
    }

    @Test func chunkedResponsesKeepTheirTrailers() async throws {
        try await Self.withWeb { port, _, _ in
            let text = try await RawClient.exchange(port, get("/chunked"))
            #expect(text.contains("transfer-encoding: chunked\r\n"))
            #expect(text.hasSuffix("9\r\nin chunks\r\n0\r\nx-sum: 3\r\n\r\n"))
        }
    }

    @Test("HTTP/1.0 gets the end of the connection in place of chunks")
    func oldClients() async throws {
        try await Self.withWeb { port, _, _ in
            let text = try await RawClient.exchange(port, "GET /chunked HTTP/1.0\r\nHost: x\r\n\r\n")
            #expect(text.hasSuffix("\r\n\r\nin chunks") && !text.contains("transfer-encoding"))
        }
    }

    @Test func headHasNoContentAndTheConnectionGoesOn() async throws {
        try await Self.withWeb { port, _, _ in
            let text = try await RawClient.exchange(
                port,
                "HEAD /big/5 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /chunked HTTP/1.1\r\nHost: x\r\n\r\n" + get("/after")
            )
            #expect(text.contains("content-length: 5\r\n") && !text.contains("bbbbb"))
            #expect(text.contains("GET /after HTTP/1.1\n"))
        }
    }

    @Test func continueIsSaidWhenSomebodyWillRead() async throws {
        try await Self.withWeb { port, server, _ in
            let client = try await RawClient.connect(port)
            try await client.send(
                "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
            )
            try await client.wait(for: "HTTP/1.1 100 Continue\r\n\r\n")
            try await client.send("abc")
            let answer = try await client.end()
            #expect(answer.contains("content: 3\n"))
            #expect(server.requests == ["PUT /x 3"])
            // Nobody will read this one, so nothing is asked for.
            let refused = try await RawClient.exchange(
                port,
                "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 99\r\n\r\n"
            )
            #expect(refused.hasPrefix("HTTP/1.1 417"))
        }
    }

    @Test("answers of the gateway's own say why")
    func ownAnswers() async throws {
        var limits = GatewayLimits()
        limits.bodyBytes = 10
        var slow = matching("/hang", .forward([backend("web")]))
        slow.timeout = .milliseconds(50)
        var none = backend("web")
        none.backend = nil
        let rules = [
            matching("/empty", .forward([backend("empty")])), matching("/gone", .forward([backend("gone")])),
            matching("/nobody", .forward([none])), slow, matching("/close", .forward([backend("web")])),
            matching("/some", .forward([backend("web")])),
        ]
        try await Self.withWeb(rules, limits: limits) { port, _, _ in
            for (path, status, reason) in [
                ("/other", 404, "no route for web.example/other"),
                ("/empty", 503, "no endpoint of service shop/empty port 80 is ready"),
                ("/gone", 503, "service shop/gone is not known"),
                ("/nobody", 500, "does not exist"),
                ("/hang", 504, "service shop/web did not answer in time"),
                ("/close", 502, "closed the connection without an answer"),
            ] {
                let text = try await RawClient.exchange(port, get(path))
                #expect(
                    text.hasPrefix("HTTP/1.1 \(status) ") && text.contains("\r\n\r\nedgemesh: "),
                    "\(path): \(text)"
                )
                #expect(text.contains(reason), "\(path): \(text)")
            }
            let long = "POST /some HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n01234567890"
            let tooLong = try await RawClient.exchange(port, long)
            #expect(tooLong.hasPrefix("HTTP/1.1 413 "))
            let chunked =
                "POST /some HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n"
            let tooLongInChunks = try await RawClient.exchange(port, chunked)
            #expect(tooLongInChunks.hasPrefix("HTTP/1.1 413 "))
        }
    }

    @Test func nobodyListens() async throws {
        let server = try await TestBackend.start()
        // tcpmux: nobody has it.
        let port: UInt16 = 1
        try await GatewayRig.with(
            [.http(hosts([matching("/a", .forward([backend("dead")])), matching("/b", .forward([backend("half")]))]))],
            services: [makeService("dead", ports: [port]), makeService("half", ports: [port, server.port])]
        ) { _, ports in
            let text = try await RawClient.exchange(ports[0], get("/a"))
            #expect(
                text.hasPrefix("HTTP/1.1 502 ") && text.contains("no endpoint of service shop/dead could be reached")
            )
            // The endpoint that refuses is passed over, whatever the method.
            for _ in 0..<4 {
                let post = "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab"
                let answer = try await RawClient.exchange(ports[0], post)
                #expect(answer.contains("content: 2\n"))
            }
        }
        try await server.stop()
    }

    @Test func redirectsAndResponsesOfRules() async throws {
        var redirect = HTTPRedirect(status: 308)
        redirect.scheme = "https"
        redirect.path = .prefix("/new")
        let rules = [
            matching("/old", .redirect(redirect)),
            matching("/teapot", .respond(DirectResponse(status: 418, body: Array("short and stout".utf8)))),
        ]
        try await Self.withWeb(rules) { port, _, _ in
            let text = try await RawClient.exchange(port, get("/old/x?y=z"))
            #expect(text.hasPrefix("HTTP/1.1 308 ") && text.contains("location: https://web.example/new/x?y=z\r\n"))
            let direct = try await RawClient.exchange(port, get("/teapot"))
            #expect(direct.hasSuffix("\r\n\r\nshort and stout"))
        }
    }

    @Test func filtersRewriteAndEdit() async throws {
        var rule = matching("/api", .forward([backend("web")]))
        rule.filters.path = .prefix("/v2")
        rule.filters.authority = "inside.example"
        rule.filters.request = HeaderEdits(
            set: [.init(name: "X-Set", value: "1"), .init(name: "Content-Length", value: "99")],
            add: [.init(name: "X-Add", value: "2")],
            remove: ["X-Bad"]
        )
        rule.filters.response = HeaderEdits(set: [.init(name: "X-Out", value: "3")], remove: ["X-Backend"])
        try await Self.withWeb([rule]) { port, _, _ in
            let text = try await RawClient.exchange(
                port,
                get("/api/x", "X-Bad: 1\r\nX-Add: 1\r\nConnection: close\r\n")
            )
            #expect(text.contains("GET /v2/x HTTP/1.1\n") && text.contains("host: inside.example\n"))
            #expect(text.contains("x-set: 1\n") && text.contains("x-add: 1\nx-add: 2\n") && !text.contains("x-bad"))
            #expect(!text.contains("content-length: 99") && text.contains("x-forwarded-host: web.example\n"))
            #expect(text.contains("x-out: 3\r\n") && !text.contains("x-backend"))
        }
    }

    @Test func weightsShareRequests() async throws {
        let servers = [try await TestBackend.start("one"), try await TestBackend.start("two")]
        var (first, second) = (backend("one"), backend("two"))
        (first.weight, second.weight) = (1, 3)
        let rule = HTTPRule(origin: "", matches: [], action: .forward([first, second]))
        try await GatewayRig.with(
            [.http(hosts([rule]))],
            services: [makeService("one", ports: [servers[0].port]), makeService("two", ports: [servers[1].port])]
        ) { _, ports in
            let count = 400
            _ = try await RawClient.exchange(
                ports[0],
                (1...count).map { get("/", $0 == count ? "Connection: close\r\n" : "") }.joined()
            )
            // The mean is 100, the standard deviation 8.7: seven of them either way are met once in 10^11.
            #expect((39...161).contains(servers[0].requests.count))
            #expect(servers[0].requests.count + servers[1].requests.count == count)
        }
        for server in servers { try await server.stop() }
    }

    @Test func retriesByThePolicy() async throws {
        var rule = matching("/status", .forward([backend("web")]))
        rule.retries = RetryPolicy(attempts: 2, conditions: [.gatewayError], backoff: .milliseconds(1))
        try await Self.withWeb([rule]) { port, server, _ in
            let gatewayError = try await RawClient.exchange(port, get("/status/503"))
            #expect(gatewayError.hasPrefix("HTTP/1.1 503 "))
            #expect(server.requests.count == 3)
            let serverError = try await RawClient.exchange(port, get("/status/500"))
            #expect(serverError.hasPrefix("HTTP/1.1 500 "))
            #expect(server.requests.count == 4, "500 is no error of a gateway")
            // Content is sent again whole, if it is short enough to be kept.
            let post = "POST /status/502 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd"
            let repeated = try await RawClient.exchange(port, post)
            #expect(repeated.hasPrefix("HTTP/1.1 502 "))
            #expect(server.requests.suffix(3) == ["POST /status/502 4", "POST /status/502 4", "POST /status/502 4"])
        }
    }

    @Test("content longer than what is kept is not sent again")
    func noRetryOfLongContent() async throws {
        var limits = GatewayLimits()
        limits.retainedBytes = 3
        var rule = matching("/status", .forward([backend("web")]))
        rule.retries = RetryPolicy(attempts: 2, conditions: [.gatewayError], backoff: .milliseconds(1))
        try await Self.withWeb([rule], limits: limits) { port, server, _ in
            let post = "POST /status/502 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd"
            let answer = try await RawClient.exchange(port, post)
            #expect(answer.hasPrefix("HTTP/1.1 502 "))
            #expect(server.requests == ["POST /status/502 4"])
        }
    }

    @Test("an idle connection that the backend has closed costs a safe request nothing")
    func staleConnections() async throws {
        // The second request on a connection finds it closed, with nothing answered.
        let server = try await RawBackend.start { bytes, reads in
            reads == 0 ? Array("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".utf8) : nil
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            for _ in 0..<3 { #expect(try await RawClient.exchange(ports[0], get("/")).hasSuffix("\r\n\r\nok")) }
            // One that may have been carried out is not sent again.
            let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            let answer = try await RawClient.exchange(ports[0], post)
            #expect(answer.hasPrefix("HTTP/1.1 502 "))
        }
        try await server.stop()
    }

    @Test(
        "a backend's answers that two parsers could read differently are refused",
        arguments: [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\nok",
            "ICY 200 OK\r\n\r\nok", "HTTP/1.1 20 OK\r\n\r\nok", "\u{0}\u{1}\u{2}\r\n\r\n",
        ]
    )
    func malformedAnswers(_ answer: String) async throws {
        let server = try await RawBackend.start { _, _ in Array(answer.utf8) }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            let text = try await RawClient.exchange(ports[0], get("/"))
            #expect(text.hasPrefix("HTTP/1.1 502 ") && text.contains("answered what is no HTTP"))
        }
        try await server.stop()
    }

    @Test("bytes behind an answer are nobody's: they do not answer the next request")
    func answersWithoutQuestion() async throws {
        let server = try await RawBackend.start { bytes, _ in
            let path = String(decoding: bytes, as: UTF8.self).split(separator: " ")[1]
            return Array(
                "HTTP/1.1 200 OK\r\ncontent-length: \(path.utf8.count)\r\n\r\n\(path)HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
                    .utf8
            )
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            let text = try await RawClient.exchange(ports[0], get("/1", "") + get("/2", "") + get("/3"))
            #expect(!text.contains("evil") && text.contains("/1") && text.contains("/2") && text.hasSuffix("/3"))
        }
        try await server.stop()
    }

    @Test("an answer that breaks off is not taken for whole")
    func truncatedAnswers() async throws {
        let server = try await RawBackend.start { _, reads in
            reads == 0 ? Array("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".utf8) : nil
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            let client = try await RawClient.connect(ports[0])
            try await client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
            try await client.wait(for: "abc")
            // It may have been broken off by now.
            try? await client.send("cde")
            let text = try await client.end()
            #expect(text.hasSuffix("\r\n\r\nabc"))
        }
        try await server.stop()
    }

    @Test func upgradesTunnelBothWays() async throws {
        let server = try await RawBackend.start { bytes, reads in
            if reads > 0 { return bytes.reversed() }
            let head = String(decoding: bytes, as: UTF8.self).lowercased()
            guard head.contains("upgrade: echo\r\n"), head.contains("connection: upgrade\r\n") else { return nil }
            return Array("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello".utf8)
        }
        try await GatewayRig.with(
            [.http(hosts([forwarding("raw")]))],
            services: [makeService("raw", ports: [server.port])]
        ) { _, ports in
            let client = try await RawClient.connect(ports[0])
            try await client.send(get("/ws", "Connection: keep-alive, Upgrade\r\nUpgrade: echo\r\n"))
            try await client.wait(for: "HTTP/1.1 101 Switching Protocols\r\n")
            try await client.wait(for: "connection: upgrade\r\n")
            try await client.wait(for: "\r\n\r\nhello")
            try await client.send("abc")
            try await client.wait(for: "hellocba")
            client.close()
        }
        try await server.stop()
    }

    @Test("a client that does not read holds its backend back, and gets everything in the end")
    func backPressure() async throws {
        try await Self.withWeb { port, _, _ in
            let count = 40_000_000
            let client = try await RawClient.connect(port, reads: false)
            try await client.send(get("/big/\(count)"))
            // Another client is served meanwhile.
            let answer = try await RawClient.exchange(port, get("/other"))
            #expect(answer.contains("GET /other"))
            try await client.setReading(true)
            #expect(try await client.end().utf8.count > count)
        }
    }

    @Test("a session stays with its endpoint", arguments: [SessionPersistence.Carrier.cookie, .header])
    func sessions(_ carrier: SessionPersistence.Carrier) async throws {
        let servers = [try await TestBackend.start("one"), try await TestBackend.start("two")]
        var rule = forwarding("web")
        rule.persistence = SessionPersistence(carrier: carrier, name: "Sticky")
        try await GatewayRig.with(
            [.http(hosts([rule]))],
            services: [makeService("web", ports: servers.map(\.port))]
        ) { _, ports in
            let first = try await RawClient.exchange(ports[0], get("/"))
            let begun = carrier == .cookie ? "set-cookie: Sticky=" : "sticky: "
            let session = try #require(
                first.split(separator: begun).dropFirst().first?.prefix { $0.isLetter || $0.isNumber }
            )
            let field = carrier == .cookie ? "Cookie: a=b; Sticky=\(session)" : "Sticky: \(session)"
            let name = first.contains("backend: one\n") ? "one" : "two"
            for _ in 0..<6 {
                let text = try await RawClient.exchange(ports[0], get("/", "\(field)\r\nConnection: close\r\n"))
                #expect(text.contains("backend: \(name)\n"))
                #expect(!text.contains("set-cookie"))
            }
            // One that nobody gave out begins anew.
            let forged = field.replacing(session, with: "zzz")
            let anew = try await RawClient.exchange(ports[0], get("/", "\(forged)\r\nConnection: close\r\n"))
            #expect(anew.contains(begun))
        }
        for server in servers { try await server.stop() }
    }

    @Test func mirrorsAreSentAndTheirAnswersDropped() async throws {
        let shadow = try await TestBackend.start("shadow")
        let server = try await TestBackend.start()
        var rule = forwarding("web")
        rule.mirrors = [Mirror(backend: Backend(service: serviceName("shadow"), port: 80), share: 1_000_000)]
        try await GatewayRig.with(
            [.http(hosts([rule]))],
            services: [makeService("web", ports: [server.port]), makeService("shadow", ports: [shadow.port])]
        ) { _, ports in
            let post = "POST /copy HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd"
            let text = try await RawClient.exchange(ports[0], post)
            #expect(text.contains("backend: one\n"))
            try await eventually("the copy comes") { shadow.requests == ["POST /copy 4"] }
        }
        try await shadow.stop()
        try await server.stop()
    }

    @Test func faultsAndOriginsOfRules() async throws {
        var fault = matching("/fault", .forward([backend("web")]))
        fault.fault = FaultInjection()
        fault.fault?.abortStatus = 418
        fault.fault?.abortShare = 1_000_000
        fault.fault?.delay = .milliseconds(1)
        fault.fault?.delayShare = 1_000_000
        var cors = matching("/cors", .forward([backend("web")]))
        cors.cors = CORSPolicy(origins: [.exact("https://good.example")])
        cors.cors?.methods = ["PUT"]
        try await Self.withWeb([fault, cors]) { port, server, _ in
            let injected = try await RawClient.exchange(port, get("/fault"))
            #expect(injected.hasPrefix("HTTP/1.1 418 "))
            let origin = "Origin: https://good.example\r\nConnection: close\r\n"
            let preflight = "OPTIONS /cors HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: PUT\r\n\(origin)\r\n"
            let allowed = try await RawClient.exchange(port, preflight)
            #expect(allowed.hasPrefix("HTTP/1.1 204 ") && allowed.contains("access-control-allow-methods: PUT\r\n"))
            let refused = try await RawClient.exchange(port, preflight.replacing("good", with: "evil"))
            #expect(refused.hasPrefix("HTTP/1.1 403 "))
            #expect(server.requests.isEmpty)
            let actual = try await RawClient.exchange(port, get("/cors", origin))
            #expect(actual.contains("access-control-allow-origin: https://good.example\r\n"))
        }
    }

    @Test("a plan that changes takes hold at the next request of an open connection")
    func plansChange() async throws {
        try await Self.withWeb { port, _, rig in
            let client = try await RawClient.connect(port)
            try await client.send(get("/first", ""))
            try await client.wait(for: "GET /first HTTP/1.1\n")
            rig.plans.yield(rig.plan([.http(hosts([matching("/only", .respond(DirectResponse(status: 200)))]))]))
            try await eventually("the new plan is in force") {
                try await RawClient.exchange(port, get("/first")).hasPrefix("HTTP/1.1 404 ")
            }
            try await client.send(get("/first"))
            let answer = try await client.end()
            #expect(answer.contains("HTTP/1.1 404 "))
        }
    }
}
