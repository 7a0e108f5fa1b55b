public import KubeModel
public import MeshCore

/// Which endpoints this node reaches without a tunnel.
public struct EndpointReach: Sendable, Hashable {
    public var nodeName: String
    /// Blocks whose addresses the network of this node carries.
    public var routableCIDRs: [CIDR]

    public init(nodeName: String, routableCIDRs: [CIDR] = []) {
        self.nodeName = nodeName
        self.routableCIDRs = routableCIDRs
    }

    public func isLocal(_ endpoint: Endpoint) -> Bool {
        endpoint.nodeName == self.nodeName
    }

    /// Whether the kernel of this node is known to reach the endpoint.
    public func isRoutable(_ endpoint: Endpoint) -> Bool {
        self.isLocal(endpoint) || self.routableCIDRs.contains { $0.contains(endpoint.address) }
    }

    /// The node through whose agent the endpoint is reached; nil if it is dialled from here. One that names no node, such as a
    /// machine outside of the cluster, can only be dialled from here.
    public func tunnelNode(of endpoint: Endpoint) -> String? {
        self.isRoutable(endpoint) ? nil : endpoint.nodeName
    }
}
