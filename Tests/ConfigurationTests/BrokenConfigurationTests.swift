import Configuration
import Documents
import Testing

@Suite("Broken configurations")
struct BrokenConfigurationTests {
    /// The text, where its first problem is, its severity and a distinctive part of its message.
    private static let cases: [(String, Int, Int, ConfigurationProblem.Severity, String)] = [
        // no YAML
        ("modules:\n\tedgeDNS: {}\n", 2, 1, .error, "tab in the indentation"),
        ("modules: {edgeDNS: {enable: true}\n", 2, 1, .error, "flow mapping that starts at 1:10"),
        ("a: b: c\n", 1, 5, .error, "wants quotes"),
        ("modules: *m\n", 1, 10, .error, "no anchor &m"),
        ("kind: \"EdgeMeshAgent\n", 2, 1, .error, "quoted scalar that starts at 1:7"),
        ("a: \u{2}\n", 1, 4, .error, "control character 0x2"),
        ("modules:\n  edgeDNS:\n    enable: true\n    enable: false\n", 4, 5, .error, "already used at 3:5"),
        (
            String(repeating: "{a: ", count: 65) + "1" + String(repeating: "}", count: 65), 1, 257, .error,
            "deeper than the 64"
        ),
        // no configuration
        ("- modules\n", 1, 1, .error, "the file is a list; allowed: an object"),
        ("modules", 1, 1, .error, "the file is \"modules\""),
        ("kind: EdgeMeshAgent\n---\nkind: EdgeMeshAgent\n", 3, 1, .error, "several documents"),
        ("", 0, 0, .warning, "the file is empty"),
        ("null", 1, 1, .warning, "the file is empty"),
        ("kind: EdgeMeshGateway\n", 1, 7, .warning, "EdgeMeshGateway, read as"),
        ("apiVersion: v1\n", 1, 13, .warning, "this is v1 EdgeMeshAgent"),
        // unknown keys
        ("modules:\n  edgeDns2: {}\n", 2, 3, .warning, "did you mean edgeDNS?"),
        ("modules: {edgeDNS: {listenport: 1, listenPrt: 2}}", 1, 36, .warning, "did you mean listenPort?"),
        ("commonConfig: {listenPort: 1}", 1, 16, .warning, "there is modules.edgeDNS.listenPort"),
        ("modules: {networking: {}}", 1, 11, .warning, "the keys here are edgeDNS, edgeProxy, edgeTunnel, edgeCNI"),
        (
            "modules: {edgeTunnel: {relayNodes: [{nodeNme: r, nodeName: r}]}}", 1, 38, .warning,
            "relayNodes[0].nodeNme is no key"
        ),
        // sections
        ("modules:\n", 1, 9, .warning, "modules is empty; its defaults hold"),
        ("modules: {edgeTunnel: null}", 1, 23, .warning, "modules.edgeTunnel is empty"),
        ("modules: [edgeDNS]", 1, 10, .error, "modules is a list; allowed: an object"),
        ("modules: {edgeDNS: true}", 1, 20, .error, "modules.edgeDNS is true; allowed: an object"),
        ("commonConfig: {}\nCommonConfig: {}", 2, 1, .error, "commonConfig is already set at 1:1"),
        // types and ranges
        ("modules: {edgeDNS: {enable: \"true\"}}", 1, 29, .error, "\"true\"; allowed: true or false, without quotes"),
        ("modules: {edgeDNS: {enable: 1}}", 1, 29, .error, "is 1; allowed: true or false"),
        ("modules: {edgeDNS: {listenPort: 0}}", 1, 33, .error, "is 0; allowed: a whole number from 1 to 65535"),
        ("modules: {edgeDNS: {listenPort: 65536}}", 1, 33, .error, "is 65536"),
        ("modules: {edgeDNS: {listenPort: 99999999999999999999}}", 1, 33, .error, "is 1e+20"),
        ("modules: {edgeDNS: {listenPort: \"53\"}}", 1, 33, .error, "is \"53\""),
        ("modules: {edgeDNS: {listenPort: 53.5}}", 1, 33, .error, "is 53.5"),
        ("modules: {edgeDNS: {listenPort: [53]}}", 1, 33, .error, "is a list"),
        ("modules: {edgeDNS: {cacheDNS: {upstreamServers: 10.0.0.10}}}", 1, 49, .error, "allowed: a list"),
        (
            "modules: {edgeDNS: {upstreamServers: [10.0.0.10, dns.example]}}", 1, 50, .error,
            "upstreamServers[1] is \"dns.example\""
        ),
        ("modules: {edgeDNS: {upstreamServers: [\"10.0.0.10:70000\"]}}", 1, 39, .error, "10.0.0.10:5353"),
        ("modules: {edgeDNS: {upstreamServers: [\"10.0.0.10:0\"]}}", 1, 39, .error, "10.0.0.10:5353"),
        ("modules: {edgeDNS: {upstreamServers: [0.0.0.0]}}", 1, 39, .error, "10.0.0.10:5353"),
        ("modules: {edgeProxy: {maxSplicedConnections: -1}}", 1, 46, .error, "from 0 to 100000"),
        ("modules: {edgeDNS: {cacheSize: -1}}", 1, 32, .error, "from 0 to 10000000"),
        ("modules: {edgeDNS: {clusterDomain: a..b}}", 1, 36, .error, "a domain name such as cluster.local"),
        (
            "modules: {edgeProxy: {enable: true, serviceFilterMode: Filter}}", 1, 56, .error,
            "FilterIfLabelExists, FilterIfLabelDoesNotExists"
        ),
        ("modules: {edgeProxy: {serviceFilterMode: Filter}}", 1, 42, .warning, "FilterIfLabelExists"),
        ("modules: {edgeProxy: {routableCIDRs: [10.244.0.0/40]}}", 1, 39, .error, "10.244.0.0/16"),
        ("modules: {edgeProxy: {kernelBackend: ipvs}}", 1, 38, .error, "auto, nftables, iptables, none"),
        ("modules: {edgeProxy: {dialTimeout: 5s}}", 1, 36, .error, "is \"5s\"; allowed: a number from 0.05 to 300"),
        ("modules: {edgeProxy: {dialTimeout: .inf}}", 1, 36, .error, "is inf"),
        ("modules: {edgeProxy: {udpIdleTimeout: .nan}}", 1, 39, .error, "is nan"),
        ("modules: {edgeProxy: {maxConnections: 0}}", 1, 39, .error, "is 0"),
        ("modules: {edgeProxy: {loadBalancer: {consistentHash: {load: 0.5}}}}", 1, 61, .error, "from 1.0"),
        ("commonConfig: {bridgeDeviceIP: 169.254.96}", 1, 32, .error, "an IPv4 address"),
        ("commonConfig: {bridgeDeviceIP: 127.0.0.1}", 1, 32, .error, "such as 169.254.96.16"),
        ("commonConfig: {bridgeDeviceIPv6: 10.0.0.1}", 1, 34, .error, "an IPv6 address, or \"\""),
        ("commonConfig: {bridgeDeviceName: \"mesh:0\"}", 1, 34, .error, "1 to 15 characters"),
        ("commonConfig: {bridgeDeviceName: a-name-too-long-for-linux}", 1, 34, .error, "1 to 15 characters"),
        ("commonConfig: {stateDir: state}", 1, 26, .error, "an absolute path"),
        ("commonConfig: {bridgeDeviceIP: \"\\e[2J\"}", 1, 32, .error, "is \"\\u001b[2J\"; allowed"),
        ("commonConfig: {nodeName: 12}", 1, 26, .error, "is 12; allowed: text; write it in quotes"),
        ("commonConfig: {adminSocket: /\(String(repeating: "x", count: 107))}", 1, 29, .error, "at most 107 bytes"),
        ("kubeAPIConfig: {mode: DebugMode}", 1, 23, .error, "CloudMode, EdgeMode, ManualMode"),
        ("kubeAPIConfig: {mode: ManualMode}", 1, 23, .error, "set kubeAPIConfig.master or"),
        ("kubeAPIConfig: {qps: 1.5}", 1, 22, .error, "is 1.5"),
        ("kubeAPIConfig: {metaServer: {server: 127.0.0.1:10550}}", 1, 38, .error, "http:// or https://"),
        ("kubeAPIConfig: {kubeConfig: kubeconfig}", 1, 29, .error, "an absolute path, or \"\""),
        ("kubeAPIConfig: {kubeConfig: /missing}", 1, 29, .error, "cannot be read"),
        ("modules: {edgeTunnel: {enable: true, transport: udp}}", 1, 49, .error, "tcp, ws, quic"),
        ("modules: {edgeTunnel: {transport: udp}}", 1, 35, .warning, "tcp, ws, quic"),
        ("modules: {edgeTunnel: {enable: true, transport: quic}}", 1, 49, .error, "cannot carry a pre-shared key"),
        (
            "modules: {edgeTunnel: {relayNodes: [{nodeName: r, advertiseAddress: [192.0.2.300]}]}}", 1, 70, .error,
            "relayNodes[0].advertiseAddress[0]"
        ),
        (
            "modules: {edgeTunnel: {relayNodes: [{nodeName: r, advertiseAddress: [relay_1.example]}]}}", 1, 70, .error,
            "an IPv4 or IPv6 address, or a DNS name"
        ),
        (
            "modules: {edgeTunnel: {relayNodes: [{advertiseAddress: [192.0.2.1]}]}}", 1, 37, .error,
            "relayNodes[0].nodeName is missing"
        ),
        ("modules: {edgeTunnel: {relayNodes: [r]}}", 1, 37, .error, "relayNodes[0] is \"r\"; allowed: an object"),
        (
            "modules: {edgeTunnel: {enable: true, transport: quic, psk: {enable: false}}}", 1, 49, .warning,
            "set tcp or ws"
        ),
        ("modules: {edgeTunnel: {enable: true, livenessInterval: 5, livenessTimeout: 2}}", 1, 76, .error, "twice that"),
        ("modules: {edgeTunnel: {targets: {allow: [\"10.0.0.0/8:80-79\"]}}}", 1, 42, .error, ":FIRST-LAST"),
        ("modules: {edgeTunnel: {identity: name}}", 1, 34, .error, "derived, node"),
        ("modules: {edgeCNI: {enable: true}}", 1, 20, .error, "list both"),
        (
            "modules: {edgeCNI: {enable: true, meshCIDRConfig: {cloudCIDR: [10.0.0.0/16], edgeCIDR: [10.1.0.0/16]}}}",
            1, 29, .error, "set modules.edgeTunnel.enable: true"
        ),
        ("modules: {edgeDNS: {cacheDNS: {enable: true, autoDetect: false}}}", 1, 31, .error, "nobody to ask"),
        (
            "modules: {edgeDNS: {listenPort: 1080}, edgeProxy: {enable: true, socks5Proxy: {enable: true, listenPort: 1080}}}",
            1, 106, .error, "both listen on the bridge"
        ),
    ]

