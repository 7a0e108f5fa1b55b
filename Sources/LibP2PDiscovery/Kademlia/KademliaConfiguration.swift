public import LibP2P
public import Multiformats
public import NIOCore

/// Keeps values of the DHT; what it does not accept is refused. Called on the DHT's event loop.
public protocol KademliaRecordStore: Sendable {
    func value(of key: [UInt8]) -> [UInt8]?
    /// Checks a value that a peer wants stored, and keeps it if it is good and better than what is there.
    func accept(_ value: [UInt8], for key: [UInt8], from peer: PeerID) -> Bool
}

/// How a DHT is set up. `wan` and `lan` are the two that EdgeMesh v1.17 runs beside each other.
public struct KademliaConfiguration: Sendable {
    public enum Mode: Sendable, Hashable {
        /// Asks others only.
        case client
        /// Also answers, and is known to others by it.
        case server
        /// A server while peers of the internet can dial this host, as far as it is known, and a client otherwise.
        case automatic
    }

    /// Which peers and addresses belong to the DHT.
    public enum Scope: Sendable, Hashable {
        /// Public addresses only.
        case wan
        /// Peers by connections of private networks.
        case lan
        case any
    }

    public var protocolID: ProtocolID
    public var mode: Mode
    public var scope: Scope
    /// The replication parameter k, and the size of buckets.
    public var bucketSize = 20
    /// Requests of one search that are under way at once (alpha).
    public var concurrency = 10
    public var requestTimeout: TimeAmount = .seconds(10)
    public var lookupTimeout: TimeAmount = .seconds(60)
    /// Searches at once; more are refused.
    public var maximumLookups = 64
    /// Asked when the table is empty; each ends in `/p2p/PEER`.
    public var bootstrapPeers: [Multiaddr] = []
    public var refreshInterval: TimeAmount = .minutes(10)
    /// At most so many of one network in the table. Nil for no limit.
    public var maximumPerNetwork: (perBucket: Int, total: Int)?
    public var providerLifetime: TimeAmount = .hours(24)
    /// After this, what this host provides is announced again.
    public var republishInterval: TimeAmount = .hours(3)
    /// Between attempts to announce that reached nobody.
    public var republishRetry: TimeAmount = .minutes(2)
    public var maximumProviderKeys = 4096
    public var maximumProviderKeysPerPeer = 64
    public var maximumProvidersPerKey = 256
    /// Keys that this host provides.
    public var maximumProvidedKeys = 1024
    /// A stream that is silent for so long is reset.
    public var streamTimeout: TimeAmount = .seconds(60)
    /// Streams on which peers ask, in all and of one peer. Others send one request after the other on one.
    public var maximumStreams = 1024
    public var maximumStreamsPerPeer = 32
    /// The longest request that is taken: a stream holds it until it is whole. Answers may be longer.
    public var maximumRequestBytes = 16 * 1024
    /// None: values are neither stored nor found.
    public var records: (any KademliaRecordStore)?

    public init(protocolID: ProtocolID, mode: Mode, scope: Scope) {
        self.protocolID = protocolID
        self.mode = mode
        self.scope = scope
    }

    /// - Parameter prefix: of the protocol ID.
    public static func wan(mode: Mode = .automatic, prefix: String = "/ipfs") -> KademliaConfiguration {
        var configuration = Self(protocolID: ProtocolID("\(prefix)/kad/1.0.0"), mode: mode, scope: .wan)
        configuration.maximumPerNetwork = (perBucket: 2, total: 3)
        return configuration
    }

    public static func lan(mode: Mode = .server, prefix: String = "/ipfs") -> KademliaConfiguration {
        Self(protocolID: ProtocolID("\(prefix)/lan/kad/1.0.0"), mode: mode, scope: .lan)
    }

    /// The addresses of a peer that this DHT tells and believes. Circuits lead through others, and are not kept; a zone means
    /// something to one machine only.
    func filter(_ addresses: [Multiaddr]) -> [Multiaddr] {
        addresses.filter { $0.zone == nil && (self.scope != .wan || !$0.isCircuit && $0.isPublic) }
    }

    /// Whether a peer with such a connection belongs into the table.
    func admits(_ connection: Multiaddr, known: [Multiaddr]) -> Bool {
        switch self.scope {
        case .any: true
        case .wan: known.contains { !$0.isCircuit && $0.isPublic }
        case .lan:
            !connection.isCircuit && (connection.isPrivate || connection.isLoopback || connection.isLinkLocal)
        }
    }
}

/// What a DHT has done and knows.
public struct KademliaMetrics: Sendable, Hashable {
    public var isServer = false
    public var tablePeers = 0
    public var providerKeys = 0
    public var runningLookups = 0
    public var requestsSent: UInt64 = 0
    public var requestsFailed: UInt64 = 0
    public var requestsAnswered: UInt64 = 0
    /// Malformed requests and those that were not granted.
    public var requestsRefused: UInt64 = 0
    public var providersRefused: UInt64 = 0

    public init() {}
}
