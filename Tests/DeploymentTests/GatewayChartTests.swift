import Configuration
import Documents
import Testing

/// What `helm install` makes of the gateway's chart.
@Suite struct GatewayChartTests {
    private let deployment: Deployment

    init() throws { self.deployment = try Deployment("edgemesh-gateway") }

    private func render(_ values: String = "") throws -> [Document] {
        let rendered = try self.deployment.render(values)
        #expect(try self.deployment.validate(rendered) == rendered.count)
        return rendered
    }

    private static func configuration(of rendered: [Document]) throws -> AgentConfiguration {
        let text = try #require(rendered.first("ConfigMap")?["data"]?["edgemesh-gateway.yaml"]?.string)
        let environment = ConfigurationEnvironment(variables: ["NODE_NAME": "n1"])
        let loaded = AgentConfiguration.load(Array(text.utf8), environment: environment, role: .gateway)
        #expect(loaded.problems.isEmpty, "\(loaded.problems)")
        return loaded.configuration
    }

    @Test func withoutValuesItIsThePlainManifests() throws {
        defer { self.deployment.remove() }
        let plain = try ["01-rbac", "02-configmap", "03-deployment"].flatMap {
            try Deployment.manifest($0, in: "gateway")
        }
        let rendered = try self.render()
        #expect(rendered.sortedByName.map(\.canonical) == plain.sortedByName.map(\.canonical))
    }

    @Test func everyValueOfTheOriginalArrives() throws {
        defer { self.deployment.remove() }
        let rendered = try self.render(
            """
            image: registry.example/edgemesh-gateway:v1
            nodeName: edge-1
            affinity: {}
            nodeSelector: {}
            tolerations: {}
            resources: {limits: {cpu: 1, memory: 256Mi}, requests: {cpu: 0.5, memory: 128Mi}}
            psk: a key of the cluster
            relayNodes: [{nodeName: relay-1, advertiseAddress: [192.0.2.1, 192.0.2.2]}]
            metaServerSecret: metaserver-certs
            kubeAPIConfig: {burst: 150, qps: 70, metaServer: {server: "https://127.0.0.1:10550"}}
            modules:
              edgeGateway:
                enable: true
                nic: eth0
                includeIP: 192.0.2.0/24
                excludeIP: 192.0.2.9
                loadBalancer: {consistentHash: {partitionCount: 200, replicationFactor: 20, load: 1.5}}
              edgeTunnel: {enable: true, listenPort: 20010, transport: ws}
            """
        )
        let configuration = try Self.configuration(of: rendered)
        let gateway = configuration.modules.edgeGateway
        #expect(gateway.nic == "eth0" && gateway.includeIP == "192.0.2.0/24" && gateway.excludeIP == "192.0.2.9")
        #expect(gateway.loadBalancer.partitionCount == 200 && gateway.loadBalancer.load == 1.5)
        #expect(configuration.kubeAPIConfig.burst == 150)
        let tunnel = configuration.modules.edgeTunnel
        #expect(tunnel.listenPort == 20010 && tunnel.transport == .ws)
        // The template of the original loses them.
        #expect(tunnel.relayNodes.map(\.nodeName) == ["relay-1"])
        let pod = rendered.first("Deployment")?["spec"]?["template"]?["spec"]
        #expect(pod?["nodeName"]?.string == "edge-1" && pod?["nodeSelector"] == nil)
        let container = pod?["containers"]?.array?.first
        #expect(container?["image"]?.string == "registry.example/edgemesh-gateway:v1")
        let mounts = (container?["volumeMounts"]?.array ?? []).compactMap { $0["mountPath"]?.string }
        #expect(mounts.contains("/etc/edgemesh/metaserver") && mounts.contains("/etc/edgemesh/psk"))
        #expect(rendered.first("Secret")?["metadata"]?["name"]?.string == "edgemesh-gateway-psk")
        #expect(rendered.first("Secret")?["stringData"]?["psk"]?.string == "a key of the cluster")
    }

    @Test func withoutATunnelThereIsNoKey() throws {
        defer { self.deployment.remove() }
        let rendered = try self.render("{psk: given, modules: {edgeTunnel: {enable: false}}}")
        #expect(rendered.first("Secret") == nil)
        let pod = rendered.first("Deployment")?["spec"]?["template"]?["spec"]
        #expect(pod?["volumes"]?.array?.contains { $0["name"]?.string == "psk" } == false)
    }

    /// For each value another one, which makes another object.
    private static let others: [String: String] = [
        "image": "other:1", "imagePullPolicy": "Always", "nodeName": "n1", "affinity": "{podAffinity: {}}",
        "nodeSelector": "{a: b}", "tolerations": "[{operator: Exists}]", "resources": "{limits: {cpu: 2}}",
        "readinessProbe": "{periodSeconds: 11}", "livenessProbe": "{periodSeconds: 31}", "psk": "given",
        "pskSecret": "mine", "relayNodes": "[{nodeName: r, advertiseAddress: [192.0.2.1]}]",
        "metaServerSecret": "certs", "kubeAPIConfig": "{qps: 1}", "commonConfig": "{stateDir: /x}",
        "modules": "{edgeGateway: {nic: eth0}}",
    ]

    @Test func everyValueIsUsed() throws {
        defer { self.deployment.remove() }
        let text = try Deployment.read("deploy/helm/edgemesh-gateway/values.yaml")
        let values = try #require(try Document.parseYAML(Array(text.utf8)).first)
        let keys = (values.members ?? []).map(\.key)
        #expect(Set(keys) == Set(Self.others.keys))
        let before = try self.deployment.renderText()
        for key in keys {
            let changed = "{\(key): \(try #require(Self.others[key]))}"
            #expect(try self.deployment.renderText(changed) != before, "\(key) changes nothing")
            #expect(try self.deployment.validate(self.deployment.render(changed)) > 0, "\(key)")
        }
    }
}
