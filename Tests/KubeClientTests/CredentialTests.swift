import Documents
import FakeKube
import Glibc
import KubeModel
import MeshCore
import MeshTesting
import NIOCore
import NIOEmbedded
import NIOHTTP1
import NIOPosix
import Testing

@testable import KubeClient

/// TLS, tokens and exec plugins against the fake API server.
@Suite struct CredentialTests {
    private func tlsOptions(
        _ certificates: FakeKubeCertificates,
        requiresClient: Bool = false
    ) -> FakeKube.Options {
        var options = FakeKube.Options()
        options.tls = certificates
        options.requiresClientCertificate = requiresClient
        return options
    }

    private func tls(_ certificates: FakeKubeCertificates) -> KubeTLS {
        var tls = KubeTLS()
        tls.certificateAuthority = .inline(Array(certificates.authorityPEM.utf8))
        return tls
    }

    private func probe(_ configuration: KubeConfiguration) async -> KubeProbe {
        await KubernetesSource(
            configuration,
            options: .quick,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: quietLogger
        ).probe()
    }

    @Test func clientCertificates() async throws {
        let certificates = try FakeKubeCertificates()
        let identity = try certificates.client(named: "edge")
        let folder = try TestFolder()
        var tls = self.tls(certificates)
        tls.clientCertificate = .file(try folder.write(identity.certificatePEM, to: "cert"))
        tls.clientKey = .file(try folder.write(identity.keyPEM, to: "key"))
        try await withFake(self.tlsOptions(certificates, requiresClient: true)) { fake in
            fake.apply(service("a"))
            let configuration = KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: tls))
            try await following(fake, as: configuration) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a"])
            }
            let bare = await self.probe(
                KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: self.tls(certificates)))
            )
            #expect(bare.failure != nil && bare.serverVersion == nil)
        }
    }

    @Test func theServerIsVerified() async throws {
        let certificates = try FakeKubeCertificates(names: ["kube.test"], addresses: [])
        try await withFake(self.tlsOptions(certificates)) { fake in
            // The address is not in the certificate.
            let wrong = await self.probe(
                KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: self.tls(certificates)))
            )
            #expect(wrong.failure?.code == .tls, "\(String(describing: wrong.failure))")
            var named = self.tls(certificates)
            named.serverName = "kube.test"
            #expect(
                await self.probe(KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: named))).failure == nil
            )
            // Another authority.
            let stranger = self.tls(try FakeKubeCertificates(names: ["kube.test"]))
            let untrusted = await self.probe(KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: stranger)))
            #expect(untrusted.failure?.code == .tls)
            var skipping = KubeTLS()
            skipping.skipsVerification = true
            #expect(
                await self.probe(KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: skipping))).failure == nil
            )
            var address = self.tls(certificates)
            address.serverName = "10.0.0.1"
            let refused = await self.probe(KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: address)))
            #expect(refused.failure?.code == .invalidConfiguration)
        }
    }

    @Test func anAddressInTheCertificateIsVerified() async throws {
        let certificates = try FakeKubeCertificates()
        try await withFake(self.tlsOptions(certificates)) { fake in
            let configuration = KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: self.tls(certificates)))
            #expect(await self.probe(configuration).failure == nil)
        }
    }

    @Test func unusableKeysAreNamed() async throws {
        let folder = try TestFolder()
        var tls = KubeTLS()
        tls.certificateAuthority = .file(try folder.write("no certificate", to: "ca.crt"))
        let probe = await self.probe(KubeConfiguration(endpoint: try KubeEndpoint("https://127.0.0.1:1", tls: tls)))
        #expect(probe.failure?.code == .tls && probe.failure?.message.contains("ca.crt") ?? false)
    }

    @Test func aRotatedTokenIsUsedAtOnce() async throws {
        let folder = try TestFolder()
        let file = try folder.write("first\n", to: "token")
        try await withFake { fake in
            fake.setAuthorizations(["Bearer first"])
            let configuration = KubeConfiguration(endpoint: try KubeEndpoint(fake.url), credentials: .tokenFile(file))
            try await following(fake, as: configuration) { follower in
                try await synced(follower, fake)
                fake.setAuthorizations(["Bearer second"])
                fake.dropWatches()
                try await eventually("refused") { await follower.message.contains("401") }
                try folder.write("second", to: "token")
                try await synced(follower, fake)
            }
        }
    }

    @Test(arguments: [
        (KubeCredentials.token("abc"), "Bearer abc"),
        (.basic(user: "u", password: "p:w"), "Basic dTpwOnc="),
    ])
    func headers(credentials: KubeCredentials, expected: String) async throws {
        try await withFake { fake in
            fake.setAuthorizations([expected])
            let probe = await self.probe(
                KubeConfiguration(endpoint: try KubeEndpoint(fake.url), credentials: credentials)
            )
            #expect(probe.failure == nil && probe.serverVersion == "v1.31.0+fake")
        }
    }

    @Test func aTokenThatNoHeaderCanCarryIsRefused() async throws {
        try await withFake { fake in
            let configuration = KubeConfiguration(
                endpoint: try KubeEndpoint(fake.url),
                credentials: .token("a\r\nX-Evil: 1")
            )
            #expect(await self.probe(configuration).failure?.code == .credentials)
            #expect(fake.requests.isEmpty)
        }
    }

    @Test func anExecPluginIsAskedAgainWhenItsTokenIsRefused() async throws {
        let folder = try TestFolder()
        let count = folder.adopt("count")
        let script = """
            #!/bin/sh
            echo run >> \(count)
            n=$(wc -l < \(count) | tr -d ' ')
            case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) ;; *) exit 3;; esac
            [ "$EXTRA" = "yes" ] || exit 4
            [ -n "$PATH" ] || exit 5
            echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
            printf '"status":{"token":"%s-%s"}}' "$1" "$n"
            """
        var plugin = ExecPlugin(
            command: try folder.write(script, to: "plugin", mode: 0o700),
            apiVersion: "client.authentication.k8s.io/v1"
        )
        plugin.arguments = ["token"]
        plugin.environment = [.init(name: "EXTRA", value: "yes")]
        try await withFake { fake in
            fake.setAuthorizations(["Bearer token-1"])
            let configuration = KubeConfiguration(endpoint: try KubeEndpoint(fake.url), credentials: .exec(plugin))
            try await following(fake, as: configuration) { follower in
                try await synced(follower, fake)
                // One run serves all five reflectors.
                #expect(try SmallFile.read(count).count(where: { $0 == 0x0A }) == 1)
                fake.setAuthorizations(["Bearer token-2"])
                fake.dropWatches(of: "services")
                try await eventually("the second token") {
                    fake.requests.last { $0.plural == "services" }?.authorization == "Bearer token-2"
                }
                try await synced(follower, fake)
            }
        }
    }

    @Test func anExecPluginMayGiveAClientCertificate() async throws {
        let certificates = try FakeKubeCertificates()
        let identity = try certificates.client(named: "edge")
        let answer: Document = [
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": [
                "clientCertificateData": .string(identity.certificatePEM), "clientKeyData": .string(identity.keyPEM),
            ],
        ]
        let folder = try TestFolder()
        var plugin = ExecPlugin(command: "cat", apiVersion: "client.authentication.k8s.io/v1")
        plugin.arguments = [try folder.write(answer.jsonText(), to: "answer")]
        try await withFake(self.tlsOptions(certificates, requiresClient: true)) { fake in
            let endpoint = try KubeEndpoint(fake.url, tls: self.tls(certificates))
            let probe = await self.probe(KubeConfiguration(endpoint: endpoint, credentials: .exec(plugin)))
            #expect(probe.failure == nil && probe.serverVersion != nil)
        }
    }

    @Test func anExpiredExecCredentialIsRenewed() async throws {
        let folder = try TestFolder()
        let count = folder.adopt("count")
        let script = """
            #!/bin/sh
            echo run >> \(count)
            echo '{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential",'
            echo '"status":{"token":"t","expirationTimestamp":"2020-01-01T00:00:00Z"}}'
            """
        let plugin = ExecPlugin(
            command: try folder.write(script, to: "plugin", mode: 0o700),
            apiVersion: "client.authentication.k8s.io/v1beta1"
        )
        let store = CredentialStore(KubeConfiguration(endpoint: try KubeEndpoint("h:1"), credentials: .exec(plugin)))
        #expect(try await store.authorization() == "Bearer t")
        #expect(try await store.authorization() == "Bearer t")
        #expect(try SmallFile.read(count).count(where: { $0 == 0x0A }) == 2)
    }

    @Test(arguments: [
        ("exit 7", "status 7"), ("echo hello", "no JSON"), ("echo '{}'", "no ExecCredential"),
        ("echo oops >&2; exit 1", "oops"), ("sleep 60", "longer than"), ("sleep 60 >/dev/null 2>&1", "longer than"),
        (#"echo '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{}}'"#, "must print"),
        ("head -c 3000000 /dev/zero", "more than"),
    ])
    func aFailingExecPluginSaysWhy(body: String, expected: String) async throws {
        let folder = try TestFolder()
        var plugin = ExecPlugin(
            command: try folder.write("#!/bin/sh\n\(body)\n", to: "plugin", mode: 0o700),
            apiVersion: "client.authentication.k8s.io/v1"
        )
        plugin.timeLimit = .milliseconds(500)
        plugin.installHint = "install the plugin"
        let store = CredentialStore(KubeConfiguration(endpoint: try KubeEndpoint("h:1"), credentials: .exec(plugin)))
        let error = await #expect(throws: KubeError.self) { try await store.authorization() }
        #expect(error?.message.contains(expected) ?? false, "\(String(describing: error))")
        #expect(error?.message.contains("install the plugin") ?? false)
    }

    @Test func aMissingExecPluginIsNamed() async throws {
        let plugin = ExecPlugin(command: "/nonexistent/plugin", apiVersion: "client.authentication.k8s.io/v1")
        let store = CredentialStore(KubeConfiguration(endpoint: try KubeEndpoint("h:1"), credentials: .exec(plugin)))
        let error = await #expect(throws: KubeError.self) { try await store.authorization() }
        #expect(error?.message.contains("/nonexistent/plugin") ?? false)
    }
}

