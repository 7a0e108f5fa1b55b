import Configuration
import Documents
import EdgeGateway
import EdgeProxy
import EdgeTunnel
import FakeKube
import GatewayRouting
import Glibc
import KubeModel
import MeshCore
import MeshTesting
import ServiceCatalog
import Testing

@testable import MeshApp

/// The gateway in an agent, by a folder, reloaded, analysed; and what its status is made of.
@Suite(.serialized, .timeLimit(.minutes(4))) struct GatewayPartsTests {
    @Test func anAgentServesItToo() async throws {
        try await GatewayRig.with(21, role: .agent) { rig in
            rig.addService()
            try rig.apply(rig.istio(port: 8080))
            try await rig.waitForListener(8080)
            #expect(try rig.curl("/agent", port: 8080) == "backend /agent")
            #expect(rig.parts.board.state(of: GatewayModule.name) == .running)
        }
    }

    @Test func aReloadReachesTheCompilerAndTheLimits() async throws {
        try await GatewayRig.with(22) { rig in
            rig.addService()
            try rig.apply(rig.istio(port: 8080))
            try await rig.waitForListener(8080)
            let body = "-o /dev/null -w '%{http_code}' --data-binary 12345"
            #expect(try rig.curl("/", port: 8080, body) == "200")
            var new = rig.configuration
            new.modules.edgeGateway.maxBodyBytes = 4
            await rig.parts.apply(new)
            try await eventually("the new limit holds") { try rig.curl("/", port: 8080, body) == "413" }
            // A Gateway without a selector fits every gateway; one for others is closed.
            new.modules.edgeGateway.selectorLabels = ["istio=ingress"]
            await rig.parts.apply(new)
            let others = rig.istio(port: 8080).replacing(
                "spec:\n  servers",
                with: "spec:\n  selector: {istio: x}\n  servers"
            )
            try rig.apply(others)
            try await eventually("it listens nowhere") { await rig.status["listenerCount"]?.integer == 0 }
        }
    }

    /// A folder with a Secret, as the rig's cluster has it.
    private static func folder(_ rig: GatewayRig, _ yaml: String, _ more: [Document] = []) throws -> String {
        let folder = "\(rig.folder)/manifests"
        mkdir(folder, 0o700)
        let objects =
            [
                FakeObjects.service(namespace: "shop", name: "web", clusterIP: "10.96.0.10"),
                FakeObjects.endpointSlice(
                    namespace: "shop",
                    service: "web",
                    addresses: ["127.0.0.1"],
                    port: rig.backendPort
                ),
            ] + more
        try (objects.map { $0.yamlText() } + [yaml]).joined(separator: "---\n").write(toPath: "\(folder)/all.yaml")
        return folder
    }

    @Test func aFolderIsAnalysedAsItWouldBeServed() async throws {
        let certificates = try FakeKubeCertificates(names: ["shop.example"])
        try await GatewayRig.with(23) { rig in
            func analyze(_ yaml: String, _ more: [Document] = []) async throws -> GatewayAnalysis {
                let folder = try Self.folder(rig, yaml, more)
                let options = AgentOptions(
                    role: .gateway,
                    configFile: "/no/such.yaml",
                    isConfigFileRequired: false,
                    manifestFolder: folder
                )
                return try await GatewayAnalysis.run(options)
            }
            let secure = rig.istio(port: 8443, secret: "cert")
            let good = try await analyze(secure, [GatewayRig.secret("cert", certificates.server)])
            #expect(!good.hasErrors && good.findings.isEmpty, "\(good.text)")
            #expect(good.text.hasSuffix("0 errors, 0 warnings, 0 notes\n"))

            let missing = try await analyze(secure)
            #expect(missing.findings.contains { $0.message.contains("the Secret shop/cert does not exist yet") })
            let dangling = try await analyze(rig.istio(port: 8080).replacing("host: web", with: "host: wep"))
            #expect(dangling.findings.contains { $0.message.contains("there is no service shop/wep") })
            #expect(!dangling.hasErrors, "requests are answered")

            // The rule has the name of another service, and is that one's alone.
            let other: Document = [
                "apiVersion": "v1", "kind": "Service", "metadata": ["name": "other", "namespace": "shop"],
                "spec": ["ports": [["port": 80]]],
            ]
            let rule: Document = [
                "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                "metadata": ["name": "other", "namespace": "shop"],
                "spec": ["host": "web", "subsets": [["name": "v2", "labels": ["version": "v2"]]]],
            ]
            let subset = try await analyze(
                rig.istio(port: 8080).replacing("{host: web,", with: "{host: web, subset: v2,"),
                [other, rule]
            )
            let text =
                "shop/web has the subset v2: requests are answered with 503; shop/other has it, but is not applied"
            #expect(subset.hasErrors && subset.text.contains(text), "\(subset.text)")

            let refused = try await analyze(rig.istio(port: 99_999))
            #expect(refused.hasErrors && refused.document["counts"]?["error"]?.integer == 1)
            #expect(refused.document["findings"]?.array?.first?["kind"]?.string == "IstioGateway")
            // Of a Secret that cannot be read nothing is told but that.
            let broken: Document = [
                "apiVersion": "v1", "kind": "Secret", "metadata": ["name": "cert", "namespace": "shop"],
                "data": ["tls.crt": "%%%", "tls.key": ["s3cret"]],
            ]
            let brokenText = try await analyze(secure, [broken]).text
            #expect(brokenText.contains("data.tls.crt is no base 64"))
            #expect(!brokenText.contains("%%%") && !brokenText.contains("s3cret"))
        }
    }

    @Test func aFolderThatIsNotThereIsSaid() async throws {
        let options = AgentOptions(
            role: .gateway,
            configFile: "/no/such.yaml",
            isConfigFileRequired: false,
            manifestFolder: "/no/such"
        )
        let analysis = try await GatewayAnalysis.run(options)
        #expect(analysis.hasErrors && analysis.text.contains("/no/such has not been read whole"))
    }

    @Test func theTunnelIsTheOriginals() {
        var configuration = AgentConfiguration(role: .gateway)
        configuration.commonConfig.nodeName = "n1"
        configuration.modules.edgeTunnel.relayService = .volunteer
        let settings = configuration.tunnelSettings
        #expect(settings.nodeName == "n1-gateway" && settings.listenPort == 20007 && settings.relayPort == 20006)
        #expect(settings.relayService == .off && !settings.acceptsFlows)
        var agent = AgentConfiguration()
        agent.commonConfig.nodeName = "n1"
        #expect(agent.tunnelSettings.nodeName == "n1" && agent.tunnelSettings.listenPort == 20006)
        #expect(agent.tunnelSettings.acceptsFlows && agent.tunnelSettings.relayPort == nil)
        // Its own node's pods need no tunnel.
        #expect(configuration.gatewayReach.tunnelNode(of: Endpoint(address: .v4(.loopback), nodeName: "n1")) == nil)
        #expect(configuration.gatewayReach.tunnelNode(of: Endpoint(address: .v4(.loopback), nodeName: "n2")) == "n2")
    }

    @Test func theSettingsAreThoseOfTheFile() {
        var configuration = AgentConfiguration(role: .gateway)
        #expect(configuration.gatewaySettings == .init())
        // As in the original, unless it is told to be strict.
        #expect(configuration.compilerSettings == CompilerSettings(servesMutualWithoutAuthority: true))
        #expect(AgentConfiguration.EdgeGateway.defaultControllerName == CompilerSettings.defaultControllerName)
        configuration.modules.edgeGateway.strictMutualTLS = true
        #expect(configuration.compilerSettings == CompilerSettings())
        configuration.modules.edgeGateway.nic = "eth0, eth1"
        configuration.modules.edgeGateway.includeIP = "10.0.0.0/8"
        configuration.modules.edgeGateway.selectorLabels = ["istio=ingress", "a="]
        configuration.modules.edgeGateway.clusterDomain = "mesh.example"
        #expect(configuration.gatewaySettings.interfaces == ["eth0", "eth1"])
        #expect(configuration.gatewaySettings.includedBlocks.map(\.description) == ["10.0.0.0/8"])
        #expect(configuration.compilerSettings.podLabels == ["istio": "ingress", "a": ""])
        #expect(configuration.compilerSettings.clusterDomain == "mesh.example")
        #expect(configuration.catalogSettings.clusterDomain == "mesh.example")
    }
}
