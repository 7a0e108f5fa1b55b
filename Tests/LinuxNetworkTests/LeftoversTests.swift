import Glibc
import MeshCore
import Testing

@testable import LinuxNetwork

/// The rules of the Go implementation with a cluster IP and a node port, and rules that are not its.
private let original = """
    *nat
    :KUBE-PORTALS-CONTAINER - [0:0]
    :KUBE-PORTALS-HOST - [0:0]
    :KUBE-NODEPORT-CONTAINER - [0:0]
    :KUBE-NODEPORT-HOST - [0:0]
    :KUBE-SERVICES - [0:0]
    -A PREROUTING -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER
    -A PREROUTING -j KUBE-SERVICES
    -A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-CONTAINER
    -A OUTPUT -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-HOST
    -A OUTPUT -m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-HOST
    -A KUBE-PORTALS-CONTAINER -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j DNAT --to-destination 169.254.96.16:40001
    -A KUBE-PORTALS-HOST -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j DNAT --to-destination 169.254.96.16:40001
    -A KUBE-NODEPORT-CONTAINER -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j DNAT --to-destination 169.254.96.16:40001
    -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j DNAT --to-destination 192.0.2.1:6443
    COMMIT
    *filter
    :KUBE-NODEPORT-NON-LOCAL - [0:0]
    -A INPUT -m comment --comment "Ensure that non-local NodePort traffic can flow" -j KUBE-NODEPORT-NON-LOCAL
    -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
    -A KUBE-NODEPORT-NON-LOCAL -p tcp -m comment --comment "default/web:http" -m tcp --dport 40001 -m state --state NEW -j ACCEPT
    COMMIT

    """

@Suite("Leftovers")
struct LeftoversTests {
    private let address = IPAddress.v4(IPv4Address(169, 254, 96, 16))

    private func namespace() throws -> NetworkNamespace {
        guard geteuid() == 0 else { throw LabError(message: "kernel tests need root: run them with sudo") }
        return try NetworkNamespace.anonymous()
    }

    @Test("of the Go implementation go, other rules stay", arguments: [IPTablesVariant.nft, .legacy])
    func ofTheOriginal(variant: IPTablesVariant) async throws {
        let namespace = try self.namespace()
        let tools = IPTablesTools(variant: variant, namespace: namespace)
        try await tools.restore(original, .v4)
        let name = self.address
        try namespace.run { try RouteNetlink.ensureBridge("edgemesh0", addresses: [name]) }
        let leftovers = Leftovers(bridgeName: "edgemesh0", bridgeAddress: self.address, namespace: namespace)

        let found = await leftovers.find()
        #expect(found.found.count == 6 && found.kept.isEmpty && found.failures.isEmpty, "\(found)")
        #expect(
            found.found.contains(
                "\(variant.rawValue) IPv4 chain nat/KUBE-PORTALS-CONTAINER with 1 rules, called from PREROUTING"
            )
        )
        #expect(await leftovers.find() == found, "finding changes nothing")

        // An agent that uses this variant itself takes them over.
        #expect(await leftovers.removeStale(adoptedBy: .iptables(variant)) == Leftovers.Report())
        let stale = await leftovers.removeStale(adoptedBy: .nftables)
        #expect(stale.found.count == 5 && !stale.found.contains { $0.hasPrefix("bridge") })
        let dump = try await tools.save(.v4)
        #expect(dump.tables["nat"]?["PREROUTING"]?.rules == ["-j KUBE-SERVICES"])
        #expect(dump.tables["nat"]?["OUTPUT"]?.rules == [])
        #expect(dump.tables["nat"]?["KUBE-SERVICES"]?.rules.count == 1)
        #expect(dump.tables["filter"]?["INPUT"]?.rules == ["-p tcp -m tcp --dport 22 -j ACCEPT"])
        #expect(dump.tables.values.flatMap(\.keys).filter(IPTablesChain.isOurs).isEmpty)