    @Test("each names its place and what is allowed", arguments: cases)
    func broken(text: String, line: Int, column: Int, severity: ConfigurationProblem.Severity, message: String) {
        let loaded = load(text)
        let problem = loaded.problems.first
        #expect(problem?.position == SourcePosition(line: line, column: column), "\(loaded.problems)")
        #expect(problem?.severity == severity, "\(loaded.problems)")
        #expect(problem?.message.contains(message) == true, "\(loaded.problems)")
        #expect(loaded.isUsable == (severity == .warning))
        let place = line == 0 ? "agent.yaml: " : "agent.yaml:\(line):\(column): "
        #expect(problem?.describe(in: "agent.yaml").hasPrefix(place + severity.rawValue) == true)
    }

    @Test("all problems of a file are told at once, in its order")
    func everyProblem() {
        let loaded = load(
            """
            commonConfig: {bridgeDeviceIP: x}
            modules:
              edgeDNS: {listenPort: 0, enabled: true}
              edgeProxy: {routableCIDRs: [x, 10.0.0.0/8, y]}
            """
        )
        #expect(
            loaded.problems.map(\.path) == [
                "commonConfig.bridgeDeviceIP", "modules.edgeDNS.listenPort", "modules.edgeDNS.enabled",
                "modules.edgeProxy.routableCIDRs[0]", "modules.edgeProxy.routableCIDRs[2]",
            ]
        )
    }

    @Test("bytes that are not UTF-8, and a file that is too large")
    func bytes() {
        let binary = AgentConfiguration.load([0x61, 0x3A, 0x20, 0xC3, 0x28], environment: .edge)
        #expect(binary.problems.first?.message.contains("not UTF-8") == true)
        #expect(binary.problems.first?.position == SourcePosition(line: 1, column: 5))
        let large = AgentConfiguration.load(Array(repeating: UInt8(ascii: "#"), count: 1 << 20 + 1), environment: .edge)
        #expect(large.problems.first?.message.contains("more than the 1048576 allowed") == true)
    }

    @Test("a name that is missing everywhere is asked for")
    func missingNames() {
        let loaded = load(
            "modules: {edgeProxy: {socks5Proxy: {enable: true}}}",
            ConfigurationEnvironment(variables: [:])
        )
        #expect(loaded.problems.map(\.path) == ["commonConfig.nodeName"])
        #expect(loaded.problems.first?.message.contains("NODE_NAME") == true)
    }
}
