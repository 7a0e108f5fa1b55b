import Glibc
import MeshCore
import Testing

@testable import LinuxNetwork

private let variants: [IPTablesVariant] = [.nft, .legacy]

/// Rules and chains without counters and comments of the tool; empty built-in chains do not count.
private func listing(_ tools: IPTablesTools) async throws -> [String] {
    var lines: [String] = []
    for family in IPFamily.allCases {
        for (table, chains) in try await tools.save(family).tables {
            for (name, chain) in chains {
                if !chain.isBuiltIn { lines.append("\(family) \(table) :\(name)") }
                lines += chain.rules.map { "\(family) \(table) \(name) \($0)" }
            }
        }
    }
    return lines.sorted()
}

@Suite("Service rules in iptables", .serialized)
struct IPTablesTests {
    @Test("carry traffic by every policy and action, follow changes, and leave nothing", arguments: variants)
    func traffic(variant: IPTablesVariant) async throws {
        let node = try LabNode()
        let tools = IPTablesTools(variant: variant, namespace: node.namespace)
        // The lab's router has its default route where the client is; one that sends a redirect sends no refusal with it.
        try node.run("", "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.vout.send_redirects=0")
        // Like kube-proxy's, there first and pointing nowhere: they must not win, and must stay.
        try await tools.restore(
            """
            *nat
            :KUBE-SERVICES - [0:0]
            -A PREROUTING -j KUBE-SERVICES
            -A OUTPUT -j KUBE-SERVICES
            -A KUBE-SERVICES -d 10.96.0.0/16 -p tcp -j DNAT --to-destination 192.0.2.1
            COMMIT
            *filter
            -A FORWARD -s 192.0.2.77/32 -j ACCEPT
            COMMIT

            """,
            .v4
        )
        let before = try await listing(tools)
        let both = ProxyListeners(
            tcpV4: listeners.tcpV4,
            udpV4: listeners.udpV4,
            tcpV6: TransportAddress("[fd00::16]:7001"),
            udpV6: TransportAddress("[fd00::16]:7002")
        )
        let proxiedNodePort = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 30081)
        let refusedNodePort = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 30082)
        let v6Backends = try (1...3).map { try #require(TransportAddress("[fd09::\(10 + $0)]:8080")) }
        let rules = try commonRules().merging([
            frontend("10.96.0.4:80"): balance(.random, affinity: 3_600),
            proxiedNodePort: KernelRule(action: .proxy), refusedNodePort: KernelRule(action: .reject),
            frontend("[fd96::2]:80"): KernelRule(
                action: .balance(KernelBalancing(policy: .sourceHash, backends: v6Backends, affinitySeconds: 3_600))
            ),
        ]) { $1 }
        let program = IPTablesProgram(variant: variant, namespace: node.namespace)
        try await program.install(listeners: both, rules: rules)
        #expect(try await program.verify())

        try expectCommonTraffic(node)
        #expect(try node.call("out", 9, "fd96::2", 80).count == 1)
        #expect(try node.call("out", 1, "10.8.0.1", 30082) == ["ECONNREFUSED": 1])
        let first = try node.call("out", 20, "10.96.0.4", 80)
        #expect(first.count == 1, "affinity")

        try await self.checkProxy(node, variant)
        try await self.checkChanges(program, node, tools, chosen: try #require(first.keys.first))

        try await program.remove()
        try await program.remove()
        #expect(try await listing(tools) == before)
    }

    private func checkProxy(_ node: LabNode, _ variant: IPTablesVariant) async throws {
        try node.namespace.run {
            try RouteNetlink.ensureBridge("edgemesh0", addresses: [listeners.tcpV4.address])
        }
        try startProxy(node)
        // A firewall that lets nothing in: redirected flows come in all the same.
        try node.run("", "\(variant.rawValue) -P INPUT DROP")
        for place in ["out", "p1"] {
            #expect(try node.call(place, 1, "10.96.0.9", 80) == ["proxied": 1], "from \(place)")
        }
        #expect(try node.call("out", 1, "10.8.0.1", 30081) == ["proxied": 1])
        try node.run("", "\(variant.rawValue) -P INPUT ACCEPT")
        #expect(try node.call("", 1, "10.96.0.9", 80) == ["proxied": 1])
        for port in [30080, 30081] {
            #expect(try node.call("", 1, "127.0.0.1", port) == ["proxied": 1], "loopback \(port)")
        }
    }

    private func checkChanges(
        _ program: IPTablesProgram,
        _ node: LabNode,
        _ tools: IPTablesTools,
        chosen: String
    ) async throws {
        // A removed backend is left at once, affinity or not.
        let others = (1...3).filter { "p\($0)" != chosen }.map(backend)
        let moved = KernelBalancing(policy: .random, backends: others, affinitySeconds: 3_600)
        try await program.update([
            frontend("10.96.0.4:80"): KernelRule(action: .balance(moved)), frontend("10.96.0.2:80"): nil,
            frontend("10.96.0.3:80"): KernelRule(action: .reject),
        ])
        let second = try node.call("out", 20, "10.96.0.4", 80)
        #expect(second.count == 1 && second.keys.first != chosen, "\(second)")
        #expect(try node.call("out", 1, "10.96.0.3", 80) == ["ECONNREFUSED": 1])
        let dump = try await tools.save(.v4)
        for gone in ["10.96.0.2:80", "10.96.0.3:80"] {
            #expect(dump.tables["nat"]?[IPTablesRuleset.chainName(try frontend(gone))] == nil)
        }
        // Someone puts a rule before ours: the next change puts ours first again.
        try node.run(
            "",
            "\(tools.variant.rawValue) -t nat -I PREROUTING -d 10.96.0.99 -p tcp -j DNAT --to-destination 192.0.2.9"
        )
        try await program.update([frontend("10.96.0.99:80"): balance(.random)])
        #expect(try node.call("out", 3, "10.96.0.99", 80).values.reduce(0, +) == 3)
        try node.run(
            "",
            "\(tools.variant.rawValue) -t nat -D PREROUTING -d 10.96.0.99 -p tcp -j DNAT --to-destination 192.0.2.9"
        )
        // Someone takes our hooks away.
        try node.run("", "\(tools.variant.rawValue) -t nat -D PREROUTING 1")
        #expect(try await program.verify() == false)
        try await program.update([frontend("10.96.0.10:80"): balance(.random)])
        #expect(try await program.verify())
        for address in ["10.96.0.1", "10.96.0.10"] {
            #expect(try node.call("out", 3, address, 80).values.reduce(0, +) == 3)
        }
        // A crash leaves all of it; the next process takes over with other rules.
        let next = IPTablesProgram(variant: tools.variant, namespace: node.namespace)
        try await next.install(listeners: listeners, rules: [frontend("10.96.0.2:80"): balance(.random, 2...2)])
        #expect(try node.call("out", 3, "10.96.0.2", 80) == ["p2": 3])
        let services = try await tools.save(.v4).tables["nat"]?.keys.filter {
            $0.hasPrefix(IPTablesChain.servicePrefix)
        }
        #expect(services?.count == 1)
    }

    @Test("500 services of 10 backends are programmed and changed", arguments: variants)
    func scale(variant: IPTablesVariant) async throws {
        guard geteuid() == 0 else { throw LabError(message: "kernel tests need root: run them with sudo") }
        let namespace = try NetworkNamespace.anonymous()
        let backends = (1...10).map { TransportAddress(.v4(IPv4Address(10, 1, 0, UInt8($0))), 80) }
        let rule = KernelRule(action: .balance(KernelBalancing(policy: .random, backends: backends)))
        let frontends = (1...500).map { number in
            KernelFrontend(
                match: .address(.v4(IPv4Address(rawValue: 0x0A60_0000 + UInt32(number)))),
                transport: .tcp,
                port: 80
            )
        }
        let program = IPTablesProgram(variant: variant, namespace: namespace)
        let clock = ContinuousClock()
        let install = try await clock.measure {
            try await program.install(
                listeners: listeners,
                rules: Dictionary(uniqueKeysWithValues: frontends.map { ($0, rule) })
            )
        }
        var changes: [Duration] = []
        for frontend in frontends.prefix(10) {
            changes.append(
                try await clock.measure { try await program.update([frontend: KernelRule(action: .reject)]) }
            )
        }
        let change = changes.sorted()[5]
        print("\(variant.rawValue), 500 services of 10: installed in \(install), one change in \(change)")
        let nat = try await IPTablesTools(variant: variant, namespace: namespace).save(.v4).tables["nat"] ?? [:]
        let chains = nat.filter { $0.key.hasPrefix(IPTablesChain.servicePrefix) }
        #expect(chains.count == 490 && chains.values.allSatisfy { $0.rules.count == 11 })
        #expect(nat[IPTablesChain.portalsHost]?.rules.count == 500)
    }

    @Test("a host without the target that marks flows is programmed without marks", arguments: variants)
    func noMarks(variant: IPTablesVariant) async throws {
        guard geteuid() == 0 else { throw LabError(message: "kernel tests need root: run them with sudo") }
        let namespace = try NetworkNamespace.anonymous()
        let backend = TransportAddress(.v4(IPv4Address(10, 1, 0, 1)), 80)
        let rule = KernelRule(action: .balance(KernelBalancing(policy: .random, backends: [backend])))
        for (marking, marks) in [("-j NOSUCHTARGET", false), (ForwardAcceptance.marking, true)] {
            let program = IPTablesProgram(variant: variant, namespace: namespace, marking: marking)
            try await program.install(listeners: listeners, rules: [try frontend("10.96.0.1:80"): rule])
            try await program.update([try frontend("10.96.0.2:80"): rule])
            #expect(await program.marksFlows == marks)
            let nat = try await IPTablesTools(variant: variant, namespace: namespace).save(.v4).tables["nat"] ?? [:]
            let chains = nat.filter { $0.key.hasPrefix(IPTablesChain.servicePrefix) }.values.map(\.rules)
            #expect(chains.count == 2)
            #expect(chains.allSatisfy { $0.count == (marks ? 2 : 1) && $0.last?.contains("\(backend)") == true })
        }
    }

    @Test("hash shares without a rest, also beyond what one hash can tell apart", arguments: [2, 3, 32, 33, 64, 100])
    func hashGroups(count: Int) throws {
        let ruleset = IPTablesRuleset(family: .v4, listeners: listeners)
        let backends = (1...count).map { TransportAddress(.v4(IPv4Address(10, 1, 0, UInt8($0))), 80) }
        let rules = ruleset.balancingRules(
            try frontend("10.96.0.1:80"),
            KernelBalancing(policy: .sourceHash, backends: backends)
        )
        #expect(rules.count == count)
        #expect(rules.last?.contains("cluster") == false)
        // Every share is asked for by one rule, so that the last takes exactly what is left.
        let shares = rules.map { rule in
            rule.split(separator: " ").drop { $0 != "cluster" }.prefix { $0 != "-j" }.joined(separator: " ")
        }
        #expect(Set(shares).count == count)
        for rule in rules {
            let words = rule.split(separator: " ")
            for (index, word) in words.enumerated() where word == "--cluster-total-nodes" {
                let total = try #require(Int(words[index + 1]))
                let node = try #require(Int(words[index + 3]))
                #expect((2...32).contains(total) && (1...total).contains(node))
            }
        }
    }
}

