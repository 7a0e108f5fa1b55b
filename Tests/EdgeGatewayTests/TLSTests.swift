import GatewayRouting
import KubeModel
import MeshCore
import MeshTesting
import Synchronization
import Testing

@testable import EdgeGateway

/// Certificates of a test, made by openssl in a folder of its own.
final class TestCertificates: Sendable {
    let folder: String
    private let materials = Mutex<[ObjectName: CertificateMaterial]>([:])

    init() throws {
        self.folder = try shell("mktemp -d").filter { !$0.isNewline }
    }

    deinit { _ = try? shell("rm -rf '\(self.folder)'") }

    func read(_ file: String) throws -> [UInt8] { Array(try shell("cat '\(self.folder)/\(file)'").utf8) }

    /// A certificate that signs itself, for `names`, as `NAME.crt` and `NAME.key`.
    func make(_ name: String, names: [String]) throws {
        let alternatives = names.map { "DNS:\($0)" }.joined(separator: ",")
        try shell(
            """
            cd '\(self.folder)' && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -subj /CN=\(name) -addext subjectAltName=\(alternatives) -keyout \(name).key -out \(name).crt
            """
        )
    }

    /// Puts a certificate into the Secret of a name.
    func publish(_ name: String, as secret: String, authority: String? = nil) throws {
        let material = CertificateMaterial(
            chain: try self.read("\(name).crt"),
            key: try self.read("\(name).key"),
            authorities: try authority.map { try self.read("\($0).crt") } ?? []
        )
        self.materials.withLock { $0[serviceName(secret)] = material }
    }

    var lookup: CertificateLookup { { name in self.materials.withLock { $0[name] } } }
}

