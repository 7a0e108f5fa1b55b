import Logging
import MeshCore
import MeshTesting
import Synchronization
import Testing

@testable import LinuxNetwork

@Suite("Rules that outlive their maker", .serialized)
struct ReloadTests {
    @Test("nft reads back what it lists, and that serves")
    func roundTrip() async throws {
        let node = try LabNode()
        let forwarding = ForwardAcceptance(namespace: node.namespace)
        let program = try node.namespace.run { try NFTablesProgram(forwarding: forwarding) }
        let rules = try everyKind()
        try await program.install(listeners: listeners, rules: rules)
        // Entries of affinity, and IPv6 neighbours.
        for pod in 1...3 { _ = try node.call("out", 2, "fd09::\(10 + pod)", 8080) }
        func serve(_ when: String) throws {
            // The pods answer no UDP over IPv6.
            let served = rules.filter { frontend, rule in
                guard case .balance = rule.action else { return false }
                return frontend.port != 81 && (frontend.transport == .tcp || frontend.family == .v4)
            }.keys.sorted()
            let targets = served.map { frontend in
                let address =
                    switch frontend.match {
                    case .address(let cluster): "\(cluster)"
                    case .nodePort(let family): family == .v4 ? "10.8.0.1" : "fd08::1"
                    }
                return (address, Int(frontend.port), frontend.transport)
            }
            let answers = try node.callEach("out", targets)
            #expect(served.count > 100 && answers.count == served.count)
            for (frontend, answer) in zip(served, answers) where !answer.hasPrefix("p") {
                Issue.record("\(when): \(frontend): \(answer)")
            }
        }
        try serve("as made")
        let file = "/tmp/edgemesh-test-ruleset-\(node.name)"
        try node.run("", "sh -c 'nft list ruleset > \(file); nft -c -f \(file)'")
        #expect(!(try shell("cat \(file)")).contains("invalid type"))
        try node.run("", "nft flush ruleset")
        #expect(try node.call("out", 1, "10.96.1.3", 80).keys.first?.hasPrefix("p") == false, "nothing is there")
        try node.run("", "sh -c 'nft -c -f \(file) && nft -f \(file)'")
        try serve("loaded again")
        // The same words again, but for counters and times.
        let differences = try node.run(
            "",
            "sh -c \"strip() { sed -E 's/(packets|bytes|expires) [0-9a-z]+//g'; }; nft list ruleset | strip > \(file).2; strip < \(file) | diff - \(file).2; rm \(file) \(file).2\"",
            allowFailure: true
        )
        #expect(!differences.contains("dnat"), "\(differences)")
    }

    @Test("clients keep their backends when another process takes the rules over", arguments: [false, true])
    func adoption(nodePort: Bool) async throws {
        let node = try LabNode()
        let sticky =
            try nodePort
            ? KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 30_080) : frontend("10.96.0.4:80")
        let (address, port) = nodePort ? ("10.8.0.1", 30_080) : ("10.96.0.4", 80)
        let rules = [sticky: balance(.roundRobin, affinity: 3_600)]
        try await node.namespace.run { try NFTablesProgram() }.install(listeners: listeners, rules: rules)
        let first = try node.call("out", 2, address, port)
        #expect(first.count == 1)
        for _ in 0..<3 {
            try await node.namespace.run { try NFTablesProgram() }.install(listeners: listeners, rules: rules)
            #expect(try node.call("out", 2, address, port).keys == first.keys)
        }
        #expect(try node.run("", "nft list table ip edgemesh").contains("timeout 1h expires 59m"))
    }
}

@Suite("Rules on nodes of every kind", .serialized)
struct HostileNodeTests {
    @Test(
        "a FORWARD policy DROP of iptables does not stop flows to services",
        arguments: [IPTablesVariant.nft, .legacy]
    )
    func forwardPolicy(variant: IPTablesVariant) async throws {
        let node = try LabNode(pods: 1)
        let tool = variant.rawValue
        try node.run("", "sh -c '\(tool) -A FORWARD -s 192.0.2.0/24 -j ACCEPT; \(tool) -P FORWARD DROP'")
        let before = try node.run("", "\(tool) -S")
        let rules = try [frontend("10.96.0.1:80"): balance(.random, 1...1)]
        let plain = try node.namespace.run { try NFTablesProgram() }
        try await plain.install(listeners: listeners, rules: rules)
        #expect(try node.call("out", 1, "10.96.0.1", 80) == ["TIMEOUT": 1], "the firewall is in force")
        let forwarding = ForwardAcceptance(namespace: node.namespace)
        let program = try node.namespace.run { try NFTablesProgram(forwarding: forwarding) }
        try await program.install(listeners: listeners, rules: rules)
        #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2])
        #expect(try node.call("out", 1, "10.9.0.11", 8080) == ["TIMEOUT": 1], "other flows are still dropped")
        try node.run(
            "",
            "nft 'add table ip other; add chain ip other pre { type nat hook prerouting priority -100; }; add rule ip other pre ip daddr 10.77.0.1 tcp dport 80 dnat to 10.9.0.11:8080'"
        )
        #expect(try node.call("out", 1, "10.77.0.1", 80) == ["TIMEOUT": 1], "what others translate is none of ours")
        // A firewall that restarts, or puts its own rules first.
        try node.run("", "sh -c '\(tool) -F FORWARD; \(tool) -I FORWARD -j DROP'")
        #expect(try node.call("out", 1, "10.96.0.1", 80) == ["TIMEOUT": 1])
        try await forwarding.ensure()
        let mended = try node.run("", "\(tool) -S FORWARD")
        try await forwarding.ensure()
        #expect(try node.run("", "\(tool) -S FORWARD") == mended, "once is enough")
        #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2])
        // A start of the next agent leaves it, a cleanup takes it away.
        let leftovers = Leftovers(bridgeAddress: listeners.tcpV4.address, namespace: node.namespace)
        _ = await leftovers.removeStale(adoptedBy: .nftables)
        #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2])
        #expect(await leftovers.find().found.contains { $0.contains("EDGEMESH-FORWARD") })
        try node.run("", "sh -c '\(tool) -D FORWARD -j DROP; \(tool) -A FORWARD -s 192.0.2.0/24 -j ACCEPT'")
        try await program.remove()
        #expect(try node.run("", "\(tool) -S") == before)
    }

