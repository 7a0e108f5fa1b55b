import MeshCore
import Testing

@testable import NetLab

@Suite struct LabPlanTests {
    @Test func oneNodeBecomesNamespacesCablesAndAddresses() throws {
        var plan = LabPlan(name: "demo")
        plan.addLAN("lan")
        plan.addNode(
            "node-a",
            on: "lan",
            address: InterfaceAddress(IPv4Address(192, 168, 10, 11), prefixLength: 24),
            podBridge: InterfaceAddress(IPv4Address(10, 244, 1, 1), prefixLength: 24)
        )
        plan.addPod("pod", on: "node-a", address: InterfaceAddress(IPv4Address(10, 244, 1, 10), prefixLength: 24))
        try plan.validate()

        let script = LabScript(plan)
        #expect(
            script.machine == [
                "netns add emlab-demo-switch", "netns add emlab-demo-node-a", "netns add emlab-demo-pod",
                "link add name eth0 netns emlab-demo-node-a type veth peer name veth0 netns emlab-demo-switch",
                "link add name eth0 netns emlab-demo-pod type veth peer name veth1 netns emlab-demo-node-a",
            ]
        )
        let node = try #require(script.sections.first { $0.namespace == "emlab-demo-node-a" })
        #expect(node.commands.contains("addr add 10.244.1.1/24 dev cni0"))
        #expect(node.commands.contains("link set dev veth1 master cni0 up"))
        #expect(node.commands.contains("addr add 192.168.10.11/24 dev eth0"))
        #expect(node.sysctls.contains(.init(key: "ipv4/ip_forward", value: "1")))
        #expect(node.sysctls.contains(.init(key: "bridge/bridge-nf-call-iptables", value: "1")))
        let pod = try #require(script.sections.last)
        #expect(pod.commands.last == "route add 0.0.0.0/0 via 10.244.1.1")
        #expect(pod.sysctls.isEmpty)
    }

    @Test func settingsForAllHostsLeaveThoseOfOne() throws {
        var plan = LabPlan(name: "settings")
        plan.addLAN("lan")
        for (index, name) in ["a", "b"].enumerated() {
            let address = InterfaceAddress(IPv4Address(192, 168, 10, UInt8(index + 1)), prefixLength: 24)
            plan.addHost(name, on: "lan", address: address)
        }
        plan.setOnAllHosts(["ipv4/ip_default_ttl": "30"])
        plan.setOnAllHosts(["ipv4/ip_default_ttl": "40", "ipv4/tcp_congestion_control": "reno"])
        #expect(plan.hosts.count == 2)
        for host in plan.hosts {
            #expect(host.sysctls["ipv4/ip_default_ttl"] == "30")
            #expect(host.sysctls["ipv4/tcp_congestion_control"] == "reno")
        }
    }

    @Test func aRouterMasqueradesWhatLeaves() throws {
        var plan = LabPlan(name: "nat")
        plan.addLAN("wan")
        plan.addLAN("home")
        plan.addNATRouter(
            "router",
            inside: "home",
            insideAddress: InterfaceAddress(IPv4Address(192, 168, 1, 1), prefixLength: 24),
            outside: "wan",
            outsideAddress: InterfaceAddress(IPv4Address(203, 0, 113, 2), prefixLength: 24),
            gateway: .v4(IPv4Address(203, 0, 113, 1))
        )
        try plan.validate()
        let router = try #require(LabScript(plan).sections.last)
        #expect(router.nftables.contains("oifname { \"outside\" } masquerade"))
        #expect(router.commands.contains("route add 0.0.0.0/0 via 203.0.113.1"))
    }

    @Test(arguments: ["", "Upper", "a b", "-a", "a/b", "ünder", String(repeating: "a", count: 41)])
    func badNamesAreRefused(name: String) {
        #expect(throws: LabError.self) { try LabPlan(name: name).validate() }
    }

    @Test func contradictionsAreNamed() {
        var twice = LabPlan(name: "x")
        twice.add(.init(name: "a"))
        twice.add(.init(name: "a"))
        #expect { try twice.validate() } throws: { "\($0)".contains("two hosts are named 'a'") }

        var unattached = LabPlan(name: "x")
        unattached.addHost("a", on: "nowhere", address: InterfaceAddress(.loopback, prefixLength: 8))
        #expect { try unattached.validate() } throws: { "\($0)".contains("nowhere") }

        var longName = LabPlan(name: "x")
        var host = LabPlan.Host(name: "a")
        host.bridges = [.init(name: "sixteen-bytes-00", addresses: [])]
        longName.add(host)
        #expect { try longName.validate() } throws: { "\($0)".contains("sixteen-bytes-00") }
    }
}
