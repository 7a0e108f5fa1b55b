/// What a host is to carry. The limits that follow from it are set by `HostConfiguration.init(listenAddresses:capacity:)`, so that
/// none of them stands in the way of another; each may be changed afterwards.
public struct HostCapacity: Sendable, Hashable {
    /// Peers that are connected at once. A relay of a thousand nodes needs a thousand.
    public var peers = 512
    /// Streams to one peer and from it: a node that proxies to another opens one for each connection.
    public var streamsPerPeer = 15_000
    /// Streams with all peers, of either direction.
    public var streams = 20_000

    public init() {}

    public init(peers: Int, streamsPerPeer: Int, streams: Int) {
        self.peers = peers
        self.streamsPerPeer = streamsPerPeer
        self.streams = max(streams, streamsPerPeer)
    }

    /// A quarter more than peers, as a peer that has moved comes anew before its old connection has ended, and some for strangers.
    var connections: Int { self.peers + self.peers / 4 + 64 }
    /// Streams that identify, ping and the like need beside those that are asked for.
    static let spareStreams = 256
}

extension ResourceLimits {
    /// The limits for what a host is to carry.
    public init(capacity: HostCapacity) {
        self.init()
        let inAll = capacity.streams + HostCapacity.spareStreams
        let ofPeer = capacity.streamsPerPeer + HostCapacity.spareStreams
        self.systemConnections = Connections(inbound: capacity.connections, outbound: capacity.connections)
        // All nodes of a site may be behind one NAT, and strangers in front of it.
        self.connectionsPerAddress = capacity.peers
        self.systemStreams = Streams(inbound: inAll, outbound: inAll)
        self.peerStreams = Streams(inbound: ofPeer, outbound: ofPeer)
        self.protocolStreams = Streams(inbound: capacity.streams, outbound: capacity.streams)
        self.protocolPeerStreams = Streams(inbound: capacity.streamsPerPeer, outbound: capacity.streamsPerPeer)
        self.memoryBytes = capacity.connections * self.bytesPerConnection + inAll * self.bytesPerStream
    }
}
