import Configuration
import Documents
import MeshCore
import Testing

extension ConfigurationEnvironment {
    /// An edge node called n1 on which just one kubeconfig exists.
    static var edge: ConfigurationEnvironment {
        var environment = ConfigurationEnvironment(variables: ["NODE_NAME": "n1"])
        environment.isReadable = { $0 == "/etc/kubeconfig" }
        return environment
    }

    static var cloud: ConfigurationEnvironment {
        var environment = Self.edge
        environment.isInCluster = true
        return environment
    }
}

func load(_ text: String, _ environment: ConfigurationEnvironment = .edge) -> LoadedConfiguration {
    AgentConfiguration.load(Array(text.utf8), environment: environment)
}

@Suite("Configuration files")
struct LoadingTests {
    @Test("the mode is found from the environment, and DNS is on at the edge")
    func modes() {
        let edge = load("modules: {edgeProxy: {enable: true}}")
        #expect(edge.problems.isEmpty)
        #expect(edge.configuration.kubeAPIConfig.mode == .edge)
        #expect(edge.configuration.kubeAPIConfig.contentType == "application/json")
        #expect(edge.configuration.modules.edgeDNS.enable)
        let cloud = load("modules: {edgeProxy: {enable: true}}", .cloud)
        #expect(cloud.configuration.kubeAPIConfig.mode == .cloud)
        #expect(!cloud.configuration.modules.edgeDNS.enable)
        for text in [
            "kubeAPIConfig: {master: \"10.0.0.1:8080\"}",
            "kubeAPIConfig: {kubeConfig: /etc/kubeconfig, mode: EdgeMode}",
        ] {
            let manual = load(text)
            #expect(manual.isUsable && manual.configuration.kubeAPIConfig.mode == .manual)
        }
        #expect(load("kubeAPIConfig: {mode: CloudMode}").configuration.kubeAPIConfig.mode == .cloud)
    }

    @Test("names come from the file before the environment")
    func names() {
        var environment = ConfigurationEnvironment.edge
        #expect(load("commonConfig: {nodeName: n2}").configuration.commonConfig.nodeName == "n2")
        environment.nodeName = nil
        #expect(!load("kind: EdgeMeshAgent", environment).isUsable)
        // The namespace of the agents is asked of nobody: nodes are reached by their names.
        let socks = "modules: {edgeProxy: {socks5Proxy: {enable: true, namespace: mesh}}}"
        let given = load("commonConfig: {nodeName: n2}\n\(socks)", environment)
        #expect(given.problems.isEmpty && given.configuration.modules.edgeProxy.socks5Proxy.enable)
        #expect(load("commonConfig: {nodeName: n2}", environment).isUsable)
    }