    @Test("a firewall that closes later is opened within the interval; one that cannot be read is told once")
    func forwardingInterval() async throws {
        let node = try LabNode(pods: 1)
        let lines = Mutex<[String]>([])
        let logger = Logger(label: "test") { _ in LineHandler { line in lines.withLock { $0.append(line) } } }
        let program = try node.namespace.run {
            try NFTablesProgram(
                forwarding: ForwardAcceptance(namespace: node.namespace, logger: logger),
                forwardingInterval: .milliseconds(20)
            )
        }
        try await program.install(listeners: listeners, rules: [frontend("10.96.0.1:80"): balance(.random, 1...1)])
        let loop = Task { try await program.waitForLoss() }
        defer { loop.cancel() }
        func until(_ condition: () throws -> Bool) async throws {
            while try !condition() { try await Task.sleep(for: .milliseconds(20)) }
        }
        try node.run("", "iptables-nft -P FORWARD DROP")
        try await until { try node.run("", "iptables-nft -S FORWARD").contains("EDGEMESH-FORWARD") }
        #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2])
        // What iptables has no words for makes its table unreadable to it.
        try node.run("", "nft add rule ip filter FORWARD fib daddr type local accept")
        try await until { lines.withLock { !$0.isEmpty } }
        #expect(lines.withLock { $0.first?.contains("FORWARD") } == true)
        try node.run("", "sh -c 'nft flush chain ip filter FORWARD; iptables-nft -A FORWARD -s 192.0.2.0/24 -j DROP'")
        try await until { lines.withLock { $0.count >= 2 } }
        #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2])
        #expect(lines.withLock { $0.count } == 2, "one for the failure, one for its end")
    }

    @Test("the iptables program opens FORWARD by itself", arguments: [IPTablesVariant.nft, .legacy])
    func forwardPolicyOfIPTables(variant: IPTablesVariant) async throws {
        let node = try LabNode(pods: 1)
        try node.run("", "\(variant.rawValue) -P FORWARD DROP")
        let program = IPTablesProgram(variant: variant, namespace: node.namespace)
        try await program.install(
            listeners: listeners,
            rules: [
                frontend("10.96.0.1:80"): balance(.random, 1...1), frontend("10.96.0.2:80"): KernelRule(action: .drop),
            ]
        )
        #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2])
        #expect(try node.call("out", 1, "10.96.0.2", 80) == ["TIMEOUT": 1])
        try node.run(
            "",
            "\(variant.rawValue) -t nat -A PREROUTING -d 10.77.0.1 -p tcp --dport 80 -j DNAT --to-destination 10.9.0.11:8080"
        )
        #expect(try node.call("out", 1, "10.77.0.1", 80) == ["TIMEOUT": 1], "what others translate is none of ours")
    }

    @Test("a foreign nftables chain that drops needs a rule of its own, which firewalld has")
    func foreignChain() async throws {
        let node = try LabNode(pods: 1)
        let forwarding = ForwardAcceptance(namespace: node.namespace)
        let program = try node.namespace.run { try NFTablesProgram(forwarding: forwarding) }
        try await program.install(listeners: listeners, rules: [frontend("10.96.0.1:80"): balance(.random, 1...1)])
        try node.run(
            "",
            "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy drop; }; add rule inet firewalld filter_FORWARD ct state established,related accept'"
        )
        #expect(try node.call("out", 1, "10.96.0.1", 80) == ["TIMEOUT": 1])
        for rule in ["ct status dnat accept", "'ct mark & 0x04000000 != 0 accept'"] {
            try node.run("", "nft insert rule inet firewalld filter_FORWARD \(rule)")
            #expect(try node.call("out", 2, "10.96.0.1", 80) == ["p1": 2], "\(rule)")
            try node.run("", "nft flush chain inet firewalld filter_FORWARD")
            #expect(try node.call("out", 1, "10.96.0.1", 80) == ["TIMEOUT": 1])
        }
    }