        #expect(await leftovers.remove().found == ["bridge edgemesh0 with 169.254.96.16"])
        #expect(await leftovers.remove() == Leftovers.Report())
    }

    @Test("of our own programs go")
    func ofOurs() async throws {
        let namespace = try self.namespace()
        let rules = try [
            frontend("10.96.0.1:80"): balance(.random), frontend("10.96.0.2:80"): KernelRule(action: .reject),
        ]
        try await namespace.run { try NFTablesProgram() }.install(listeners: listeners, rules: rules)
        for variant in [IPTablesVariant.nft, .legacy] {
            try await IPTablesProgram(variant: variant, namespace: namespace).install(
                listeners: listeners,
                rules: rules
            )
        }
        let leftovers = Leftovers(bridgeName: "edgemesh0", bridgeAddress: self.address, namespace: namespace)
        #expect(await leftovers.find().found.count == 19)
        let adopted = await leftovers.removeStale(adoptedBy: .iptables(.nft))
        #expect(adopted.found.first == "nftables table ip edgemesh" && adopted.found.count == 10, "\(adopted)")
        let rest = await leftovers.remove()
        #expect(rest.found.count == 9 && rest.kept.isEmpty && rest.failures.isEmpty, "\(rest)")
        #expect(await leftovers.find() == Leftovers.Report())
    }

    @Test("that may be kube-proxy's stay, and so does a device that is not ours")
    func ofOthers() async throws {
        let namespace = try self.namespace()
        let tools = IPTablesTools(variant: .nft, namespace: namespace)
        let kubeProxy = String(original.replacing("169.254.96.16", with: "10.0.0.5"))
        try await tools.restore(kubeProxy, .v4)
        let before = try await tools.save(.v4)
        try namespace.run { try RouteNetlink.ensureBridge("edgemesh0", addresses: [.v4(IPv4Address(192, 0, 2, 5))]) }
        let report = await Leftovers(bridgeName: "edgemesh0", bridgeAddress: self.address, namespace: namespace)
            .remove()
        #expect(report.found.isEmpty && report.failures.isEmpty, "\(report)")
        #expect(report.kept.count == 6, "\(report)")
        #expect(report.kept.contains { $0.contains("nat/KUBE-PORTALS-HOST") && $0.contains("10.0.0.5") })
        #expect(report.kept.last == "bridge edgemesh0 is kept: it does not have the address 169.254.96.16")
        #expect(try await tools.save(.v4) == before)
    }
}

@Suite("Capabilities of the kernel")
struct KernelCapabilitiesTests {
    @Test("are found by trying")
    func probe() async throws {
        guard geteuid() == 0 else { throw LabError(message: "kernel tests need root: run them with sudo") }
        let namespace = try NetworkNamespace.anonymous()
        let found = await KernelCapabilities.probe(in: namespace)
        #expect(found.netAdmin.isAvailable)
        #expect(found.nfTables == .init(true, "nf_tables with all expressions needed"))
        #expect(found.nfTablesIPv6.isAvailable, "\(found.nfTablesIPv6.reason)")
        #expect(found.preferredIPTables == .nft)
        #expect(found.conntrack.isAvailable, "\(found.conntrack.reason)")
        #expect(found.kernelVersion.first?.isNumber == true)
        let forwarding = try namespace.run { readSmallFile("/proc/sys/net/ipv4/ip_forward") }
        #expect(found.ipForwarding.isAvailable == (forwarding?.first == "1"))
        #expect(try ServiceProgrammingBackend.choose(configured: "auto", found) == .nftables)
        #expect(try ServiceProgrammingBackend.choose(configured: "iptables", found) == .iptables(.nft))

        // A host whose firewall is in the legacy tables.
        let legacy = IPTablesTools(variant: .legacy, namespace: namespace)
        try await legacy.restore("*filter\n-A INPUT -s 192.0.2.1/32 -j DROP\nCOMMIT\n", .v4)
        #expect(await KernelCapabilities.probe(in: namespace).preferredIPTables == .legacy)
    }

    @Test("name what is missing")
    func missing() async throws {
        let found = await KernelCapabilities.probe(searchPath: "/nonexistent")
        #expect(found.preferredIPTables == nil)
        #expect(found.iptables[.nft]?.reason == "iptables-nft-restore is not installed")
        var none = found
        none.nfTables = .init(false, "nf_tables lacks maps")
        for (configured, words) in [
            ("auto", ["nf_tables lacks maps", "iptables-legacy-restore is not installed"]),
            ("iptables", ["iptables-nft-restore is not installed"]), ("nftables", ["nf_tables lacks maps"]),
            ("ipvs", ["none of auto, nftables, iptables, none"]),
        ] {
            do {
                Issue.record("\(configured): \(try ServiceProgrammingBackend.choose(configured: configured, none))")
            } catch {
                for word in words { #expect(error.message.contains(word), "\(configured)") }
            }
        }
        #expect(try ServiceProgrammingBackend.choose(configured: "none", none) == ServiceProgrammingBackend.none)
        none.preferredIPTables = .legacy
        #expect(try ServiceProgrammingBackend.choose(configured: "auto", none) == .iptables(.legacy))
    }
}
