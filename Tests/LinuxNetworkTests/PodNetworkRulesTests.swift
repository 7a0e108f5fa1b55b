import Glibc
import MeshCore
import MeshTesting
import Testing

@testable import LinuxNetwork

/// Rules by which packets of pods keep their sources, in namespaces that the test makes.
@Suite("Rules of the network of pods")
struct PodNetworkRulesTests {
    private final class Host {
        let name = "empr\(getpid())x\(UInt16.random(in: 0...UInt16.max))"
        let namespace: NetworkNamespace

        init() throws {
            guard geteuid() == 0 else { throw LabError(message: "kernel tests need root: run them with sudo") }
            try shell("ip netns add \(self.name)")
            self.namespace = try NetworkNamespace(named: self.name)
        }

        deinit { _ = try? shell("ip netns del \(self.name)") }

        func run(_ command: String) throws -> String { try shell("ip netns exec \(self.name) \(command)") }

        func rules(_ backend: String) -> PodNetworkRules {
            PodNetworkRules(
                device: "edge_tun0",
                backend: backend,
                forwarding: ForwardAcceptance(namespace: self.namespace),
                namespace: self.namespace
            )
        }
    }

    @Test("are there once, come back, and go", arguments: ["nftables", "iptables"])
    func life(backend: String) async throws {
        let host = try Host()
        let rules = host.rules(backend)
        for _ in 0..<2 { #expect(await rules.ensure() == []) }
        let found = try await rules.find()
        #expect(found.count == (backend == "nftables" ? 2 : 4), "\(found)")
        #expect(try host.run("cat /proc/sys/net/ipv4/ip_forward") == "1\n")
        // Another agent takes over what a killed one left.
        let next = host.rules(backend)
        #expect(await next.ensure() == [])
        #expect(try await next.find() == found)

        let leftovers = Leftovers(bridgeAddress: .v4(.loopback), namespace: host.namespace)
        #expect(await leftovers.find().found == found)
        // While there is the device, there is its agent.
        try shell("ip -n \(host.name) link add edge_tun0 type veth peer name other0")
        #expect(await leftovers.remove().kept.count == found.count)
        try shell("ip -n \(host.name) link del edge_tun0")
        #expect(await leftovers.remove().found == found)
        #expect(try await next.find().isEmpty)

        #expect(await next.ensure() == [])
        #expect(try await next.find() == found)
        try await next.remove()
        #expect(try await next.find().isEmpty)
    }

    @Test("are read and written by nft, before all that masquerade")
    func listing() async throws {
        let host = try Host()
        #expect(await host.rules("nftables").ensure() == [])
        let listing = try host.run("nft list ruleset")
        for line in [
            "oifname \"edge_tun0\" snat to ip saddr", "oifname \"edge_tun0\" snat to ip6 saddr",
            "iifname \"edge_tun0\" snat to ip saddr", "iifname \"edge_tun0\" snat to ip6 saddr",
            "iifname \"edge_tun0\" ct mark set",
        ] {
            #expect(listing.contains(line), "\(line): \(listing)")
        }
        _ = try host.run("sh -c 'nft -s list ruleset > /tmp/\(host.name); nft flush ruleset; nft -f /tmp/\(host.name)'")
        #expect(try host.run("nft list ruleset") == listing)
        try shell("rm /tmp/\(host.name)")
    }

    @Test("keep sources both ways, whatever masquerades behind them", arguments: ["nftables", "iptables"])
    func sources(backend: String) async throws {
        let host = try Host()
        let (far, pod) = ("\(host.name)f", "\(host.name)p")
        defer { _ = try? shell("ip netns del \(far); ip netns del \(pod)") }
        for (namespace, device, network) in [(far, "edge_tun0", "10.9.0"), (pod, "cni0", "10.8.0")] {
            try shell("ip netns add \(namespace)")
            try shell("ip -n \(host.name) link add \(device) type veth peer name eth0 netns \(namespace)")
            try shell("ip -n \(host.name) addr add \(network).1/24 dev \(device)")
            try shell("ip -n \(host.name) link set \(device) up")
            try shell("ip -n \(namespace) addr add \(network).2/24 dev eth0")
            try shell("ip -n \(namespace) link set eth0 up")
            try shell("ip -n \(namespace) route add default via \(network).1")
        }
        _ = try host.run("iptables -t nat -A POSTROUTING -j MASQUERADE")
        #expect(await host.rules(backend).ensure() == [])
        for (namespace, target) in [(far, "10.8.0.2"), (pod, "10.9.0.2")] {
            try shell("ip netns exec \(namespace) busybox ping -c 1 -W 20 \(target)")
        }
        let flows = try host.run("conntrack -L -p icmp")
        #expect(flows.contains("src=10.9.0.2 dst=10.8.0.2") && flows.contains("src=10.8.0.2 dst=10.9.0.2"))
        #expect(!flows.contains("dst=10.8.0.1") && !flows.contains("dst=10.9.0.1"), "\(flows)")
    }

    @Test("are made by others where the backend is none")
    func none() async throws {
        let host = try Host()
        let rules = host.rules("none")
        #expect(await rules.ensure() == [])
        #expect(try await rules.find().isEmpty)
    }
}