@Suite struct ProbeTests {
    @Test func tellsVersionPermissionsAndClock() async throws {
        try await withFake { fake in
            fake.setForbidden(["nodes"])
            fake.setAbsent(["endpointslices", "destinationrules"])
            let probe = await KubernetesSource(
                try .master(fake.url),
                options: .quick,
                group: MultiThreadedEventLoopGroup.singleton,
                logger: quietLogger
            ).probe()
            #expect(probe.failure == nil && probe.serverVersion == "v1.31.0+fake")
            // The server's clock is this one; what the answer took counts as skew.
            let latency = try #require(probe.latency)
            #expect(abs(probe.clockSkew?.inSeconds ?? .infinity) <= 2 + latency.inSeconds)
            let permissions = Dictionary(
                probe.resources.map { ("\($0.resource)/\($0.version)", $0.permission) },
                uniquingKeysWith: { first, _ in first }
            )
            #expect(Set(probe.resources.map(\.resource)).count == probe.resources.count, "one word for all versions")
            #expect(permissions["services/v1"] == .allowed)
            #expect(permissions["endpoints/v1"] == .allowed)
            #expect(permissions["endpointslices.discovery.k8s.io/v1"] == .absent)
            #expect(permissions["destinationrules.networking.istio.io/v1alpha3"] == .absent)
            guard case .denied(let reason) = permissions["nodes/v1"] else {
                Issue.record("nodes should be denied")
                return
            }
            #expect(reason.contains("nodes is forbidden"))
        }
    }

