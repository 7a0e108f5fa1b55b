import MeshCore
import MeshTesting
import Testing

@testable import LinuxNetwork

/// Every kind of frontend, in both families.
func everyKind() throws -> [KernelFrontend: KernelRule] {
    var rules: [KernelFrontend: KernelRule] = [:]
    for family in [IPFamily.v4, .v6] {
        let isV4 = family == .v4
        let backends = try (1...3).map {
            try #require(TransportAddress(isV4 ? "10.9.0.\(10 + $0):8080" : "[fd09::\(10 + $0)]:8080"))
        }
        var actions: [KernelAction] = [.proxy, .reject, .drop]
        for policy in [KernelBalancing.Policy.random, .roundRobin, .sourceHash] {
            for affinity in [nil, 10_800] {
                for count in [1, 3] {
                    actions.append(
                        .balance(
                            KernelBalancing(
                                policy: policy,
                                backends: Array(backends.prefix(count)),
                                affinitySeconds: affinity,
                                localBackends: [backends[0].address],
                                masquerade: count == 3
                            )
                        )
                    )
                }
            }
        }
        let range = try #require(CIDR(isV4 ? "10.8.0.0/15" : "fd08::/16"))
        for (index, action) in actions.enumerated() {
            for transport in [TransportProtocol.tcp, .udp] {
                let address = try #require(IPAddress(isV4 ? "10.96.1.\(index)" : "fd96::1:\(index)"))
                for ranges in [[], [range]] {
                    let port: UInt16 = ranges.isEmpty ? 80 : 81
                    let rule = KernelRule(action: action, sourceRanges: ranges)
                    rules[KernelFrontend(match: .address(address), transport: transport, port: port)] = rule
                    let nodePort = UInt16(30_000 + index) + (ranges.isEmpty ? 0 : 100)
                    rules[KernelFrontend(match: .nodePort(family), transport: transport, port: nodePort)] = rule
                }
            }
        }
    }
    return rules
}

@Suite("Rules beside other tools", .serialized)
struct ListingTests {
    @Test(
        "nft and iptables-nft list everything, with entries in the affinity map, and nft monitors updates",
        arguments: [false, true]
    )
    func listings(bridged: Bool) async throws {
        let node = try LabNode()
        try node.run(
            "",
            "sh -c 'iptables-nft -A FORWARD -j ACCEPT; iptables-nft -t nat -A PREROUTING -p tcp --dport 1 -j ACCEPT'"
        )
        let program = try node.namespace.run {
            try NFTablesProgram(
                masqueradeBridged: bridged,
                forwarding: ForwardAcceptance(namespace: node.namespace)
            )
        }
        let rules = try everyKind()
        try await program.install(listeners: listeners, rules: rules)
        let sticky = rules.filter {
            if case .balance(let balancing) = $0.value.action { balancing.affinitySeconds != nil } else { false }
        }
        // The first packet over IPv6 may wait for neighbour discovery.
        for pod in 1...3 { _ = try node.call("out", 2, "fd09::\(10 + pod)", 8080) }
        var targets: [(address: String, port: Int, transport: TransportProtocol)] = []
        for frontend in sticky.keys where frontend.transport == .tcp {
            guard case .address(let address) = frontend.match else { continue }
            targets.append(("\(address)", Int(frontend.port), .tcp))
        }
        for port in 30_003...30_008 { targets += ["10.8.0.1", "fd08::1"].map { ($0, port, .tcp) } }
        let answers = try node.callEach("out", targets)
        #expect(answers.count == targets.count)
        for (target, answer) in zip(targets, answers) where !answer.hasPrefix("p") {
            Issue.record("\(target): \(answer)")
        }
        let monitor = "/tmp/edgemesh-test-monitor-\(node.name)"
        try node.run("", "sh -c 'setsid nft monitor >\(monitor) 2>&1 & echo $! >\(monitor).pid; sleep 0.5'")
        for command in [
            "nft list ruleset", "nft -j list ruleset", "nft -a list ruleset", "nft list table ip6 edgemesh",
        ] {
            let listing = try node.run("", command)
            #expect(listing.contains("affinity") && listing.contains("edgemesh"), "\(command)")
        }
        let listing = try node.run("", "nft list table ip edgemesh")
        #expect(listing.contains("10.8.0.2 . 10.96.1."), "entries in the affinity map: \(listing)")
        #expect(listing.contains("iifkind \"bridge\"") == bridged)
        for (frontend, rule) in rules {
            guard case .balance(var balancing) = rule.action, balancing.backends.count == 3 else { continue }
            balancing.backends.removeLast()
            try await program.update([
                frontend: KernelRule(action: .balance(balancing), sourceRanges: rule.sourceRanges)
            ])
        }
        try await program.update(Dictionary(uniqueKeysWithValues: rules.keys.map { ($0, nil) }))
        try node.run("", "sh -c 'sleep 0.5; kill $(cat \(monitor).pid)'")
        let seen = try shell("cat \(monitor); rm \(monitor) \(monitor).pid")
        #expect(seen.contains("delete element ip edgemesh") && !seen.contains("ssert"), "monitor: \(seen.suffix(500))")
        for command in ["iptables-nft-save", "iptables-nft -L -n", "iptables-nft -t nat -L -n"] {
            let output = try node.run("", command)
            #expect(output.contains("ACCEPT") && !output.contains("incompatible"), "\(command): \(output)")
        }
        try await program.remove()
    }

    @Test("pods of one bridge reach each other where bridged packets bypass netfilter")
    func bridgedPods() async throws {
        let node = try LabNode(pods: 2)
        try node.run("", "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
        let program = try node.namespace.run { try NFTablesProgram() }
        try await program.install(listeners: listeners, rules: [frontend("10.96.0.1:80"): balance(.random, 2...2)])
        #expect(try node.call("p1", 3, "10.96.0.1", 80) == ["p2": 3])
        #expect(
            try node.run("out", "python3 /tmp/edgemesh-test-client.py 1 10.96.0.1 80").contains("10.8.0.2"),
            "source kept"
        )
        // Without masquerading the reply never comes.
        let plain = try node.namespace.run { try NFTablesProgram(masqueradeBridged: false) }
        try await plain.install(listeners: listeners, rules: [frontend("10.96.0.1:80"): balance(.random, 2...2)])
        #expect(try node.call("p1", 1, "10.96.0.1", 80) == ["TIMEOUT": 1])
    }
}
