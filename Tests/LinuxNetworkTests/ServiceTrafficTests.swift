import MeshCore
import Testing

@testable import LinuxNetwork

func backend(_ number: Int) -> TransportAddress {
    TransportAddress(.v4(IPv4Address(10, 9, 0, UInt8(10 + number))), 8080)
}

func frontend(_ text: String, _ transport: TransportProtocol = .tcp) throws -> KernelFrontend {
    guard let address = TransportAddress(text) else { throw LabError(message: text) }
    return KernelFrontend(match: .address(address.address), transport: transport, port: address.port)
}

func balance(
    _ policy: KernelBalancing.Policy,
    _ numbers: ClosedRange<Int> = 1...3,
    affinity: Int? = nil,
    masquerade: Bool = false
) -> KernelRule {
    let backends = numbers.map(backend)
    return KernelRule(
        action: .balance(
            KernelBalancing(
                policy: policy,
                backends: backends,
                affinitySeconds: affinity,
                localBackends: Set(backends.map(\.address)),
                masquerade: masquerade
            )
        )
    )
}

let listeners = ProxyListeners(
    tcpV4: TransportAddress(.v4(IPv4Address(169, 254, 96, 16)), 7001),
    udpV4: TransportAddress(.v4(IPv4Address(169, 254, 96, 16)), 7002)
)

@Suite("Service rules carry real traffic", .serialized)
struct ServiceTrafficTests {
    @Test("nftables: policies, node ports, hairpin, refusal, affinity, foreign rules, recovery")
    func traffic() async throws {
        let node = try LabNode()
        let program = try node.namespace.run { try NFTablesProgram() }
        // Rules like kube-proxy's, there first and pointing nowhere: they must not win.
        try node.run(
            "",
            "nft 'add table ip other; add chain ip other pre { type nat hook prerouting priority -100; }; add rule ip other pre ip daddr 10.96.0.0/16 dnat to 192.0.2.1; add chain ip other out { type nat hook output priority -100; }; add rule ip other out ip daddr 10.96.0.0/16 dnat to 192.0.2.1'"
        )
        var rules = try commonRules()
        rules[try frontend("10.96.0.4:80")] = balance(.random, affinity: 3_600)
        try await program.install(listeners: listeners, rules: rules)

        try expectCommonTraffic(node)

        // Proxy: something of ours listens on the bridge.
        try node.namespace.run {
            try RouteNetlink.ensureBridge("edgemesh0", addresses: [listeners.tcpV4.address])
            try RouteNetlink.ensureBridge("edgemesh0", addresses: [listeners.tcpV4.address])
            let link = try RouteNetlink.links().first { $0.name == "edgemesh0" }
            #expect(link?.kind == "bridge" && link?.isUp == true)
            #expect(
                try RouteNetlink.addresses().filter { $0.linkIndex == link?.index }.map(\.address).contains(
                    listeners.tcpV4.address
                )
            )
        }
        try startProxy(node)
        for place in ["", "out", "p1"] { #expect(try node.call(place, 1, "10.96.0.9", 80) == ["proxied": 1]) }
        #expect(try node.call("", 1, "127.0.0.1", 30080) == ["proxied": 1], "loopback node port goes to the proxy")

        // Affinity: the same backend until the timeout; a removed backend is left at once.
        let first = try node.call("out", 20, "10.96.0.4", 80)
        #expect(first.count == 1)
        let chosen = try #require(first.keys.first.flatMap { Int($0.dropFirst()) })
        let others = (1...3).filter { $0 != chosen }.map(backend)
        try await program.update([
            frontend("10.96.0.4:80"): KernelRule(
                action: .balance(KernelBalancing(policy: .random, backends: others, affinitySeconds: 3_600))
            )
        ])
        let second = try node.call("out", 20, "10.96.0.4", 80)
        #expect(second.count == 1 && second.keys != first.keys, "\(second)")

        let listing = try node.run("", "nft list ruleset")
        for text in [
            "10.96.0.1 . tcp . 80", "goto random-3", "goto round-robin-3-tcp-80-10.96.0.1", "30080",
            "jhash ip saddr mod 3",
        ] {
            #expect(listing.contains(text), "\(text) in \(listing)")
        }
        let counters = try await program.counters()
        #expect(try counters[frontend("10.96.0.1:80")]?.flows == 90)

        // A firewall restart takes the table away; it comes back with the next change, or on request.
        try node.run("", "nft flush ruleset")
        #expect(try await program.verify() == false)
        try await program.update([frontend("10.96.0.10:80"): balance(.random)])
        #expect(try await program.verify())
        #expect(try node.call("out", 3, "10.96.0.1", 80).count == 3)
        #expect(try node.call("out", 3, "10.96.0.10", 80).values.reduce(0, +) == 3)
        // A crash leaves the table; the next process takes over with other rules in one step.
        let next = try node.namespace.run { try NFTablesProgram() }
        try await next.install(listeners: listeners, rules: [frontend("10.96.0.2:80"): balance(.random, 2...2)])
        #expect(try node.call("out", 3, "10.96.0.2", 80) == ["p2": 3])
        #expect(!(try node.run("", "nft list ruleset")).contains("10.96.0.1 "))
        try await next.update([frontend("10.96.0.2:80"): nil])
        #expect(!(try node.run("", "nft list ruleset")).contains("single"), "unused chains go")
        try await next.remove()
        try await next.remove()
        #expect(!(try node.run("", "nft list ruleset")).contains("edgemesh"))
    }
}