private func server(_ hosts: [String], _ secret: String, _ origin: String) throws -> TLSServer {
    let rule = HTTPRule(
        origin: origin,
        matches: [],
        action: .respond(DirectResponse(status: 200, body: Array("this is \(origin)".utf8)))
    )
    return TLSServer(
        hosts: try hosts.map { try #require(HostPattern($0)) },
        termination: TLSTermination(certificates: [serviceName(secret)]),
        service: .http(EdgeGatewayTests.hosts([rule]))
    )
}

private func curl(_ port: UInt16, _ host: String, _ options: String = "-k") throws -> String {
    try shell(
        """
        curl -sS --max-time 60 --resolve '\(host):\(port):127.0.0.1' \(options) -w ' %{http_version} %{http_code}' \
        https://\(host):\(port)/
        """,
        allowFailure: true
    )
}

@Suite struct TLSTests {
    @Test("the name asked for chooses certificate and rules; ALPN chooses the version")
    func namesChoose() async throws {
        let certificates = try TestCertificates()
        for name in ["a.example", "b.example"] {
            try certificates.make(name, names: [name, "*.\(name)"])
            try certificates.publish(name, as: name)
        }
        let servers = [
            try server(["a.example"], "a.example", "a"), try server(["*.b.example"], "b.example", "b"),
        ]
        try await GatewayRig.with([.tls(servers)], services: [], certificates: certificates.lookup) { rig, ports in
            let trusted = "--cacert '\(certificates.folder)/"
            #expect(try curl(ports[0], "a.example", trusted + "a.example.crt'") == "this is a 2 200")
            #expect(try curl(ports[0], "x.b.example", trusted + "b.example.crt' --http1.1") == "this is b 1.1 200")
            #expect(try curl(ports[0], "c.example").contains("curl: ("), "nothing is served for this name")
            let seen = try shell(
                "echo | openssl s_client -connect 127.0.0.1:\(ports[0]) -servername a.example -alpn h2,http/1.1 2>&1",
                allowFailure: true
            )
            #expect(seen.contains("TLSv1.3") && seen.contains("ALPN protocol: h2"))
            // A request for the other name must not come by this one's certificate.
            let crossed = try shell(
                """
                curl -sk --max-time 60 --http1.1 --resolve 'a.example:\(ports[0]):127.0.0.1' -H 'Host: x.b.example' \
                -o /dev/null -w '%{http_code}' https://a.example:\(ports[0])/
                """
            )
            #expect(crossed == "421")
            let old = try shell(
                "echo | openssl s_client -connect 127.0.0.1:\(ports[0]) -servername a.example -tls1_1 2>&1",
                allowFailure: true
            )
            #expect(!old.contains("BEGIN CERTIFICATE"), "TLS 1.1 is too old")
        }
    }

    @Test("client certificates: none, wrong, right, and with the wrong name")
    func clientCertificates() async throws {
        let certificates = try TestCertificates()
        for name in ["a.example", "friend", "stranger"] { try certificates.make(name, names: [name]) }
        try certificates.publish("a.example", as: "a", authority: "friend")
        var required = try server(["a.example"], "a", "required")
        required.termination?.clientCertificates = .required
        var optional = required
        optional.termination?.clientCertificates = .optional
        var named = required
        named.termination?.subjectAltNames = ["somebody"]
        try await GatewayRig.with(
            [.tls([required]), .tls([optional]), .tls([named])],
            services: [],
            certificates: certificates.lookup
        ) { _, ports in
            func call(_ listener: Int, _ identity: String?) throws -> String {
                let shown = identity.map {
                    "--cert '\(certificates.folder)/\($0).crt' --key '\(certificates.folder)/\($0).key'"
                }
                return try shell(
                    """
                    curl -sSk --max-time 60 --resolve 'a.example:\(ports[listener]):127.0.0.\(listener + 1)' \(shown ?? "") \
                    -o /dev/null -w '%{http_code}' https://a.example:\(ports[listener])/ 2>/dev/null
                    """,
                    allowFailure: true
                )
            }
            for (listener, identity, status) in [
                (0, nil, "000"), (0, "stranger", "000"), (0, "friend", "200"), (1, nil, "200"), (1, "stranger", "000"),
                // The last is a certificate that is right, with a name that is not.
                (1, "friend", "200"), (2, "friend", "000"),
            ] {
                let answer = try call(listener, identity)
                #expect(answer == status, "listener \(listener), \(identity ?? "none")")
            }
        }
    }

    @Test("a new certificate is shown to new connections, and ends none")
    func rotation() async throws {
        let certificates = try TestCertificates()
        try certificates.make("a.example", names: ["a.example"])
        try certificates.publish("a.example", as: "a")
        try await GatewayRig.with(
            [.tls([try server(["a.example"], "a", "a")])],
            services: [],
            certificates: certificates.lookup
        ) { rig, ports in
            func fingerprint() throws -> String {
                try shell(
                    """
                    echo | openssl s_client -connect 127.0.0.1:\(ports[0]) -servername a.example 2>/dev/null \
                    | openssl x509 -noout -fingerprint
                    """
                )
            }
            let before = try fingerprint()
            // An open connection that asks again after the change, over the same TLS session.
            let client = try await RawClient.connect(ports[0], serverName: "a.example")
            try await client.send("GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            try await client.wait(for: "this is a")
            try certificates.make("a.example", names: ["a.example"])
            try certificates.publish("a.example", as: "a")
            await rig.service.refresh()
            let after = try fingerprint()
            #expect(after != before && after.contains("ingerprint"))
            try await client.send("GET /2 HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            let answers = try await client.end()
            #expect(statuses(answers) == [200, 200])
        }
    }

    @Test("a client that has ended its direction still gets its answer, over TLS as without")
    func halfClose() async throws {
        let certificates = try TestCertificates()
        try certificates.make("a.example", names: ["a.example"])
        try certificates.publish("a.example", as: "a")
        let web = try await TestBackend.start()
        let counter = try await RawBackend.counting()
        var secured = try server(["a.example"], "a", "a")
        secured.service = .http(hosts([forwarding("web")]))
        var stream = secured
        stream.service = .stream(StreamRoute(backends: [backend("counter")]))
        try await GatewayRig.with(
            [.tls([secured]), .tls([stream])],
            services: [makeService("web", ports: [web.port]), makeService("counter", ports: [counter.port])],
            certificates: certificates.lookup
        ) { _, ports in
            let asking = try await RawClient.connect(ports[0], serverName: "a.example")
            try await asking.send("GET /big/300000 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            try await asking.endOutput()
            let answer = try await asking.end()
            #expect(statuses(answer) == [200] && answer.utf8.count > 300_000)
            // The backend answers when its client has ended.
            let counted = try await RawClient.connect(ports[1], host: "127.0.0.2", serverName: "a.example")
            try await counted.send([UInt8](repeating: 7, count: 200_000))
            try await counted.endOutput()
            #expect(try await counted.end() == "200000")
        }
        try await web.stop()
        try await counter.stop()
    }

    @Test("a Secret that is missing or broken is told, and the others serve")
    func brokenSecrets() async throws {
        let certificates = try TestCertificates()
        try certificates.make("a.example", names: ["a.example"])
        try certificates.publish("a.example", as: "a")
        let servers = [try server(["a.example"], "a", "a"), try server(["b.example"], "missing", "b")]
        try await GatewayRig.with([.tls(servers)], services: [], certificates: certificates.lookup) { rig, ports in
            let whole = try curl(ports[0], "a.example")
            #expect(whole == "this is a 2 200")
            #expect(try curl(ports[0], "b.example").contains("curl: ("))
            let problems = await rig.service.brokenCertificates
            #expect(problems.count == 1 && problems[0].contains("shop/missing"))
        }
    }

    @Test("TLS that is passed on ends where its certificate is")
    func passthrough() async throws {
        let certificates = try TestCertificates()
        try certificates.make("inner.example", names: ["inner.example"])
        try certificates.publish("inner.example", as: "inner")
        // A second gateway is the backend that ends the TLS.
        try await GatewayRig.with(
            [.tls([try server(["inner.example"], "inner", "inner")])],
            services: [],
            certificates: certificates.lookup
        ) { _, inner in
            let route = StreamRoute(backends: [backend("inner")])
            let passing = TLSServer(
                hosts: [try #require(HostPattern("inner.example"))],
                termination: nil,
                service: .stream(route)
            )
            try await GatewayRig.with(
                [.tls([passing]), .stream(route)],
                services: [makeService("inner", ports: inner)]
            ) { _, ports in
                let trust = "--cacert '\(certificates.folder)/inner.example.crt'"
                let ended = try curl(ports[0], "inner.example", trust)
                #expect(ended == "this is inner 2 200")
                #expect(try curl(ports[0], "other.example").contains("curl: ("))
                let plain = try shell(
                    """
                    curl -sS --max-time 60 --connect-to inner.example:443:127.0.0.2:\(ports[1]) \(trust) https://inner.example/
                    """
                )
                #expect(plain == "this is inner", "a stream is not looked into")
            }
        }
    }

    @Test func materialTellsNothingOfItself() {
        let material = CertificateMaterial(chain: [1], key: Array("secret".utf8))
        #expect("\(material)" == "CertificateMaterial" && !String(reflecting: [material]).contains("115"))
        var dumped = ""
        dump(material, to: &dumped)
        #expect(!dumped.contains("115"))
    }
}

@Suite struct ClientHelloTests {
    /// A hello with these extensions, in one record or in records of `fragment` bytes.
    static func hello(_ extensions: [(UInt16, [UInt8])], fragment: Int = 16_384) -> [UInt8] {
        func vector(_ bytes: [UInt8], _ width: Int) -> [UInt8] {
            (0..<width).reversed().map { UInt8(truncatingIfNeeded: bytes.count >> ($0 * 8)) } + bytes
        }
        let block = extensions.flatMap { [UInt8($0.0 >> 8), UInt8($0.0 & 255)] + vector($0.1, 2) }
        let body =
            [3, 3] + [UInt8](repeating: 7, count: 32) + vector([], 1) + vector([0x13, 1], 2) + vector([0], 1)
            + vector(block, 2)
        var message = [1] + vector(body, 3)
        var records: [UInt8] = []
        while !message.isEmpty {
            records += [22, 3, 1] + vector(Array(message.prefix(fragment)), 2)
            message = Array(message.dropFirst(fragment))
        }
        return records
    }

    static func name(_ text: String) -> (UInt16, [UInt8]) {
        let bytes = Array(text.utf8)
        let entry = [0, UInt8(bytes.count >> 8), UInt8(bytes.count & 255)] + bytes
        return (0, [UInt8(entry.count >> 8), UInt8(entry.count & 255)] + entry)
    }

    @Test("the name is found however records are cut, and never before it is all there", arguments: [1, 7, 16_384])
    func names(fragment: Int) throws {
        let alpn: (UInt16, [UInt8]) = (16, [0, 12, 2] + Array("h2".utf8) + [8] + Array("http/1.1".utf8))
        let bytes = Self.hello([(23, []), Self.name("Web.Example."), alpn], fragment: fragment)
        for count in 0..<bytes.count { #expect(try ClientHello.parse(bytes.prefix(count)) == nil) }
        let hello = try ClientHello.parse(bytes + [1, 2, 3])
        #expect(hello == ClientHello(serverName: "web.example", applicationProtocols: ["h2", "http/1.1"]))
        #expect(try ClientHello.parse(Self.hello([]))?.serverName == nil)
    }

    @Test(
        "what is no ClientHello is refused at once",
        arguments: [
            Array("GET / HTTP/1.1\r\n".utf8), [0x80, 0x2E, 1, 0, 2], [22, 3, 1, 0, 0], [22, 3, 9, 0, 1],
            [22, 3, 1, 0x41, 0],
            [22, 3, 1, 0, 4, 2, 0, 0, 1], [22, 3, 1, 0, 4, 1, 0xFF, 0xFF, 0xFF], [21, 3, 1, 0, 2],
            Self.hello([Self.name("a"), Self.name("b")]), Self.hello([Self.name("a b")]),
            Self.hello([Self.name("a\0")]),
            Self.hello([(0, [0, 3, 0, 0, 9])]), Self.hello([(0, [])]), Self.hello([(16, [0, 2, 5, 1])]),
        ] as [[UInt8]]
    )
    func refusals(_ bytes: [UInt8]) {
        #expect(throws: GatewayError.self) { _ = try ClientHello.parse(bytes) }
    }

    @Test func aHelloWithoutEndIsRefused() {
        var bytes: [UInt8] = []
        while bytes.count < ClientHello.maximumBytes { bytes += [22, 3, 1, 0, 1, bytes.isEmpty ? 1 : 0] }
        #expect(throws: GatewayError.self) { _ = try ClientHello.parse(bytes) }
    }

    @Test("changed bytes never trap", arguments: [1, 2, 3, 4] as [UInt64])
    func noise(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let original = Self.hello([Self.name("web.example"), (16, [0, 3, 2, 104, 50])], fragment: 40)
        for _ in 0..<2_000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            _ = try? ClientHello.parse(bytes.prefix(Int.random(in: 0...bytes.count, using: &generator)))
        }
    }
}
