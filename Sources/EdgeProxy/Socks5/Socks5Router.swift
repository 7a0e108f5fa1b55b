import HashTreeCollections
import KubeModel
import MeshCore
import MeshInterfaces
import ServiceCatalog

/// Finds what a SOCKS5 client means: a node, a service, or an address of either.
///
/// Nothing else is served: a proxy that anyone on the node can use must not be a way out of it, nor to its loopback addresses.
struct Socks5Router: Sendable {
    enum Route: Sendable, Hashable {
        /// Dialled from this node; addresses of services are turned to endpoints by its kernel.
        case here(TransportAddress)
        case tunnel(TunnelTarget)
    }

    let snapshot: CatalogSnapshot
    let reach: EndpointReach
    /// Without dots at its ends.
    let clusterDomain: String

    func route(_ destination: Socks5Destination, from client: TransportAddress?) throws(Socks5Reply) -> Route {
        let route =
            switch destination.host {
            case .name(let name): try self.route(name, destination.port)
            case .address(let address): try self.route(address, destination.port)
            }
        guard case .tunnel(var target) = route else { return route }
        target.client = client
        return .tunnel(target)
    }

    // MARK: Names

    private func route(_ name: String, _ port: UInt16) throws(Socks5Reply) -> Route {
        var name = name.lowercased()
        if name.hasSuffix(".") { name.removeLast() }
        // The names of nodes go first, as they are all that the original knows; they may have dots in them.
        if let node = self.snapshot.nodes[name] { return try self.route(node, port) }
        return try self.route(try self.service(name), port)
    }

    private func route(_ node: NodeObject, _ port: UInt16) throws(Socks5Reply) -> Route {
        guard let address = node.internalIPs.min(by: { $0.family < $1.family }) else { throw .hostUnreachable }
        return self.route(node.name, TransportAddress(address, port), .socks)
    }

    private func route(_ node: String, _ address: TransportAddress, _ purpose: TunnelTarget.Purpose) -> Route {
        node == self.reach.nodeName
            ? .here(address) : .tunnel(TunnelTarget(node: node, address: address, purpose: purpose))
    }

    /// `service.namespace`, with `.svc` and the cluster's domain behind it or without.
    private func service(_ name: String) throws(Socks5Reply) -> Service {
        var labels = name.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        let domain = self.clusterDomain.lowercased().split(separator: ".").map(String.init)
        if labels.count == 3 + domain.count, Array(labels.suffix(domain.count)) == domain {
            labels.removeLast(domain.count)
        }
        if labels.count == 3, labels[2] == "svc" { labels.removeLast() }
        guard labels.count == 2,
            let service = self.snapshot.services[ObjectName(namespace: labels[1], name: labels[0])]
        else { throw .hostUnreachable }
        return service
    }

    private func route(_ service: Service, _ port: UInt16) throws(Socks5Reply) -> Route {
        guard let servicePort = service.object.ports.first(where: { $0.port == port && $0.transport == .tcp }) else {
            throw .connectionRefused
        }
        if let address = service.object.clusterIPs.first { return .here(TransportAddress(address, port)) }
        // Headless: the client would have been given the endpoints by DNS.
        let endpoints = service.endpoints(for: servicePort)
        guard let ready = endpoints.first(where: { $0.endpoint.conditions.contains(.ready) }) else {
            throw .hostUnreachable
        }
        return self.route(ready)
    }

    private func route(_ endpoint: ResolvedEndpoint) -> Route {
        guard let node = self.reach.tunnelNode(of: endpoint.endpoint) else { return .here(endpoint.transportAddress) }
        return .tunnel(TunnelTarget(node: node, address: endpoint.transportAddress))
    }

    // MARK: Addresses

    private func route(_ address: IPAddress, _ port: UInt16) throws(Socks5Reply) -> Route {
        let target = TransportAddress(address, port)
        if self.snapshot.servicesByClusterIP[address] != nil { return .here(target) }
        for (name, node) in self.snapshot.nodes {
            if node.internalIPs.contains(address) { return self.route(name, target, .socks) }
            if node.podCIDRs.contains(where: { $0.contains(address) }) { return self.route(name, target, .service) }
        }
        // Pods whose addresses are not of their node's block.
        for (_, service) in self.snapshot.services {
            for group in service.groups {
                guard let endpoint = group.endpoints.first(where: { $0.address == address }) else { continue }
                return self.route(ResolvedEndpoint(endpoint: endpoint, port: port))
            }
        }
        throw .notAllowed
    }
}
