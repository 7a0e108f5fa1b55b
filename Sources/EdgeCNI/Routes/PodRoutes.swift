public import MeshCore

/// Which node a pod's address belongs to. Immutable; made anew by `PodRouteBuilder` when the cluster changes.
public struct PodRoutes: Sendable {
    /// Where an address is.
    public enum Place: Sendable, Hashable {
        /// On this node, or in a network of its own.
        case local
        /// A pod of another node, by its name.
        case node(String)
        /// In a block of the mesh, but nothing tells which node has it.
        case unknown
        /// No address of a pod of the mesh.
        case outside
    }

    var mesh = PrefixTable<Bool>()
    /// Blocks of nodes and of this node's networks.
    var blocks = PrefixTable<Place>()
    /// Addresses that no block of a node holds, by what endpoints of services say.
    var endpoints: [IPAddress: Place] = [:]
    /// Blocks and addresses that a second node claimed and did not get.
    public internal(set) var conflicts = 0
    /// Addresses that were left out because of `PodRouteBuilder.maximumEndpoints`.
    public internal(set) var overflow = 0

    public func place(of address: IPAddress) -> Place {
        let block = self.blocks[address]
        if block == .local { return .local }
        guard self.mesh[address] != nil else { return .outside }
        return block ?? self.endpoints[address] ?? .unknown
    }

    /// Whether a node may send packets with this source: only for its own pods.
    public func permits(source: IPAddress, from node: String) -> Bool {
        self.place(of: source) == .node(node)
    }
}
