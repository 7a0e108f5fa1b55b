public import MeshCore

/// Where a node of a world is and who it is.
public struct WorldNode: Sendable, Hashable {
    public let name: String
    /// Counted from 1: the third part of its pods' addresses, and the last of its service's.
    public let number: Int
    public let isRelay: Bool
    /// The pod that calls.
    public let client: NodeLab.Pod
    /// The pods that answer.
    public let apps: [NodeLab.Pod]
    /// The LAN it is on now.
    public internal(set) var lan: String
    /// Which of the LAN's addresses it has.
    var index: Int
    public internal(set) var address: IPAddress
    /// Of its second card, where clients outside of the mesh reach its gateway, in IPv4 and IPv6; empty if it has none.
    public let outsideAddresses: [IPAddress]

    /// The service that has its name.
    public var clusterIP: IPv4Address { IPv4Address(10, 96, 1, UInt8(truncatingIfNeeded: self.number)) }
    var podNetwork: String { "10.244.\(self.number).0/24" }
    /// Of pods that have IPv6, too; nil if they do not.
    var podNetwork6: String? { self.client.address6 == nil ? nil : "fd00:244:\(self.number)::/64" }
}

/// A scenario with names and addresses: the plan of its lab.
struct WorldPlan: Sendable {
    static let tunnelPort = 20_006
    static let resolver = IPv4Address(169, 254, 96, 16)
    /// The host that is not in the mesh, and the LAN that it shares with gateways.
    static let outside = "outside"
    /// The second card of a gateway's node.
    static let outsideInterface = "eth1"

    let scenario: Scenario
    private(set) var lab: LabPlan
    private(set) var sites: [String: Internet.Site] = [:]
    private(set) var nodes: [WorldNode] = []
    /// Nodes that others are told to use as relays, with the addresses that can be dialled.
    private(set) var relays: [(node: String, addresses: [IPAddress])] = []

    init(_ scenario: Scenario, name: String) throws(LabError) {
        self.scenario = scenario
        var internet = Internet(name: name)
        for lan in scenario.lans {
            let site = try internet.addSite(lan.nat, lan.name)
            self.sites[lan.name] = site
            for (index, node) in lan.nodes.enumerated() {
                try Self.add(
                    node,
                    to: site,
                    index: index,
                    number: self.nodes.count + 1,
                    hasIPv6: scenario.hasPodNetwork,
                    &internet,
                    &self.nodes
                )
                if node.isRelay {
                    let addresses = try site.reachableAddresses(of: index).filter { $0.family == .v4 }
                    self.relays.append((node.name, addresses))
                }
            }
        }
        if scenario.nodes.contains(where: \.isGateway) {
            internet.addLAN(Self.outside)
            var host = LabPlan.Host(name: Self.outside)
            host.interfaces = [Self.card("eth0", number: 250)]
            internet.add(host)
        }
        self.lab = internet.finished()
    }

    /// A card on the LAN of those that are not in the mesh, with addresses for documentation (RFC 5737, RFC 3849).
    private static func card(_ name: String, number: UInt8) -> LabPlan.Interface {
        LabPlan.Interface(
            name: name,
            attachment: .lan(Self.outside),
            addresses: [
                InterfaceAddress(IPv4Address(203, 0, 113, number), prefixLength: 24),
                InterfaceAddress(
                    .v6(IPv6Address(high: 0x2001_0db8_0113_0000, low: UInt64(number))),
                    prefixLength: 64
                ),
            ]
        )
    }

    private static func add(
        _ node: Scenario.Node,
        to site: Internet.Site,
        index: Int,
        number: Int,
        hasIPv6: Bool,
        _ internet: inout Internet,
        _ nodes: inout [WorldNode]
    ) throws(LabError) {
        guard let third = UInt8(exactly: number), third < 250,
            let address = try site.addresses(of: index).first?.address
        else { throw LabError(.invalidPlan, "a world has at most 249 nodes, each with an address") }
        let podNetwork = "10.244.\(number).0/24"
        func address6(_ last: UInt64) -> IPAddress {
            .v6(IPv6Address(high: 0xFD00_0244_0000_0000 | UInt64(third) << 16, low: last))
        }
        let gateway = IPv4Address(10, 244, third, 1)
        let gateways = [.v4(gateway)] + (hasIPv6 ? [address6(1)] : [])
        func networks(_ addresses: [IPAddress]) -> [InterfaceAddress] {
            addresses.map { InterfaceAddress($0, prefixLength: $0.family == .v4 ? 24 : 64) }
        }
        var host = LabPlan.Host(name: node.name)
        host.bridges = [.init(name: "cni0", addresses: networks(gateways))]
        host.forwardsPackets = true
        host.hasOwnRunDirectory = true
        host.resolverConfiguration = "# A world has no other name servers than its agents.\n"
        // As CNI plugins do it: the world outside knows nodes, not pods.
        host.nftables = """
            table inet pods {
                chain postrouting {
                    type nat hook postrouting priority srcnat; policy accept;
                    oifname "eth0" ip saddr \(podNetwork) masquerade
                }
            }

            """
        let card = node.isGateway ? Self.card(Self.outsideInterface, number: third) : nil
        if let card { host.interfaces.append(card) }
        try internet.add(host, to: site, index: index)

        func pod(_ name: String, _ last: UInt8) -> NodeLab.Pod {
            var pod = NodeLab.Pod(name: name, address: IPv4Address(10, 244, third, last))
            if hasIPv6 { pod.address6 = address6(UInt64(last)) }
            return pod
        }
        let client = pod("\(node.name)-client", 100)
        let apps = (0..<node.pods).map { index in
            pod(index == 0 ? "\(node.name)-app" : "\(node.name)-app-\(index + 1)", UInt8(10 + index))
        }
        for pod in [client] + apps {
            var host = LabPlan.Host(name: pod.name)
            host.interfaces = [
                .init(
                    name: "eth0",
                    attachment: .bridge("cni0", on: node.name),
                    addresses: networks([.v4(pod.address)] + (pod.address6.map { [$0] } ?? []))
                )
            ]
            host.routes = gateways.compactMap { LabPlan.Route.defaultRoute(via: $0) }
            host.resolverConfiguration = NodeLab.Layout.podResolverConfiguration(Self.resolver)
            internet.add(host)
        }
        nodes.append(
            WorldNode(
                name: node.name,
                number: number,
                isRelay: node.isRelay,
                client: client,
                apps: apps,
                lan: site.name,
                index: index,
                address: address,
                outsideAddresses: card?.addresses.map(\.address) ?? []
            )
        )
    }
}
