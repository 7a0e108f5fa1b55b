import Documents
import FakeKube
import KubeModel
import MeshTesting
import Testing

@testable import KubeClient

/// What real API servers and the proxies before them do beyond the everyday: see "Kubernetes API Concepts" in the
/// documentation of Kubernetes.
@Suite(.timeLimit(.minutes(1))) struct APIServerTests {
    /// Delays so long that a test which needs one of them does not end in time.
    private static var patient: KubernetesSource.Options {
        var options = KubernetesSource.Options.quick
        options.retryDelays = .seconds(600) ... .seconds(600)
        return options
    }

    /// The race of HTTP/1.1: the server closes a connection that it has answered on while the client asks again.
    @Test(arguments: [FakeKubeFault.Operation.list, .watch])
    func aConnectionThatWasClosedIdleIsReplacedAtOnce(operation: FakeKubeFault.Operation) async throws {
        try await withFake { fake in
            fake.apply(service("a"))
            fake.inject(FakeKubeFault(.closeAfter, on: .list, of: "services"))
            var options = Self.patient
            if operation == .watch {
                fake.inject(FakeKubeFault(.closeAfter, on: .watch, of: "services"))
                options.watchSeconds = 2...2
            }
            try await following(fake, options: options) { follower in
                try await synced(follower, fake)
                if operation == .watch {
                    try await eventually("a second watch") {
                        fake.requests.filter { $0.plural == "services" && $0.isWatch }.count >= 2
                    }
                }
                fake.apply(service("b"))
                try await eventually("b") { await follower.service("b") != nil }
                #expect(await follower.statuses.allSatisfy { $0.message == nil }, "it is worth no word")
            }
            #expect(fake.requests.filter { $0.plural == "services" && !$0.isWatch }.count == 1)
        }
    }

    @Test func aNewConnectionThatBreaksIsAFailure() async throws {
        try await withFake { fake in
            fake.inject(FakeKubeFault(.disconnect, on: .list, of: "services"))
            try await following(fake) { follower in
                try await eventually("the failure") { await follower.message.contains("without an answer") }
                try await synced(follower, fake)
            }
        }
    }

    @Test func theTokenOfAnInconsistentListIsNotUsed() async throws {
        try await withFake { fake in
            for number in 0..<30 { fake.apply(service("svc-\(number)")) }
            var options = KubernetesSource.Options.quick
            options.pageSize = 10
            // The first page is given, the second refused.
            fake.inject(FakeKubeFault(.drip(bytes: 64 << 10, pause: .zero), on: .list, of: "services"))
            fake.inject(FakeKubeFault(.expired, on: .list, of: "services"))
            try await following(fake, options: options) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service).count == 30)
            }
            let lists = fake.requests.filter { $0.plural == "services" && !$0.isWatch }.map(\.query)
            #expect(lists.count == 3 && lists.last == [:], "\(lists)")
            #expect(!lists.contains { $0["continue"] == FakeKube.inconsistentToken })
        }
    }

    @Test func aServerMayGiveTheFirstListWhole() async throws {
        var server = FakeKube.Options()
        server.listsVersionZeroWhole = true
        try await withFake(server) { fake in
            for number in 0..<30 { fake.apply(service("svc-\(number)")) }
            var options = KubernetesSource.Options.quick
            options.pageSize = 10
            try await following(fake, options: options) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service).count == 30)
            }
            let lists = fake.requests.filter { $0.plural == "services" && !$0.isWatch }
            #expect(lists.count == 1 && lists.first?.query["resourceVersion"] == "0")
            // No parameters of newer servers: none of them is needed, and older ones refuse them.
            #expect(
                !fake.requests.contains {
                    $0.query["sendInitialEvents"] != nil || $0.query["resourceVersionMatch"] != nil
                }
            )
        }
    }

    /// Renewed on disk by whoever looks after them, without a restart of the agent.
    @Test func rotatedCertificatesAreUsedByTheNextConnection() async throws {
        let certificates = try FakeKubeCertificates()
        let former = try FakeKubeCertificates().client(named: "edge")
        let renewed = try certificates.client(named: "edge")
        let folder = try TestFolder()
        var tls = KubeTLS()
        tls.certificateAuthority = .file(try folder.write(try FakeKubeCertificates().authorityPEM, to: "ca.crt"))
        tls.clientCertificate = .file(try folder.write(former.certificatePEM, to: "tls.crt"))
        tls.clientKey = .file(try folder.write(former.keyPEM, to: "tls.key"))
        var server = FakeKube.Options()
        server.tls = certificates
        server.requiresClientCertificate = true
        try await withFake(server) { fake in
            fake.apply(service("a"))
            let configuration = KubeConfiguration(endpoint: try KubeEndpoint(fake.url, tls: tls))
            try await following(fake, as: configuration) { follower in
                try await eventually("an unknown authority") { await follower.message.contains("TLS") }
                try folder.write(certificates.authorityPEM, to: "ca.crt")
                // In between the key does not fit the certificate.
                try folder.write(renewed.certificatePEM, to: "tls.crt")
                try await eventually("a key that does not fit") { await follower.message.contains("cannot be used") }
                try folder.write(renewed.keyPEM, to: "tls.key")
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a"])
            }
        }
    }

    /// An expired client certificate is noticed by the server on an open connection: only a new one can show its successor.
    @Test func aRefusalIsAnsweredWithANewConnection() async throws {
        let folder = try TestFolder()
        let token = try folder.write("first", to: "token")
        try await withFake { fake in
            fake.setAuthorizations(["Bearer second"])
            let configuration = KubeConfiguration(endpoint: try KubeEndpoint(fake.url), credentials: .tokenFile(token))
            try await following(fake, as: configuration) { follower in
                try await eventually("refused") { await follower.message.contains("401") }
                try folder.write("second", to: "token")
                try await synced(follower, fake)
            }
            let connections = fake.requests.filter { $0.plural == "services" && $0.authorization == "Bearer first" }
                .map(\.connection)
            #expect(connections.count >= 2 && Set(connections).count == connections.count)
        }
    }
}

