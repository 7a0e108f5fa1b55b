import MeshCore

/// The Kubernetes objects of a world, which all its agents read from one folder.
enum WorldManifests {
    /// What a pod that answers listens on, as every service of a world has it.
    static let ports: [NodeLabManifests.ServicePort] = [
        ("http", .tcp, 80, 9376), ("hostname", .udp, 9376, 9376), ("tcp-echo", .tcp, 2701, 2701),
        ("udp-echo", .udp, 2702, 2702), ("websocket", .tcp, 8080, 8080), ("https", .tcp, 443, 443),
        ("bulk", .tcp, 5201, 5201),
    ]

    /// File names with their contents.
    static func files(for plan: WorldPlan) -> [(name: String, text: String)] {
        var files = plan.nodes.map { (Self.nodeFile($0.name), Self.node($0)) }
        for node in plan.nodes {
            files.append(("service-\(node.name).yaml", Self.service(node.name, node.clusterIP, before: [node])))
        }
        for (index, service) in plan.scenario.services.enumerated() {
            let nodes = plan.nodes.filter { service.nodes.contains($0.name) }
            var text = Self.service(service.name, Self.clusterIP(ofService: index), before: nodes)
            if let balancing = service.balancing {
                text += "---\n"
                text += NodeLabManifests.destinationRule(service.name, loadBalancer: "simple: \(balancing.rawValue)")
            }
            files.append(("service-\(service.name).yaml", text))
        }
        return files
    }

    static func clusterIP(ofService index: Int) -> IPv4Address { IPv4Address(10, 96, 2, UInt8(clamping: index + 1)) }

    static func nodeFile(_ node: String) -> String { "node-\(node).yaml" }

    /// Its LAN is its zone.
    static func node(_ node: WorldNode) -> String {
        """
        apiVersion: v1
        kind: Node
        metadata:
          name: \(node.name)
          labels:
            kubernetes.io/hostname: \(node.name)
            topology.kubernetes.io/zone: \(node.lan)
        spec:
          podCIDR: \(node.podNetwork)
          podCIDRs: [\(([node.podNetwork] + (node.podNetwork6.map { ["\"\($0)\""] } ?? [])).joined(separator: ", "))]
        status:
          addresses:
            - {type: InternalIP, address: "\(node.address)"}
            - {type: Hostname, address: \(node.name)}

        """
    }

    private static func service(_ name: String, _ clusterIP: IPv4Address, before nodes: [WorldNode]) -> String {
        let endpoints = nodes.flatMap { node in node.apps.map { ($0.address, node.name) } }
        return NodeLabManifests.service(name, clusterIP: clusterIP, selector: nil, ports: Self.ports)
            + (endpoints.isEmpty
                ? "" : "---\n" + NodeLabManifests.endpointSlice(name, ports: Self.ports, endpoints: endpoints))
    }
}
