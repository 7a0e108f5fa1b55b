/// How much of the host peers may use. A number that would be exceeded refuses the connection or stream that exceeds it.
public struct ResourceLimits: Sendable, Hashable {
    /// Streams of one scope.
    public struct Streams: Sendable, Hashable {
        public var inbound: Int
        public var outbound: Int

        public init(inbound: Int, outbound: Int) {
            self.inbound = inbound
            self.outbound = outbound
        }

        public static let unlimited = Streams(inbound: .max, outbound: .max)
    }

    /// Connections of one scope.
    public struct Connections: Sendable, Hashable {
        public var inbound: Int
        public var outbound: Int

        public init(inbound: Int, outbound: Int) {
            self.inbound = inbound
            self.outbound = outbound
        }
    }

    public var systemConnections = Connections(inbound: 704, outbound: 704)
    /// Inbound connections from one IPv4 address or one IPv6 network of 64 bits; many nodes may be behind one NAT.
    public var connectionsPerAddress = 512
    public var peerConnections = Connections(inbound: 8, outbound: 8)
    public var systemStreams = Streams(inbound: 8192, outbound: 8192)
    public var peerStreams = Streams(inbound: 4096, outbound: 4096)
    /// For each protocol that `protocols` does not name.
    public var protocolStreams = Streams(inbound: 4096, outbound: 4096)
    public var protocols: [ProtocolID: Streams] = [
        .identify: Streams(inbound: 256, outbound: 512),
        .identifyPush: Streams(inbound: 256, outbound: 512),
        .ping: Streams(inbound: 256, outbound: 512),
    ]
    /// For each peer and each protocol that `peerProtocols` does not name.
    public var protocolPeerStreams = Streams(inbound: 4096, outbound: 4096)
    /// What one peer may take of `protocols`, so that it leaves something to others.
    public var peerProtocols: [ProtocolID: Streams] = [
        .identify: Streams(inbound: 16, outbound: 32),
        .identifyPush: Streams(inbound: 16, outbound: 32),
        .ping: Streams(inbound: 16, outbound: 32),
    ]
    /// Inbound streams whose protocol is not agreed upon yet, for each peer.
    public var negotiatingStreams = 512
    /// What all connections and streams may cost by the estimates below.
    public var memoryBytes = 128 * 1024 * 1024
    /// What a connection is reckoned at: handshake state, cipher contexts, socket buffers in user space.
    public var bytesPerConnection = 64 * 1024
    /// What a stream is reckoned at: its channel, pipeline and a small buffer.
    public var bytesPerStream = 4 * 1024
    /// Received bytes that may wait unread in the streams of all connections. As it fills, windows cease to grow, peers that hold
    /// the most open no new streams, and at last the streams that hold the most are reset; protected peers come last.
    public var unreadBytes = 64 * 1024 * 1024
    /// Written bytes that may wait in the streams of all connections. As it fills, streams are writable only while they hold
    /// little, writes to peers that hold the most fail, and at last the streams that hold the most are reset; protected peers
    /// come last.
    public var unsentBytes = 64 * 1024 * 1024

    public init() {}
}

/// Which side has opened a connection or a stream.
public enum Direction: Sendable, Hashable {
    case inbound
    case outbound
}
