import Glibc
import LinuxNetwork
import MeshCore
import NIOCore
import NIOPosix
import Testing

@testable import Admin

/// A machine made of tables.
struct FakeHost: HostReading {
    var files: [String: String] = [:]
    var programs: [String: CommandResult] = [:]
    var bindErrors: [TransportProtocol: Int32] = [:]
    var holders: [TransportProtocol: SocketHolder] = [:]
    var http: [UInt16: String] = [:]
    var fileLimit: UInt64 = 65_536
    var capabilities = KernelCapabilities()

    func file(_ path: String) -> String? { self.files[path] }
    func kernelCapabilities() async -> KernelCapabilities { self.capabilities }
    func run(_ program: String, _ arguments: [String], input: String) async -> CommandResult? { self.programs[program] }
    func bindError(_ address: TransportAddress, _ transport: TransportProtocol) -> Int32? { self.bindErrors[transport] }
    func holders(_ address: TransportAddress, _ transport: TransportProtocol) async -> [SocketHolder] {
        self.holders[transport].map { [$0] } ?? []
    }
    func localHTTP(port: UInt16, path: String) -> String? { self.http[port] }
}

@Suite struct CheckTests {
    static let bridge = IPAddress.v4(IPv4Address(rawValue: 0xA9FE_6010))

    static let capabilities: KernelCapabilities = {
        var capabilities = KernelCapabilities()
        capabilities.nfTables = .init(true, "nf_tables with all expressions needed")
        capabilities.preferredIPTables = .nft
        return capabilities
    }()

    static let routes =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        + "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\neth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"

    static func forwardChain(_ table: String, _ name: String, _ policy: String = "drop") -> CommandResult {
        let hook = "\t\ttype filter hook forward priority filter; policy \(policy);\n"
        return CommandResult(status: 0, output: "table \(table) {\n\tchain \(name) {\n\(hook)\t}\n}\n")
    }

    /// A node on which all is well.
    static let soundHost = FakeHost(
        files: [
            "/proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n", "/proc/sys/net/ipv4/ip_forward": "1\n",
            "/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n", "/proc/sys/net/netfilter/nf_conntrack_max": "1000\n",
            "/proc/sys/net/netfilter/nf_conntrack_count": "10\n", "/proc/net/route": Self.routes,
            "/etc/resolv.conf": "nameserver 192.0.2.53\n",
            "/var/lib/kubelet/config.yaml": "clusterDNS:\n- 169.254.96.16\nclusterDomain: cluster.local\n",
        ],
        programs: ["nft": CommandResult(status: 0, output: "")],
        capabilities: Self.capabilities
    )

    static func checks(_ host: FakeHost, running: Bool = false) -> SystemChecks<FakeHost> {
        SystemChecks(
            host: host,
            expectation: .init(
                bridgeAddress: Self.bridge,
                dnsPort: 53,
                isDNSEnabled: true,
                isProxyEnabled: true,
                isAgentRunning: running
            )
        )
    }

    @Test func aSoundNodePasses() async {
        let results = await Self.checks(Self.soundHost).run()
        #expect(results.filter { $0.outcome != .pass } == [])
        #expect(Set(results.map(\.name)).count == results.count, "names are unique")
        #expect(!CheckReport(results).hasFailed)
    }

    /// Nothing of it is asked where edgeCNI is off; `aSoundNodePasses` sees to that.
    @Test(
        arguments: [
            ([:], [:], false, "tunnel-device", .warn),
            (["/proc/misc": " 60 vmci\n200 tun\n"], [:], false, "tunnel-device", .pass),
            (["/proc/misc": "200 tun\n"], [:], true, "tunnel-device", .fail),
            (["/proc/sys/net/ipv4/conf/edge_tun0/rp_filter": "2\n"], [:], true, "tunnel-device", .pass),
            ([:], [:], true, "pod-sources", .warn),
            ([:], ["nft": "oifname \"edge_tun0\" snat to ip saddr"], true, "pod-sources", .pass),
            ([:], ["iptables-legacy-save": "-A POSTROUTING -j EDGECNI-POSTROUTING"], true, "pod-sources", .pass),
            ([:], [:], false, "ip6-forward", .warn),
            (["/proc/sys/net/ipv6/conf/all/forwarding": "0\n"], [:], false, "ip6-forward", .fail),
            (["/proc/sys/net/ipv6/conf/all/forwarding": "1\n"], [:], false, "ip6-forward", .pass),
        ] as [([String: String], [String: String], Bool, String, CheckResult.Outcome)]
    )
    func theNetworkOfPodsIsChecked(
        files: [String: String],
        programs: [String: String],
        isRunning: Bool,
        check: String,
        outcome: CheckResult.Outcome
    ) async {
        var host = Self.soundHost
        host.files.merge(files) { $1 }
        host.programs.merge(programs.mapValues { CommandResult(status: 0, output: $0) }) { $1 }
        var expectation = Self.checks(host, running: isRunning).expectation
        expectation.podFamilies = [.v4, .v6]
        let results = await SystemChecks(host: host, expectation: expectation).run()
        let result = results.first { $0.name == check }
        #expect(result?.outcome == outcome, "\(String(describing: result))")
        #expect(result?.mend.isEmpty == (outcome == .pass))
    }