    @Test func tellsTheRightsOfAGatewayAndReadsNothingForThem() async throws {
        try await withFake { fake in
            fake.setForbidden(["pods", "gateways/status", "httproutes"])
            fake.setAbsent(["v1/grpcroutes"])
            var options = KubernetesSource.Options.quick
            options.followsGateway = true
            let probe = await KubernetesSource(
                try .master(fake.url),
                options: options,
                group: MultiThreadedEventLoopGroup.singleton,
                logger: quietLogger
            ).probe(rights: GatewayRights.credentials + GatewayRights.pods + GatewayRights.status)
            #expect(probe.rights.allSatisfy { $0.isAllowed != nil })
            #expect(
                Set(probe.rights.filter { $0.isAllowed == false }.map(\.right.description)) == [
                    "list pods", "watch pods", "patch gateways/status.gateway.networking.k8s.io",
                    "get httproutes.gateway.networking.k8s.io",
                ]
            )
            func found(_ resource: String) -> [String] {
                probe.resources.filter { $0.resource == resource }.map { check in
                    if case .denied = check.permission { "denied" } else { "\(check.permission) \(check.version)" }
                }
            }
            // One line for each kind: of the version that is served.
            #expect(found("gatewayclasses.gateway.networking.k8s.io") == ["allowed v1"])
            #expect(found("grpcroutes.gateway.networking.k8s.io") == ["allowed v1alpha2"])
            #expect(found("httproutes.gateway.networking.k8s.io") == ["denied"])
            #expect(fake.requests.allSatisfy { !["secrets", "configmaps", "pods"].contains($0.plural) })
        }
    }

    @Test func anAbsentServerIsAFailureWithAMend() async throws {
        let probe = await KubernetesSource(
            try .master("127.0.0.1:1"),
            options: .quick,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: quietLogger
        ).probe()
        #expect(probe.failure?.code == .connect && probe.failure?.message.contains("http://127.0.0.1:1") ?? false)
    }

    /// The other limit of each request is an hour, so that this ends by the one that is meant or by its own.
    @Test(.timeLimit(.minutes(5))) func deadlinesAreKept() async throws {
        try await withFake { fake in
            fake.inject(FakeKubeFault(.drip(bytes: 1, pause: .seconds(30)), times: 2))
            let transport = KubeTransport(
                endpoint: try KubeEndpoint(fake.url),
                credentials: CredentialStore(try .master(fake.url)),
                group: MultiThreadedEventLoopGroup.singleton,
                userAgent: "test"
            )
            // Silence first, then the bound on the whole.
            for (idle, total) in [
                (Duration.milliseconds(200), Duration.seconds(3600)), (.seconds(3600), .milliseconds(200)),
            ] {
                let error = await #expect(throws: KubeError.self) {
                    try await transport.withConnection { connection in
                        _ = try await connection.send(
                            KubeRequest(path: "/version", idleLimit: idle, totalLimit: total)
                        )
                        return try await connection.collect(limit: 1000)
                    }
                }
                #expect(error?.code == .timeout)
            }
        }
    }

    @Test func onlyWaitingForTheServerCountsAsSilence() throws {
        let channel = EmbeddedChannel(handler: RequestDeadlineHandler(url: "http://test"))
        try channel.connect(to: SocketAddress(unixDomainSocketPath: "x")).wait()
        let head = HTTPRequestHead(version: .http1_1, method: .GET, uri: "/")
        let message = KubeConnection.Message(
            head: head,
            body: [],
            idleLimit: .seconds(10),
            totalLimit: .seconds(100)
        )
        channel.write(message, promise: nil)
        channel.embeddedEventLoop.advanceTime(by: .seconds(9))
        try channel.writeInbound(HTTPClientResponsePart.head(.init(version: .http1_1, status: .ok)))
        // The reader holds back.
        channel.embeddedEventLoop.advanceTime(by: .seconds(50))
        try channel.throwIfErrorCaught()
        channel.read()
        channel.embeddedEventLoop.advanceTime(by: .seconds(9))
        try channel.throwIfErrorCaught()
        channel.embeddedEventLoop.advanceTime(by: .seconds(10))
        #expect(throws: KubeError.self) { try channel.throwIfErrorCaught() }
        #expect(!channel.isActive)
    }

    @Test func bodiesAreBoundedAndMayBeCompressed() async throws {
        try await withFake { fake in
            for number in 0..<100 { fake.apply(service("svc-\(number)")) }
            let transport = KubeTransport(
                endpoint: try KubeEndpoint(fake.url),
                credentials: CredentialStore(try .master(fake.url)),
                group: MultiThreadedEventLoopGroup.singleton,
                userAgent: "test"
            )
            let request = KubeRequest(
                path: "/api/v1/services",
                acceptsGzip: true,
                idleLimit: .seconds(5),
                totalLimit: .seconds(5)
            )
            let (encoding, bytes) = try await transport.withConnection { connection in
                let head = try await connection.send(request)
                return (head.headers.first(name: "Content-Encoding"), try await connection.collect(limit: 1 << 20))
            }
            #expect(encoding == "gzip")
            #expect(try Document.parseJSON(bytes)["items"]?.array?.count == 100)
            let error = await #expect(throws: KubeError.self) {
                try await transport.withConnection { connection in
                    _ = try await connection.send(request)
                    return try await connection.collect(limit: 1000)
                }
            }
            #expect(error?.code == .tooLarge)
        }
    }

    @Test(arguments: [
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"), ("HTTPS://kube", "https://kube:443"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"), ("kube", "http://kube:80"),
        ("http://[::1]/a/b/", "http://[::1]:80/a/b"),
    ])
    func addresses(text: String, url: String) throws {
        #expect(try KubeEndpoint(text).url == url)
    }

    @Test(arguments: [
        "", "https://", "ftp://x", "http://h:0", "http://h:x", "http://[::1", "http://u:p@h", "http://h/?a=b",
        "http://a b",
        "::1",
    ])
    func badAddresses(text: String) {
        #expect(throws: KubeError.self) { try KubeEndpoint(text) }
    }
}
