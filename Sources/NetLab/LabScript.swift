import MeshCore

/// The `ip -batch` and `nft` input that builds a plan.
struct LabScript: Sendable, Hashable {
    struct Section: Sendable, Hashable {
        var namespace: String
        var commands: [String] = []
        var sysctls: [Sysctl] = []
        var nftables = ""
    }

    struct Sysctl: Sendable, Hashable {
        /// A path under `/proc/sys/net`.
        var key: String
        var value: String
        /// Whether a kernel without this key can be lived with.
        var isOptional = false
    }

    /// Creates all namespaces and the cables between them.
    var machine: [String] = []
    /// What follows inside each namespace, in the order of the plan.
    var sections: [Section] = []

    init(_ plan: LabPlan) {
        self.machine = plan.namespaces.map { "netns add \($0)" }
        var portCommands: [String: [String]] = [:]
        for cable in plan.cables {
            let mtu = cable.interface.mtu.map { "mtu \($0) " } ?? ""
            self.machine.append(
                "link add name \(cable.interface.name) \(mtu)netns \(plan.namespace(of: cable.host)) "
                    + "type veth peer name \(cable.port) \(mtu)netns \(cable.farNamespace)"
            )
            portCommands[cable.farNamespace, default: []] += Self.plugIn(cable.port, to: cable.bridge)
        }
        if !plan.lans.isEmpty {
            self.sections.append(Self.switchSection(plan, ports: portCommands[plan.switchNamespace] ?? []))
        }
        for host in plan.hosts {
            let namespace = plan.namespace(of: host.name)
            self.sections.append(Self.section(for: host, namespace: namespace, ports: portCommands[namespace] ?? []))
        }
    }

    static func plugIn(_ port: String, to bridge: String) -> [String] {
        // Hairpin: a pod may reach itself through its service.
        ["link set dev \(port) master \(bridge) up", "link set dev \(port) type bridge_slave hairpin on"]
    }

    private static func switchSection(_ plan: LabPlan, ports: [String]) -> Section {
        var section = Section(namespace: plan.switchNamespace)
        for (index, lan) in plan.lans.enumerated() {
            section.commands += [
                "link add name lan\(index) type bridge mcast_snooping 0", "link set dev lan\(index) alias \(lan) up",
            ]
        }
        section.commands += ports
        // A LAN is a switch: frames that cross it are no business of anyone's packet filter.
        section.sysctls = ["iptables", "ip6tables", "arptables"].map {
            Sysctl(key: "bridge/bridge-nf-call-\($0)", value: "0", isOptional: true)
        }
        // Nor does a switch say anything itself, through the ports that are between a cable and a bridge.
        section.sysctls.append(Sysctl(key: "ipv6/conf/default/disable_ipv6", value: "1", isOptional: true))
        return section
    }

    private static func section(for host: LabPlan.Host, namespace: String, ports: [String]) -> Section {
        var section = Section(namespace: namespace)
        section.commands = ["link set dev lo up"]
        for (index, bridge) in host.bridges.enumerated() {
            // A bridge without an address of its own takes that of its lowest port, and changes it as ports come.
            section.commands.append(
                "link add name \(bridge.name) address 02:00:00:00:00:\(index < 10 ? "0" : "")\(index) "
                    + "type bridge mcast_snooping 0"
            )
            section.commands += bridge.addresses.map { Self.addressCommand($0, on: bridge.name) }
            section.commands.append("link set dev \(bridge.name) up")
        }
        section.commands += ports
        for interface in host.interfaces {
            section.commands += interface.addresses.map { Self.addressCommand($0, on: interface.name) }
            section.commands.append("link set dev \(interface.name) up")
        }
        section.commands += host.routes.map { "route add \($0.destination) via \($0.gateway)" }

        if host.forwardsPackets {
            section.sysctls += [
                Sysctl(key: "ipv4/ip_forward", value: "1"),
                Sysctl(key: "ipv6/conf/all/forwarding", value: "1", isOptional: true),
            ]
        }
        if !host.bridges.isEmpty {
            // As on a Kubernetes node: without it the answer of a pod to a pod of the same bridge would pass
            // the translation of addresses by.
            section.sysctls += [
                Sysctl(key: "bridge/bridge-nf-call-iptables", value: "1"),
                Sysctl(key: "bridge/bridge-nf-call-ip6tables", value: "1", isOptional: true),
            ]
        }
        section.sysctls += host.sysctls.sorted { $0.key < $1.key }.map { Sysctl(key: $0.key, value: $0.value) }

        if !host.masqueradedInterfaces.isEmpty {
            let names = host.masqueradedInterfaces.map { "\"\($0)\"" }.joined(separator: ", ")
            section.nftables = """
                table inet router {
                    chain postrouting {
                        type nat hook postrouting priority srcnat; policy accept;
                        oifname { \(names) } masquerade
                    }
                }

                """
        }
        section.nftables += host.nftables
        return section
    }

    static func addressCommand(_ address: InterfaceAddress, on interface: String) -> String {
        // Duplicate address detection would keep an IPv6 address unusable for a second or two.
        "addr add \(address) dev \(interface)\(address.address.family == .v6 ? " nodad" : "")"
    }
}
