public import Multiformats
public import NIOCore

/// How the tunnel of a node is set up: `modules.edgeTunnel` of the configuration, in the tunnel's own words.
public struct TunnelSettings: Sendable, Hashable {
    public enum Transport: String, Sendable, Hashable {
        case tcp
        case ws
        /// Known, and refused with what to do instead.
        case quic
    }

    /// Which key this node proves itself by.
    public enum Identity: Sendable, Hashable {
        /// That which v1.17 derives from the node's name.
        case derived
        /// A random one in a file, which is made if it is missing.
        case node(file: String)
    }

    /// Whether this node relays for others.
    public enum RelayService: String, Sendable, Hashable {
        /// If it is among `relays`.
        case configured
        /// Also if others can reach it.
        case volunteer
        case off
    }

    /// When packets of pods go by datagrams in place of the stream.
    public enum PacketDatagrams: String, Sendable, Hashable {
        /// Where a way for them is found, unless the stream is as good: directly, in a network that is near.
        case auto
        /// Wherever a way for them is found.
        case always
        case never
    }

    /// A node that relays for others.
    public struct Relay: Sendable, Hashable {
        public var nodeName: String
        /// Where it is: `/ip4/…`, `/ip6/…` or `/dns/…`; all have the port and the transport of this node.
        public var hosts: [Multiaddr.Component]

        public init(nodeName: String, hosts: [Multiaddr.Component]) {
            self.nodeName = nodeName
            self.hosts = hosts
        }
    }

    /// Flows at once; nil for as many as the process can hold.
    public struct Limits: Sendable, Hashable {
        public var inbound: Int?
        public var outbound: Int?
        public var inboundPerPeer: Int?
        public var outboundPerPeer: Int?

        public init() {}
    }

    public var nodeName: String
    public var identity = Identity.derived
    /// Where peers that are revoked are kept over a new start; nil: nowhere.
    public var revocationsFile: String?
    /// The file whose bytes make the key of the private network, as in v1.17; nil for none.
    public var preSharedKeyFile: String?
    public var listenPort: UInt16 = 20006
    /// Where relays listen; nil: at `listenPort`, as all nodes do.
    public var relayPort: UInt16?
    /// Whether other nodes may open flows to targets behind this one; a gateway only opens them.
    public var acceptsFlows = true
    public var transport = Transport.tcp
    public var rendezvous = "EDGEMESH_PLAYGOUND"
    public var relays: [Relay] = []
    /// Relays to choose from at most; never fewer than `relays`.
    public var maximumRelays = 15
    public var relayService = RelayService.configured
    /// Between looks at how far the relays are.
    public var heartbeat: TimeAmount = .seconds(120)
    /// Between tries of all relays anew while none has given a reservation.
    public var finderPeriod: TimeAmount = .seconds(60)
    public var limits = Limits()
    /// Nodes that may be connected at once, from which the bounds of connections and memory follow; nil for what one of this role
    /// needs.
    public var maximumNodes: Int?
    /// Interfaces to listen on, by name; empty for all.
    public var listenInterfaces: Set<String> = []
    /// Prefixes of the names of interfaces to leave out.
    public var filteredInterfaces: [String] = []
    public var holePunching = true
    /// Whether packets of pods go by datagrams where both agents can, from and to `listenPort` of UDP.
    public var packetDatagrams = PacketDatagrams.never
    public var portMapping = true
    /// A peer in use that owes an answer and was silent for so long is asked for a sign of life; without one new flows take another
    /// way.
    public var livenessInterval: TimeAmount = .seconds(1)
    /// After so long without one, its connection is given up.
    public var livenessTimeout: TimeAmount = .seconds(10)
    /// Which targets this node dials for others.
    public var targets = TargetAccessSettings()

    public init(nodeName: String) {
        self.nodeName = nodeName
    }

    /// Whether the configuration makes this node a relay.
    var isConfiguredRelay: Bool {
        self.relayService != .off && self.relays.contains { $0.nodeName == self.nodeName }
    }
}