/// KubeEdge's MetaServer as the original's configuration names it.
@Suite(.timeLimit(.minutes(1))) struct MetaServerTests {
    enum Security: CaseIterable {
        case none
        case oneWay
        case twoWay
    }

    @Test(arguments: Security.allCases)
    func isFollowed(security: Security) async throws {
        let certificates = try FakeKubeCertificates()
        let identity = try certificates.client(named: "edge")
        let folder = try TestFolder()
        var settings = KubeConfiguration.MetaServerSecurity()
        settings.requiresAuthorization = security != .none
        settings.skipsTLSVerification = security == .oneWay
        settings.caFile = try folder.write(certificates.authorityPEM, to: "rootCA.crt")
        settings.certificateFile = try folder.write(identity.certificatePEM, to: "server.crt")
        settings.keyFile = try folder.write(identity.keyPEM, to: "server.key")
        settings.tokenFile = try folder.write("account", to: "token")
        var server = FakeKube.Options()
        server.tls = security == .none ? nil : certificates
        server.requiresClientCertificate = security == .twoWay
        try await withFake(server) { fake in
            if security != .none { fake.setAuthorizations(["Bearer account"]) }
            fake.apply(service("a"))
            fake.apply(FakeObjects.endpoints(name: "a", addresses: ["10.0.0.1"]))
            // As the file of the original has it: http, which becomes https where authorization is required.
            let url = "http://" + fake.url.drop { $0 != "/" }.dropFirst(2)
            let configuration = try KubeConfiguration.metaServer(url, security: settings)
            try await following(fake, as: configuration) { follower in
                try await synced(follower, fake)
                #expect(await follower.names(.service) == ["default/a"])
                #expect(await follower.names(.endpoints) == ["default/a"])
            }
            #expect(fake.requests.allSatisfy { $0.accept == "application/json" })
            #expect(!fake.requests.contains { $0.plural == "endpointslices" }, "it answers those with an empty list")
        }
    }
}

/// The rights that the manifests of this repository give the agent.
@Suite struct ClusterRoleTests {
    @Test func grantsWhatIsFollowedAndNothingElse() throws {
        let root = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()
        let documents = try Document.parseYAML(try SmallFile.read("\(root)/deploy/manifests/01-rbac.yaml"))
        let role = try #require(documents.first { $0["kind"]?.string == "ClusterRole" })
        var granted: Set<String> = []
        for rule in role["rules"]?.array ?? [] {
            #expect(rule["verbs"]?.array?.compactMap(\.string) == ["list", "watch"])
            for group in rule["apiGroups"]?.array ?? [] {
                for resource in rule["resources"]?.array ?? [] {
                    granted.insert("\(group.string ?? "")/\(resource.string ?? "")")
                }
            }
        }
        let followed = [true, false].flatMap { WatchedResource.all(isMetaServer: $0) }.flatMap(\.candidates)
        #expect(granted == Set(followed.map { "\($0.group)/\($0.plural)" }))
    }
}
