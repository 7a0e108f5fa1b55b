public import MeshCore

/// Which addresses are pods of the mesh, and which of them are none of the tunnel's business.
public struct PodNetworks: Sendable, Hashable {
    /// `meshCIDRConfig`: the blocks of pods, in the cloud and at the edge.
    public var mesh: [CIDR]
    /// What this node reaches by itself: the networks of its devices.
    public var local: [CIDR]

    public init(mesh: [CIDR], local: [CIDR] = []) {
        self.mesh = mesh
        self.local = local
    }

    /// The blocks for which the node needs a route into the tunnel: those of the mesh, except what lies within a block of its own
    /// (which the kernel would prefer anyway, once it has a device for it).
    /// - Parameter own: the blocks of this node's pods.
    public func captured(besides own: [CIDR]) -> [CIDR] {
        var seen: Set<CIDR> = []
        return self.mesh.filter { block in
            !(self.local + own).contains { $0.prefixLength <= block.prefixLength && $0.contains(block.address) }
                && seen.insert(block).inserted
        }
    }
}