    @Test(
        "addresses of services on the node itself, as kube-proxy's mode ipvs has them, are balanced by us",
        arguments: [ServiceProgrammingBackend.nftables, .iptables(.nft), .iptables(.legacy)]
    )
    func localServiceAddresses(backend: ServiceProgrammingBackend) async throws {
        let node = try LabNode()
        // The lab's router has its default route where the client is; one that sends a redirect sends no refusal with it.
        try node.run("", "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.vout.send_redirects=0")
        let program: any ServiceProgramming =
            switch backend {
            case .iptables(let variant): IPTablesProgram(variant: variant, namespace: node.namespace)
            default: try node.namespace.run { try NFTablesProgram() }
            }
        // Node ports of the same numbers that refuse and drop.
        let refused = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 80)
        let dropped = KernelFrontend(match: .nodePort(.v4), transport: .tcp, port: 81)
        try await program.install(
            listeners: listeners,
            rules: [
                frontend("10.96.0.1:80"): balance(.roundRobin), frontend("10.96.0.2:80"): KernelRule(action: .reject),
                frontend("10.96.0.1:81"): balance(.roundRobin),
                refused: KernelRule(action: .reject), dropped: KernelRule(action: .drop),
            ]
        )
        try node.run(
            "",
            "sh -c 'ip link add kube-ipvs0 type bridge; ip addr add 10.96.0.1/32 dev kube-ipvs0; ip addr add 10.96.0.2/32 dev kube-ipvs0'"
        )
        for place in ["", "out", "p1"] {
            #expect(try node.call(place, 6, "10.96.0.1", 80) == ["p1": 2, "p2": 2, "p3": 2], "from \(place)")
            #expect(try node.call(place, 6, "10.96.0.1", 81) == ["p1": 2, "p2": 2, "p3": 2], "from \(place)")
            #expect(try node.call(place, 1, "10.96.0.2", 80) == ["ECONNREFUSED": 1], "from \(place)")
        }
        #expect(try node.call("out", 1, "10.8.0.1", 80) == ["ECONNREFUSED": 1])
        #expect(try node.call("out", 1, "10.8.0.1", 81) == ["TIMEOUT": 1])
        try await program.update([refused: nil, dropped: nil])
        #expect(try node.call("out", 6, "10.96.0.1", 80) == ["p1": 2, "p2": 2, "p3": 2])
    }

    @Test("without a default route pods reach services, and processes of the node once the block has a route")
    func noDefaultRoute() async throws {
        let node = try LabNode(pods: 1)
        let program = try node.namespace.run { try NFTablesProgram() }
        try await program.install(listeners: listeners, rules: [frontend("10.96.0.1:80"): balance(.random, 1...1)])
        try node.run("", "ip route del default")
        #expect(try node.call("", 1, "10.96.0.1", 80) == ["ENETUNREACH": 1])
        #expect(try node.call("p1", 1, "10.96.0.1", 80) == ["p1": 1])
        try node.run("", "ip route add 10.96.0.0/16 dev vout")
        #expect(try node.call("", 1, "10.96.0.1", 80) == ["p1": 1])
    }

    @Test(
        "a frontend of iptables that is refused and served in turn is never left untranslated",
        arguments: [IPTablesVariant.nft, .legacy]
    )
    func tableOrder(variant: IPTablesVariant) async throws {
        let node = try LabNode(pods: 1)
        let program = IPTablesProgram(variant: variant, namespace: node.namespace)
        let service = try frontend("10.96.0.1:80")
        try await program.install(listeners: listeners, rules: [service: balance(.random, 1...1)])
        let path = "/tmp/edgemesh-test-order-\(node.name)"
        try node.run(
            "out",
            "sh -c 'setsid python3 /tmp/edgemesh-test-client.py 100000 10.96.0.1 80 >\(path) 2>&1 & echo $! >\(path).pid; sleep 0.5'"
        )
        for round in 0..<40 {
            try await program.update([service: round % 2 == 0 ? KernelRule(action: .reject) : balance(.random, 1...1)])
        }
        let text = try shell("kill $(cat \(path).pid); cat \(path); rm \(path) \(path).pid")
        let answers = text.split(separator: "\n").reduce(into: [String: Int]()) {
            $0[String($1.prefix { $0 != " " }), default: 0] += 1
        }
        print("\(variant.rawValue): \(answers)")
        #expect((answers["p1"] ?? 0) > 10 && (answers["ECONNREFUSED"] ?? 0) > 10)
        #expect(answers["TIMEOUT"] == nil)
    }
}

/// Gives each line to a closure.
private struct LineHandler: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.trace
    let take: @Sendable (String) -> Void

    init(_ take: @escaping @Sendable (String) -> Void) { self.take = take }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { self.metadata[key] }
        set { self.metadata[key] = newValue }
    }

    func log(event: LogEvent) { self.take("\(event.message) \(event.metadata ?? [:])") }
}
