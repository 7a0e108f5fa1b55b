import Documents
import FakeKube
import GatewayRouting
import Glibc
import HashTreeCollections
import KubeModel
import MeshCore
import MeshTesting
import NIOCore
import NIOPosix
import ServiceCatalog
import Testing

@testable import MeshApp

/// The gateway on a cluster: objects to plan to listeners, and what is read on the way.
@Suite(.serialized, .timeLimit(.minutes(4))) struct GatewayTests {
    @Test func whatTheClusterSaysIsServedAndFollowed() async throws {
        try await GatewayRig.with(1) { rig in
            rig.addService()
            try rig.apply(rig.istio(port: 8080))
            try await rig.waitForListener(8080)
            #expect(try rig.curl("/a", port: 8080) == "backend /a")

            // A new port is opened beside the first, and one that nobody asks for is closed.
            try rig.apply(rig.istio(port: 8081))
            try await rig.waitForListener(8081)
            #expect(try rig.curl("/b", port: 8081) == "backend /b")
            try await eventually("the first port is closed") {
                await rig.status["listenerCount"]?.integer == 1
            }
        }
    }

    @Test func aPortThatSomebodyElseHasIsToldAndTheOthersAreServed() async throws {
        try await GatewayRig.with(7) { rig in
            let holder = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .bind(host: rig.address, port: 8081).get()
            rig.addService()
            let two = rig.istio(port: 8080).replacing(
                "servers:\n",
                with:
                    "servers:\n  - {port: {number: 8081, name: b, protocol: HTTP}, bind: \(rig.address), hosts: [\"*\"]}\n"
            )
            try rig.apply(two)
            try await rig.waitForListener(8080)
            try await eventually("the conflict is told") {
                await rig.status["listeners"]?.array?.contains { listener in
                    listener["address"]?.string == "\(rig.address):8081/tcp" && listener["problem"] != nil
                        && listener["origins"]?.array?.first?.string == "IstioGateway shop/edge"
                } == true
            }
            #expect(rig.parts.board.state(of: GatewayModule.name) == .running)
            try await holder.close()
            try await rig.waitForListener(8081)
        }
    }

    /// Endpoints come and go, and other services with them, without a new plan; a service that a route names does not.
    @Test func onlyWhatThePlanIsMadeOfMakesANewOne() async throws {
        try await GatewayRig.with(2) { rig in
            rig.addService()
            rig.addService("other")
            try rig.apply(rig.istio(port: 8080))
            try await rig.waitForListener(8080)
            try await eventually("the services are there") { rig.parts.catalog.snapshot.services.count == 2 }
            let planner = try #require(rig.parts.gateway?.planner)
            try await eventually("the plan has its backend") { await planner.compilation.findings.isEmpty }
            let before = await planner.compilations

            rig.addEndpoints("web", ["127.0.0.1", "127.0.0.2"])
            rig.kube.apply(FakeObjects.service(namespace: "shop", name: "other", clusterIP: "10.96.0.11", port: 81))
            try await eventually("the catalog has both changes") {
                let services = rig.parts.catalog.snapshot.services
                return services[.init(namespace: "shop", name: "web")]?.groups.flatMap(\.endpoints).count == 2
                    && services[.init(namespace: "shop", name: "other")]?.object.ports.first?.port == 81
            }
            // A change that counts comes after these, so that theirs have been looked at.
            rig.kube.apply(FakeObjects.service(namespace: "shop", name: "web", clusterIP: "10.96.0.10", port: 82))
            try await eventually("the lost port is found") { await !planner.compilation.findings.isEmpty }
            #expect(await planner.compilations == before + 1)
        }
    }

    @Test func onlySecretsThatAreNamedAreReadAndARotationReachesNewConnections() async throws {
        let (first, second) = (
            try FakeKubeCertificates(names: ["shop.example"]), try FakeKubeCertificates(names: ["shop.example"])
        )
        try await GatewayRig.with(3) { rig in
            rig.addService()
            rig.kube.apply(GatewayRig.secret("cert", first.server))
            rig.kube.apply(GatewayRig.secret("unrelated", second.server))
            try rig.apply(rig.istio(port: 8443, secret: "cert"))
            try await rig.waitForListener(8443)
            let folder = "/tmp/edgemesh-gateway-authority-\(rig.backendPort)"
            try shell("mkdir -p \(folder)")
            defer { _ = try? shell("rm -rf \(folder)") }
            func call(_ authority: String) throws -> String {
                try authority.write(toPath: "\(folder)/ca.pem")
                return try shell(
                    "curl -s -m 30 --cacert \(folder)/ca.pem --resolve shop.example:8443:\(rig.address) https://shop.example:8443/",
                    allowFailure: true
                )
            }
            try await eventually("the certificate is shown") { try call(first.authorityPEM) == "backend /" }
            #expect(try call(second.authorityPEM).isEmpty)

            rig.kube.apply(GatewayRig.secret("cert", second.server))
            try await eventually("the new certificate is shown") { try call(second.authorityPEM) == "backend /" }

            let asked = rig.kube.requests.filter { ["secrets", "configmaps"].contains($0.plural) }
            #expect(!asked.isEmpty)
            #expect(asked.allSatisfy { $0.path == "/api/v1/namespaces/shop/secrets" })
            #expect(asked.allSatisfy { $0.query["fieldSelector"] == "metadata.name=cert" })
        }
    }

    @Test func secretsAreNeitherInTheStatusNorInTheStore() async throws {
        let certificates = try FakeKubeCertificates(names: ["shop.example"])
        try await GatewayRig.with(4) { rig in
            rig.addService()
            rig.kube.apply(GatewayRig.secret("cert", certificates.server))
            try rig.apply(rig.istio(port: 8443, secret: "cert"))
            try await rig.waitForListener(8443)
            try await eventually("the Secret is there") {
                await rig.status["credentials"]?["present"]?.integer == 1
            }
            try await eventually("the state is on disk") { rig.parts.store.status.savedObjects != nil }
            let key = Base64.encode(Array(certificates.server.keyPEM.utf8)).prefix(60)
            let body = certificates.server.keyPEM.split(separator: "\n")[1]
            let stored = try shell("cat \(rig.parts.store.status.path)")
            let told = await rig.status.jsonText() + "\(try #require(rig.parts.gateway?.vault))"
            for text in [stored, told] { #expect(!text.contains(key) && !text.contains(body)) }
            #expect(stored.contains("VirtualService"))
        }
    }

    // MARK: Gateway API

    private static let gatewayAPI = """
        apiVersion: gateway.networking.k8s.io/v1
        kind: GatewayClass
        metadata: {name: edge, generation: 1}
        spec: {controllerName: kubeedge.io/edgemesh-gateway}
        ---
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: edge, namespace: shop, generation: 3}
        spec:
          gatewayClassName: edge
          addresses: [{type: IPAddress, value: ADDRESS}]
          listeners: [{name: web, port: 8080, protocol: HTTP}]
        status:
          addresses: [{type: IPAddress, value: 192.0.2.77}]
          conditions: [{type: Theirs, status: "True", reason: R, message: "", lastTransitionTime: "2020-01-01T00:00:00Z"}]
        ---
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: web, namespace: shop, generation: 5}
        spec:
          parentRefs: [{name: edge}]
          rules: [{backendRefs: [{name: web, port: 80}]}]
        status:
          parents:
          - parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: other}
            controllerName: example.com/other
            conditions: []
        """

    private static func status(_ rig: GatewayRig, _ plural: String, _ name: String) throws -> Document? {
        let namespace = plural == "gatewayclasses" ? "" : "shop"
        guard let json = rig.kube.json(plural, namespace: namespace, name: name) else { return nil }
        return try Document.parseJSON(json)["status"]
    }

    private static func condition(_ type: String, in conditions: Document?) -> Document? {
        conditions?.array?.first { $0["type"]?.string == type }
    }

    @Test func theStatusIsWrittenBackOnceAndWhatOthersWroteStays() async throws {
        try await GatewayRig.with(5) { rig in
            rig.addService()
            try rig.apply(Self.gatewayAPI.replacing("ADDRESS", with: rig.address))
            try await rig.waitForListener(8080)
            #expect(try rig.curl("/a", port: 8080) == "backend /a")
            try await eventually("the status of all three is written") {
                let written = try ["gatewayclasses", "gateways"].allSatisfy { plural in
                    let conditions = try Self.status(rig, plural, "edge")?["conditions"]
                    return Self.condition("Accepted", in: conditions)?["status"]?.string == "True"
                }
                return try written && Self.status(rig, "httproutes", "web")?["parents"]?.array?.count == 2
            }
            let features = try Self.status(rig, "gatewayclasses", "edge")?["supportedFeatures"]?.array ?? []
            let names = features.compactMap { $0["name"]?.string }
            #expect(names.contains("HTTPRoute") && names == names.sorted(), "the specification wants them sorted")
            let gateway = try #require(try Self.status(rig, "gateways", "edge"))
            #expect(Self.condition("Theirs", in: gateway["conditions"]) != nil)
            #expect(Self.condition("Accepted", in: gateway["conditions"])?["observedGeneration"]?.integer == 3)
            let listener = try #require(gateway["listeners"]?.array?.first)
            #expect(listener["name"]?.string == "web" && listener["attachedRoutes"]?.integer == 1)
            try await eventually("both addresses are told") {
                try Self.status(rig, "gateways", "edge")?["addresses"]?.array?.compactMap { $0["value"]?.string }
                    == ["192.0.2.77", rig.address]
            }
            let parents = try #require(try Self.status(rig, "httproutes", "web")?["parents"]?.array)
            #expect(parents[0]["controllerName"]?.string == "example.com/other")
            #expect(parents[1]["controllerName"]?.string == "kubeedge.io/edgemesh-gateway")
            #expect(Self.condition("ResolvedRefs", in: parents[1]["conditions"])?["observedGeneration"]?.integer == 5)

            // What was written comes back by the watch, and changes nothing.
            func patches() -> Int { rig.kube.requests.count { $0.method == "PATCH" } }
            let before = patches()
            rig.kube.delete("services", namespace: "shop", name: "web")
            try await eventually("the lost backend is told") {
                let conditions = try Self.status(rig, "httproutes", "web")?["parents"]?.array?[1]["conditions"]
                return Self.condition("ResolvedRefs", in: conditions)?["status"]?.string == "False"
            }
            #expect(patches() == before + 1, "one object says something else")
        }
    }

    /// A client that takes the first address of a Gateway must not reach another one.
    @Test func gatewaysOfOnePortTellTheirOwnAddresses() async throws {
        try await GatewayRig.with(8) { rig in
            rig.addService()
            let second = String(rig.address.dropLast()) + "2"
            try rig.apply(Self.gatewayAPI.replacing("ADDRESS", with: rig.address))
            try rig.apply(
                """
                apiVersion: gateway.networking.k8s.io/v1
                kind: Gateway
                metadata: {name: second, namespace: shop, generation: 1}
                spec:
                  gatewayClassName: edge
                  addresses: [{type: IPAddress, value: \(second)}]
                  listeners: [{name: web, port: 8080, protocol: HTTP}]
                """
            )
            func told(_ name: String) throws -> [String] {
                (try Self.status(rig, "gateways", name)?["addresses"]?.array ?? []).compactMap { $0["value"]?.string }
            }
            try await eventually("each tells one") {
                try told("second") == [second] && told("edge") == ["192.0.2.77", rig.address]
            }
        }
    }

    /// The rights that `deploy/gateway` gives are those that the gateway makes use of, and no others.
    @Test func rightsAreThoseThatAreUsed() async throws {
        try await GatewayRig.with(6) { rig in
            rig.addService()
            let certificates = try FakeKubeCertificates(names: ["shop.example"])
            rig.kube.apply(GatewayRig.secret("cert", certificates.server))
            // A route to a subset needs the labels of pods.
            let subset = rig.istio(port: 8443, secret: "cert").replacing("{host: web,", with: "{host: web, subset: v1,")
            try rig.apply(subset)
            try rig.apply(
                """
                apiVersion: networking.istio.io/v1
                kind: DestinationRule
                metadata: {name: web, namespace: shop}
                spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
                """
            )
            try rig.apply(Self.gatewayAPI.replacing("ADDRESS", with: rig.address))
            for (kind, name) in [("GRPCRoute", "g"), ("TLSRoute", "t"), ("TCPRoute", "c"), ("UDPRoute", "u")] {
                rig.kube.apply([
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": .string(kind),
                    "metadata": ["name": .string(name), "namespace": "shop", "generation": 1],
                    "spec": [
                        "parentRefs": [["name": "edge"]],
                        "rules": [["backendRefs": [["name": "web", "port": 80]]]],
                    ],
                ])
            }
            // A validation names a ConfigMap.
            rig.kube.apply([
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
                "metadata": ["name": "p", "namespace": "shop"],
                "spec": [
                    "targetRefs": [["group": "", "kind": "Service", "name": "web"]],
                    "validation": [
                        "hostname": "web.example",
                        "caCertificateRefs": [["group": "", "kind": "ConfigMap", "name": "authority"]],
                    ],
                ],
            ])
            let role = try Self.grantedByTheRole()
            // Every version of a collection that is tried is one right.
            func used() -> Set<String> {
                Set(rig.kube.requests.flatMap { Self.rights(of: $0) }.filter { !$0.contains(" endpoints") })
            }
            let wanted = role.filter { !$0.contains(" endpoints") }
            try await eventually("every right is used: \(wanted.subtracting(used()).sorted())") {
                wanted.isSubset(of: used())
            }
            #expect(used().subtracting(role) == [])
        }
    }

    /// `GROUP VERB RESOURCE` of each rule of the ClusterRole.
    private static func grantedByTheRole() throws -> Set<String> {
        let root = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()
        let text = try shell("cat \(root)/deploy/gateway/01-rbac.yaml")
        let documents = try Document.parseYAML(Array(text.utf8))
        let role = try #require(documents.first { $0["kind"]?.string == "ClusterRole" })
        func texts(_ rule: Document, _ key: String) -> [String] { (rule[key]?.array ?? []).compactMap(\.string) }
        return Set(
            (role["rules"]?.array ?? []).flatMap { rule in
                texts(rule, "apiGroups").flatMap { group in
                    texts(rule, "resources").flatMap { resource in
                        texts(rule, "verbs").map { "\(group) \($0) \(resource)" }
                    }
                }
            }
        )
    }

    private static func rights(of request: FakeKubeRequest) -> [String] {
        var words = request.path.split(separator: "/").map(String.init)
        let group = words.first == "apis" ? words[1] : ""
        words.removeFirst(words.first == "apis" ? 3 : 2)
        if words.count > 2, words[0] == "namespaces" { words.removeFirst(2) }
        let verb =
            request.method == "PATCH" ? "patch" : request.isWatch ? "watch" : words.count > 1 ? "get" : "list"
        return ["\(group) \(verb) \(words[0])\(words.count > 2 ? "/\(words[2])" : "")"]
    }
}

extension String {
    func write(toPath path: String) throws {
        let file = try #require(fopen(path, "w"))
        fputs(self, file)
        fclose(file)
    }
}
