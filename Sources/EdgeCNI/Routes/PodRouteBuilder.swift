import HashTreeCollections
import KubeModel
public import MeshCore
public import ServiceCatalog

/// Makes `PodRoutes` of what the catalog knows, and again when that changes.
///
/// The blocks of nodes (`spec.podCIDRs`) come first: an endpoint, which anybody may write who may write an EndpointSlice, counts only
/// where no node's block holds its address. Of two nodes with the same block the first by name has it.
public struct PodRouteBuilder: Sendable {
    /// Addresses of endpoints that are kept beside the blocks of nodes.
    public static let maximumEndpoints = 131_072

    private let localNode: String
    private let maximum: Int
    private var networks: PodNetworks
    private var nodes: TreeDictionary<String, NodeObject> = [:]
    private var routes = PodRoutes()
    /// What the endpoints of each service add to the blocks.
    private var claims: [ObjectName: [IPAddress: String]] = [:]
    private var blockConflicts = 0
    private var isCurrent = false

    public init(localNode: String, networks: PodNetworks, maximumEndpoints: Int = Self.maximumEndpoints) {
        self.localNode = localNode
        self.networks = networks
        self.maximum = maximumEndpoints
    }

    /// The networks of this node's devices have changed: the next `apply` sees to it.
    public mutating func setLocalNetworks(_ networks: [CIDR]) {
        guard networks != self.networks.local else { return }
        self.networks.local = networks
        self.isCurrent = false
    }

    /// Takes in what is new.
    /// - Parameter changed: the services that may be different since the last call.
    /// - Returns: nil if the routes are what they were.
    public mutating func apply(_ snapshot: CatalogSnapshot, changed: Set<ObjectName>) -> PodRoutes? {
        if !self.isCurrent || snapshot.nodes != self.nodes {
            self.nodes = snapshot.nodes
            self.isCurrent = true
            self.rebuildBlocks()
            self.claims = [:]
            for (name, service) in snapshot.services { self.claims[name] = self.claims(of: service) }
        } else {
            var isDifferent = false
            for name in changed {
                let claims = snapshot.services[name].flatMap { self.claims(of: $0) }
                isDifferent = isDifferent || claims != self.claims[name]
                self.claims[name] = claims
            }
            guard isDifferent else { return nil }
        }
        self.mergeClaims()
        return self.routes
    }

    private mutating func rebuildBlocks() {
        self.routes = PodRoutes()
        self.blockConflicts = 0
        for block in self.networks.mesh { self.routes.mesh.add(block, true) }
        for block in self.networks.local { self.routes.blocks.add(block, .local) }
        for block in self.nodes[self.localNode]?.podCIDRs ?? [] { self.routes.blocks.add(block, .local) }
        for node in self.nodes.values.sorted(by: { $0.name < $1.name }) where node.name != self.localNode {
            for block in node.podCIDRs where !self.routes.blocks.add(block, .node(node.name)) {
                self.blockConflicts += 1
            }
        }
    }

    /// Nil if there is nothing to add.
    private func claims(of service: Service) -> [IPAddress: String]? {
        var claims: [IPAddress: String] = [:]
        for group in service.groups {
            for endpoint in group.endpoints {
                guard let node = endpoint.nodeName, self.routes.mesh[endpoint.address] != nil,
                    self.routes.blocks[endpoint.address] == nil
                else { continue }
                claims[endpoint.address] = min(claims[endpoint.address] ?? node, node)
            }
        }
        return claims.isEmpty ? nil : claims
    }

    private mutating func mergeClaims() {
        var endpoints: [IPAddress: PodRoutes.Place] = [:]
        var (conflicts, overflow) = (0, 0)
        // By name, so that the same cluster gives the same routes on every node.
        for (_, claims) in self.claims.sorted(by: { $0.key < $1.key }) {
            for (address, node) in claims {
                let place: PodRoutes.Place = node == self.localNode ? .local : .node(node)
                if let present = endpoints[address] {
                    if present != place { conflicts += 1 }
                } else if endpoints.count < self.maximum {
                    endpoints[address] = place
                } else {
                    overflow += 1
                }
            }
        }
        self.routes.endpoints = endpoints
        self.routes.overflow = overflow
        self.routes.conflicts = self.blockConflicts + conflicts
    }
}
