public import MeshCore
public import NIOCore

/// What the network of pods is set up with.
public struct EdgeCNISettings: Sendable, Hashable {
    /// Also the original's.
    public static let deviceName = "edge_tun0"
    /// That of the networks of pods, unless their plugin was told otherwise. Packets cross the tunnel in its stream, whatever the
    /// MTU below is.
    public static let defaultMTU = 1500

    public var nodeName: String
    /// The blocks of pods, in the cloud and at the edge.
    public var mesh: [CIDR]
    public var device = Self.deviceName
    public var mtu = Self.defaultMTU
    public var limits = EdgeCNILimits()

    public init(nodeName: String, mesh: [CIDR]) {
        self.nodeName = nodeName
        self.mesh = mesh
    }
}

/// Bounds of the network of pods.
public struct EdgeCNILimits: Sendable, Hashable {
    /// Bytes of packets that wait on one event loop, for all nodes.
    public var waitingBytes = 32 << 20
    /// Channels that carry nothing for this long end.
    public var idleTimeout = TimeAmount.minutes(5)
    var link = PacketLink.Limits()

    public init() {}
}