    @Test("keys match in any case, objects merge, lists replace")
    func merging() {
        let loaded = load(
            """
            Modules:
              edgedns: {LISTENPORT: 5353, cacheDNS: {upstreamServers: [10.0.0.10, "10.0.0.11:5353", "[fd00::1]:53", "fd00::2"]}}
              edgeProxy:
                routableCIDRs: [10.244.0.0/16]
                dialTimeout: 0.5
                maxConnections: 1e4
              edgeTunnel:
                relayNodes:
                - nodeName: r1
                  AdvertiseAddress: [192.0.2.1, 192.0.2.2]
                tunnelLimitConfig: {TunnelPeerBaseStreamIn: 7}
            commonConfig: {bridgeDeviceIPv6: "fd00::16"}
            """
        )
        #expect(loaded.problems.isEmpty)
        let modules = loaded.configuration.modules
        #expect(modules.edgeDNS.listenPort == 5353)
        #expect(modules.edgeDNS.enable)
        #expect(
            modules.edgeDNS.cacheDNS.upstreamServers.map(\.description) == [
                "10.0.0.10:53", "10.0.0.11:5353", "[fd00::1]:53", "[fd00::2]:53",
            ]
        )
        #expect(modules.edgeProxy.dialTimeout == .milliseconds(500))
        #expect(modules.edgeProxy.maxConnections == 10000)
        #expect(modules.edgeTunnel.relayNodes.first?.advertiseAddress.count == 2)
        #expect(modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn == 7)
        #expect(modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamOut == 16384)
        #expect(loaded.configuration.commonConfig.bridgeDeviceIPv6?.description == "fd00::16")
    }

    @Test("a file of the original with all of its internal keys is read without a word")
    func originalFile() {
        let loaded = load(
            """
            apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
            kind: EdgeMeshAgent
            kubeAPIConfig: {qps: 100, burst: 200, contentType: application/json, mode: EdgeMode, deleteKubeConfig: false}
            commonConfig: {bridgeDeviceName: edgemesh0, bridgeDeviceIP: 169.254.96.16, pprofConfig: {profilingPort: 10443}}
            modules:
              edgeDNS: {enable: true, listenInterface: edgemesh0, listenPort: 53, kubeAPIConfig: {qps: 1}}
              edgeProxy:
                enable: true
                listenInterface: edgemesh0
                loadBalancer: {caller: ProxyCaller, nodeName: n1, consistentHash: {partitionCount: 100, load: 1.25}}
                socks5Proxy: {listenPort: 10800, nodeName: n1, namespace: kubeedge}
              edgeTunnel: {enable: true, mode: ServerAndClient, configPath: /x, nodeName: n1, enableIpfsLog: false}
              edgeCNI: {tunMode: 0, encapsulationIP: ""}
            """
        )
        #expect(loaded.problems.isEmpty)
    }

    @Test("a key that is given twice with one value, as the original's Helm chart does, is no error")
    func repeatedByHelm() {
        let mode = "serviceFilterMode: FilterIfLabelDoesNotExists"
        let loaded = load("modules:\n  edgeProxy:\n    enable: true\n    \(mode)\n    \(mode)\n")
        #expect(loaded.problems.isEmpty)
        #expect(loaded.configuration.modules.edgeProxy.serviceFilterMode == .ifLabelDoesNotExist)
    }

    @Test("the printed defaults read back as the defaults", arguments: [ConfigurationEnvironment.edge, .cloud])
    func defaults(environment: ConfigurationEnvironment) throws {
        let text = AgentConfiguration.defaultDocument(environment).yamlText()
        let loaded = load(text, environment)
        #expect(loaded.problems.filter { $0.severity == .error }.isEmpty, "\(loaded.problems)")
        #expect(loaded.configuration == load("{}", environment).configuration)
        #expect(try Document.parseYAML(Array(loaded.configuration.document.yamlText().utf8))[0]["kind"] != nil)
        let minimal = load(AgentConfiguration.minimalDocument().yamlText(), environment)
        #expect(minimal.problems.isEmpty)
        #expect(minimal.configuration.modules.edgeProxy.enable && minimal.configuration.modules.edgeTunnel.enable)
    }

    @Test("what is written reads back the same")
    func roundTrip() {
        var configuration = load("{}").configuration
        configuration.modules.edgeProxy.dialTimeout = .milliseconds(250)
        configuration.modules.edgeTunnel.relayNodes = [
            .init(
                nodeName: "r",
                advertiseAddress: [
                    .address(.v4(IPv4Address(192, 0, 2, 1))), .address(.v6(.loopback)), .name("relay-1.example.com"),
                ]
            )
        ]
        configuration.commonConfig.bridgeDeviceIPv6 = .loopback
        configuration.kubeAPIConfig.master = "http://10.0.0.1:8080"
        configuration.kubeAPIConfig.mode = .manual
        #expect(load(configuration.document.yamlText()).configuration == configuration)
        #expect(load(configuration.document.jsonText(pretty: true)).configuration == configuration)
    }

    @Test("a diff tells what a reload takes over and what waits for a restart")
    func diff() {
        let old = load("{}").configuration
        #expect(ConfigurationDiff(from: old, to: old).isEmpty)
        let new = load(
            """
            commonConfig: {stateDir: /tmp/x, pprofConfig: {enableProfiling: true}}
            modules: {edgeProxy: {serviceFilterMode: FilterIfLabelDoesNotExists}, edgeTunnel: {relayNodes: [{nodeName: r}]}}
            """
        ).configuration
        let diff = ConfigurationDiff(from: old, to: new)
        #expect(diff.live == ["modules.edgeProxy.serviceFilterMode", "modules.edgeTunnel.relayNodes"])
        #expect(diff.restart == ["commonConfig.stateDir"])
    }
}