@Suite("Tools of the system")
struct ChildProcessTests {
    @Test("take their input, however long, and give their output and status")
    func input() async throws {
        let text = [UInt8](repeating: UInt8(ascii: "x"), count: 3 << 20)
        let echoed = try await ChildProcess(program: "cat", arguments: [], input: text).run()
        #expect(echoed.status == 0 && echoed.standardOutput == text)
        let failed = try await ChildProcess(program: "sh", arguments: ["-c", "echo no >&2; exit 3"], input: text).run()
        #expect(failed.status == 3 && failed.standardError == "no\n")
    }

    @Test("are killed at the deadline, with what they started")
    func deadline() async throws {
        let process = ChildProcess(
            program: "sh",
            arguments: ["-c", "sleep 100 & sleep 100"],
            timeLimit: .milliseconds(50)
        )
        do {
            _ = try await process.run()
            Issue.record("ran to its end")
        } catch {
            #expect((error as? LinuxNetworkError)?.code == .timeout)
        }
    }

    @Test("that are not there are named")
    func missing() async throws {
        do {
            _ = try await ChildProcess(program: "em-no-such-tool", arguments: []).run()
            Issue.record("ran")
        } catch {
            #expect("\(error)".contains("em-no-such-tool is not installed"))
        }
    }
}
