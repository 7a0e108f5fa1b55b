import Configuration
import Documents
import MeshCore
import Testing

/// The file of `edgemesh-gateway`, and the gateway's keys in the agent's.
@Suite struct GatewayConfigurationTests {
    private static func loadGateway(
        _ text: String,
        _ environment: ConfigurationEnvironment = .edge
    ) -> LoadedConfiguration {
        AgentConfiguration.load(Array(text.utf8), environment: environment, role: .gateway)
    }

    @Test func theFileOfTheOriginalLoads() {
        let loaded = Self.loadGateway(
            """
            apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1
            kind: EdgeMeshGateway
            kubeAPIConfig:
              burst: 200
              qps: 100
              metaServer: {server: "http://127.0.0.1:10550", security: {requireAuthorization: false}}
            pprofConfig: {enableProfiling: false, profilingPort: 0}
            modules:
              edgeGateway:
                enable: true
                nic: "eth0, eth1"
                includeIP: "10.0.0.1,10.1.0.0/16"
                excludeIP: "*"
                loadBalancer:
                  caller: GatewayCaller
                  nodeName: n1-gateway
                  consistentHash: {partitionCount: 200, replicationFactor: 20, load: 1.5}
              edgeTunnel:
                enable: true
                mode: ClientOnly
                listenPort: 20006
                relayNodes: [{nodeName: r1, advertiseAddress: [192.0.2.1]}]
            """
        )
        #expect(loaded.problems.isEmpty, "\(loaded.problems)")
        let gateway = loaded.configuration.modules.edgeGateway
        #expect(gateway.enable && gateway.loadBalancer.partitionCount == 200 && gateway.loadBalancer.load == 1.5)
        #expect(AgentConfiguration.names(gateway.nic) == ["eth0", "eth1"])
        #expect(AgentConfiguration.blocks(gateway.includeIP)?.map(\.description) == ["10.0.0.1/32", "10.1.0.0/16"])
        #expect(AgentConfiguration.blocks(gateway.excludeIP) == [])
        #expect(loaded.configuration.commonConfig.nodeName == "n1")
    }

    @Test(arguments: [ConfigurationEnvironment.edge, .cloud])
    func theDefaultsReadBack(environment: ConfigurationEnvironment) {
        let text = AgentConfiguration.defaultDocument(environment, role: .gateway).yamlText()
        let loaded = Self.loadGateway(text, environment)
        #expect(loaded.problems.map(\.path) == ["modules.edgeGateway.enable"], "\(loaded.problems)")
        #expect(loaded.configuration == Self.loadGateway("{}", environment).configuration)
        #expect(!loaded.configuration.modules.edgeDNS.enable)
        let minimal = Self.loadGateway(AgentConfiguration.minimalDocument(role: .gateway).yamlText(), environment)
        #expect(minimal.problems.isEmpty)
        #expect(minimal.configuration.modules.edgeGateway.enable && minimal.configuration.modules.edgeTunnel.enable)
    }

    /// The text, where its first problem is, its severity and a distinctive part of its message.
    @Test(arguments: [
        ("modules: {edgeGateway: {nik: eth0}}", 1, 25, ConfigurationProblem.Severity.warning, "did you mean nic?"),
        ("modules: {edgeProxy: {enable: true}}", 1, 11, .warning, "modules.edgeProxy is no key"),
        ("commonConfig: {bridgeDeviceIP: 1.2.3.4}", 1, 16, .warning, "the keys here are nodeName, stateDir"),
        (
            "modules:\n  edgeGateway:\n    includeIP: 10.0.0\n", 3, 16, .error,
            "allowed: addresses and blocks with commas"
        ),
        ("modules: {edgeGateway: {excludeIP: \"10.0.0.1,x\"}}", 1, 36, .error, "excludeIP is \"10.0.0.1,x\""),
        ("modules: {edgeGateway: {selectorLabels: [istio]}}", 1, 42, .error, "a label as KEY=VALUE"),
        ("modules: {edgeGateway: {controllerName: x}}", 1, 41, .error, "a domain and a path"),
        ("modules: {edgeGateway: {enable: false}}", 1, 33, .warning, "set modules.edgeGateway.enable: true"),
        (
            "modules: {edgeGateway: {enable: true}, edgeTunnel: {enable: true, listenPort: 65535}}", 1, 79, .error,
            "listens on the next one"
        ),
        ("kind: EdgeMeshAgent", 1, 7, .warning, "read as gateway.edgemesh.config.kubeedge.io/v1alpha1 EdgeMeshGateway"),
    ])
    func problems(
        text: String,
        line: Int,
        column: Int,
        severity: ConfigurationProblem.Severity,
        words: String
    ) throws {
        let problem = try #require(Self.loadGateway(text).problems.first { $0.message.contains(words) })
        #expect(problem.severity == severity)
        #expect("\(problem.position)" == "\(line):\(column)")
    }

    @Test func anAgentHasTheGatewaysKeysAndTakesThemLive() {
        let loaded = load("modules: {edgeGateway: {enable: true, nic: eth0, accessLogInterval: 1}}")
        #expect(loaded.problems.isEmpty && loaded.configuration.modules.edgeGateway.enable)
        let diff = ConfigurationDiff(from: load("{}").configuration, to: loaded.configuration)
        #expect(diff.live == ["modules.edgeGateway.nic"])
        #expect(diff.restart == ["modules.edgeGateway.enable", "modules.edgeGateway.accessLogInterval"])
    }
}