    struct Defect: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var check: String
        var outcome: CheckResult.Outcome
        var change: @Sendable (inout FakeHost) -> Void

        init(
            _ text: String,
            _ check: String,
            _ outcome: CheckResult.Outcome,
            _ change: @escaping @Sendable (inout FakeHost) -> Void
        ) {
            self.testDescription = text
            self.check = check
            self.outcome = outcome
            self.change = change
        }
    }

    static let defects: [Defect] = [
        Defect("no capability", "privileges", .fail) { $0.files["/proc/self/status"] = "CapEff:\t0000000000000000\n" },
        Defect("no /proc", "privileges", .warn) { $0.files["/proc/self/status"] = nil },
        Defect("few files", "file-limit", .warn) { $0.fileLimit = 1024 },
        Defect("no nf_tables, iptables is there", "packet-filter", .warn) {
            $0.capabilities.nfTables.isAvailable = false
        },
        Defect("no packet filter", "packet-filter", .fail) { $0.capabilities = KernelCapabilities() },
        Defect("no forwarding", "ip-forward", .fail) { $0.files["/proc/sys/net/ipv4/ip_forward"] = "0\n" },
        Defect("bridge skips filter", "bridge-nf-call-iptables", .warn) {
            $0.files["/proc/sys/net/bridge/bridge-nf-call-iptables"] = "0"
        },
        Defect("no br_netfilter", "bridge-nf-call-iptables", .warn) {
            $0.files["/proc/sys/net/bridge/bridge-nf-call-iptables"] = nil
        },
        Defect("conntrack full", "conntrack", .warn) {
            $0.files["/proc/sys/net/netfilter/nf_conntrack_count"] = "900\n"
        },
        Defect("no conntrack", "conntrack", .warn) { $0.files["/proc/sys/net/netfilter/nf_conntrack_max"] = nil },
        Defect("port 53 taken on UDP", "dns-port", .fail) { $0.bindErrors[.udp] = 98 },
        Defect("port 53 taken on TCP", "dns-port", .fail) { $0.bindErrors[.tcp] = 98 },
        Defect("port 53 forbidden", "dns-port", .fail) { $0.bindErrors[.udp] = 13 },
        Defect("no resolv.conf", "node-resolver", .warn) { $0.files["/etc/resolv.conf"] = nil },
        Defect("empty resolv.conf", "node-resolver", .warn) { $0.files["/etc/resolv.conf"] = "search x\n" },
        Defect("resolv.conf names the mesh", "node-resolver", .warn) {
            $0.files["/etc/resolv.conf"] = "nameserver 169.254.96.16\n"
        },
        Defect("pods ask another", "pod-resolver", .warn) {
            $0.files["/var/lib/kubelet/config.yaml"] = "clusterDNS: [\"10.96.0.10\"]\n"
        },
        Defect("no kubelet", "pod-resolver", .warn) { $0.files["/var/lib/kubelet/config.yaml"] = nil },
        Defect("a firewall of nftables drops", "forward-policy", .warn) {
            $0.programs["nft"] = Self.forwardChain("inet fw", "forward")
        },
        Defect("FORWARD of iptables-nft drops", "forward-policy", .warn) {
            $0.programs["nft"] = Self.forwardChain("ip filter", "FORWARD")
            $0.programs["iptables-nft-save"] = CommandResult(status: 0, output: "*filter\n:FORWARD DROP [0:0]\n")
        },
        Defect("a rule of FORWARD refuses", "forward-policy", .warn) {
            $0.programs["nft"] = Self.forwardChain("ip filter", "FORWARD", "accept")
            $0.programs["iptables-nft-save"] = CommandResult(
                status: 0,
                output: "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n"
            )
        },
        Defect("FORWARD of iptables-legacy drops", "forward-policy", .warn) {
            $0.files["/proc/net/ip_tables_names"] = "nat\nfilter\n"
            $0.programs["iptables-legacy-save"] = CommandResult(status: 0, output: "*filter\n:FORWARD DROP [0:0]\n")
        },
        Defect("no default route", "default-route", .warn) { $0.files["/proc/net/route"] = "Iface\tDestination\n" },
        Defect("addresses of a former mode ipvs", "kube-proxy", .warn) {
            $0.files["/sys/class/net/kube-ipvs0/operstate"] = "down\n"
        },
        Defect("IPVS leftovers", "kube-proxy", .warn) { $0.files["/proc/net/ip_vs"] = "a\nb\nc\nd\n" },
    ]

    @Test(arguments: defects)
    func aDefectIsFoundWithItsMend(_ defect: Defect) async throws {
        var host = Self.soundHost
        defect.change(&host)
        let results = await Self.checks(host).run()
        let result = try #require(results.first { $0.name == defect.check })
        #expect(result.outcome == defect.outcome)
        #expect(!result.mend.isEmpty)
        #expect(results.filter { $0.outcome != .pass }.map(\.name) == [defect.check], "no other check is disturbed")
    }

    @Test func aFirewallThatLetsServicesThroughPasses() async {
        var host = Self.soundHost
        host.files["/proc/net/ip_tables_names"] = "filter\n"
        host.programs["iptables-legacy-save"] = CommandResult(
            status: 0,
            output: "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j EDGEMESH-FORWARD\n"
        )
        #expect(await Self.checks(host).forwarding().outcome == .pass)
        host.programs["nft"] = Self.forwardChain("ip filter", "FORWARD", "accept")
        #expect(await Self.checks(host).forwarding().outcome == .pass)
        host.http[10_249] = "ipvs\n"
        #expect(await Self.checks(host).kubeProxy().found.contains("mode ipvs"))
    }

    static func checksBesideAgent(_ host: FakeHost) -> SystemChecks<FakeHost> {
        var expectation = Self.checks(host, running: true).expectation
        expectation.agentProcess = 7
        return SystemChecks(host: host, expectation: expectation)
    }

    @Test func aRunningAgentHoldsThePort() async {
        var host = Self.soundHost
        #expect(await Self.checksBesideAgent(host).dnsPort().outcome == .fail, "its DNS is not up")
        host.bindErrors = [.udp: 98]
        let half = await Self.checksBesideAgent(host).dnsPort()
        #expect(half.outcome == .fail && half.found.contains("tcp"), "\(half)")
        host.bindErrors = [.udp: 98, .tcp: 98]
        #expect(await Self.checksBesideAgent(host).dnsPort().outcome == .pass)
        host.holders = [.udp: SocketHolder(name: "edgemesh", processID: 7)]
        #expect(await Self.checksBesideAgent(host).dnsPort().outcome == .pass)
    }

    @Test("a port that another program holds is not taken for the agent's, and the program is named")
    func anotherProgramHoldsThePort() async {
        var host = Self.soundHost
        host.bindErrors = [.udp: 98, .tcp: 98]
        host.holders = [
            .udp: SocketHolder(name: "edgemesh", processID: 7), .tcp: SocketHolder(name: "dnsmasq", processID: 8),
        ]
        let result = await Self.checksBesideAgent(host).dnsPort()
        #expect(result.outcome == .fail)
        #expect(result.found.contains("dnsmasq (process 8)"), "\(result)")
    }

    @Test(arguments: [
        (
            #"UNCONN 0 0 127.0.0.1:53 0.0.0.0:* users:(("dnsmasq",pid=71,fd=4),("x",pid=9,fd=1))"#,
            ["dnsmasq (process 71)", "x (process 9)"]
        ),
        (#"LISTEN 0 4096 *:53 *:* users:(("systemd-resolve",pid=512,fd=13))"#, ["systemd-resolve (process 512)"]),
        ("UNCONN 0 0 127.0.0.1:53 0.0.0.0:*", []), (#"users:(("x"#, []), (#"users:(("x",pid=x))"#, []),
    ])
    func holdersOfLine(line: String, holders: [String]) {
        #expect(SocketHolder.all(inLine: line).map(\.description) == holders)
    }

    @Test("the holder of a port of this process is found by the tool")
    func liveHolder() async throws {
        let channel = try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(host: "127.0.0.1", port: 0).get()
        let port = UInt16(try #require(channel.localAddress?.port))
        let holders = await LiveHost().holders(TransportAddress(.v4(.loopback), port), .udp)
        try await channel.close()
        #expect(holders.contains { $0.processID == getpid() })
    }

    @Test(arguments: [
        ("clusterDNS:\n- 10.0.0.1\n- 10.0.0.2\nx: 1\n- 10.0.0.3", ["10.0.0.1", "10.0.0.2"]),
        ("  clusterDNS: ['10.0.0.1', \"fd00::1\"]", ["10.0.0.1", "fd00::1"]),
        ("    tailoredKubeletConfig:\n      clusterDNS:\n      - \"169.254.96.16\"\n", ["169.254.96.16"]),
        ("clusterDNS: 169.254.96.16\n", ["169.254.96.16"]), ("other: 1", []),
    ])
    func clusterDNSIsFound(text: String, addresses: [String]) {
        #expect(SystemChecks<FakeHost>.clusterDNS(inConfig: text).map(\.description) == addresses)
    }

    @Test func theReportCountsAndTheTextNamesMends() {
        let report = CheckReport([
            CheckResult("a", .pass, "fine"), CheckResult("b", .fail, "broken", mend: "repair it"),
        ])
        #expect(report.text == "PASS  a: fine\nFAIL  b: broken\n      mend: repair it\n1 pass, 0 warn, 1 fail\n")
        #expect(report.hasFailed)
    }
}
