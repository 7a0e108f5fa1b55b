public import MeshCore

/// What of the configuration concerns the gateway's listeners (`modules.edgeGateway`).
public struct GatewaySettings: Sendable, Hashable {
    /// Names of interfaces; empty for all.
    public var interfaces: [String] = []
    /// Addresses on which it listens; empty for all of the interfaces.
    public var includedBlocks: [CIDR] = []
    /// Taken out of these.
    public var excludedBlocks: [CIDR] = []

    public init() {}
}
