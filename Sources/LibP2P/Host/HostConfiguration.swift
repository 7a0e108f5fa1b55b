public import LibP2PSecurity
public import Multiformats
public import NIOCore
public import Yamux

/// How a host is set up. The defaults fit a small node; docs/libp2p.md lists what bounds it.
public struct HostConfiguration: Sendable {
    public enum Security: String, Sendable, Hashable, CaseIterable {
        case tls = "/tls/1.0.0"
        case noise = "/noise"
    }

    public var listenAddresses: [Multiaddr]
    /// Told to peers by identify.
    public var agentVersion = "edgemesh"
    public var protocolVersion = ""
    /// In the order in which this host proposes them.
    public var security: [Security] = [.tls, .noise]
    /// Only hosts that have the same key can be talked to.
    public var preSharedKey: PreSharedKey?
    /// From the connection of the transport to its multiplexer.
    public var handshakeTimeout: TimeAmount = .seconds(15)
    /// Accepted connections that may be in their handshake at once; more are closed at once.
    public var maximumInboundHandshakes = 128
    /// Of these, from one IPv4 address or one IPv6 network of 64 bits.
    public var maximumInboundHandshakesPerAddress = 64
    public var dial = DialConfiguration()
    public var simultaneousOpen = SimultaneousOpenConfiguration()
    public var yamux = YamuxConfiguration()
    public var limits = ResourceLimits()
    public var connectionManager = ConnectionManager.Configuration()
    public var peerStore = PeerStore.Configuration()
    /// For a peer to say which protocol a stream that it has opened speaks.
    public var streamNegotiationTimeout: TimeAmount = .seconds(30)
    /// How long changes of addresses and protocols are gathered before they are pushed to peers.
    public var identifyPushDelay: TimeAmount = .milliseconds(500)
    /// What one identify exchange may take.
    public var identifyTimeout: TimeAmount = .seconds(10)
    /// Identify streams and pushes that one connection may open: a second, and at once. Each costs signing or verifying.
    public var identifiesPerSecond = 2.0
    public var identifyBurst = 32.0
    /// Streams of one connection that end without a protocol: a second, and at once. Beyond it the connection is closed.
    public var failedStreamsPerSecond = 50.0
    public var failedStreamBurst = 1000.0

    /// Which addresses of interfaces a wildcard listener is known by.
    public var interfaceFilter: @Sendable (InterfaceAddress) -> Bool = { _ in true }
    /// Chooses and adds to the addresses that are told to peers.
    public var addressFilter: @Sendable ([Multiaddr]) -> [Multiaddr] = { $0 }
    /// Addresses of a peer that may be dialled.
    public var dialFilter: @Sendable (PeerID, Multiaddr) -> Bool = { _, _ in true }
    /// Whether a connection is kept, once its peer is known; called on the connection's loop.
    public var acceptPeer: @Sendable (PeerID, Multiaddr) -> Bool = { _, _ in true }

    public var interfaces: any InterfaceLister = SystemInterfaces()
    public var resolver: any NameResolver = SystemResolver.shared
    /// Wall-clock seconds since 1970.
    public var unixTime: @Sendable () -> UInt64 = systemUnixTime
    /// Random numbers wherever behaviour depends on them; not for keys.
    public var randomNumber: @Sendable () -> UInt64 = { UInt64.random(in: .min ... .max) }

    /// - Parameter capacity: what the host is to carry; its limits and water marks follow from it.
    public init(listenAddresses: [Multiaddr] = [], capacity: HostCapacity = HostCapacity()) {
        self.listenAddresses = listenAddresses
        self.fit(capacity)
    }

    /// Sets the limits and water marks that follow from what the host is to carry.
    public mutating func fit(_ capacity: HostCapacity) {
        self.limits = ResourceLimits(capacity: capacity)
        self.connectionManager.highWater = capacity.peers
        self.connectionManager.lowWater = capacity.peers / 8 * 7
        self.yamux.maximumInboundStreams = self.limits.peerStreams.inbound
        self.yamux.maximumOutboundStreams = self.limits.peerStreams.outbound
        self.peerStore.maximumPeers = max(self.peerStore.maximumPeers, 4 * capacity.peers)
        // All may come at once, when a relay was started anew; who is refused comes again.
        self.maximumInboundHandshakes = max(self.maximumInboundHandshakes, capacity.peers / 4)
        self.maximumInboundHandshakesPerAddress = self.maximumInboundHandshakes / 2
    }
}

/// Connections that both peers dial at once (DCUtR), when it is uncertain who is the initiator of the handshakes: the SYNs may have
/// crossed, which leaves both sides with their roles, or one of them has met a listener, which is a responder with many peers.
///
/// So a responder that nothing is proposed to becomes the initiator. The side that has accepted does long before the side that has
/// dialled, by more than a round trip, so that two hosts that know this never change their roles against each other.
public struct SimultaneousOpenConfiguration: Sendable {
    /// For the first proposal of a peer that was expected and has been accepted.
    public var acceptedPatience: TimeAmount = .milliseconds(300)
    /// For the first proposal of a peer that was dialled with the role of the responder.
    public var dialledPatience: TimeAmount = .seconds(2)
    /// Addresses that connections may be expected from at once.
    public var maximumExpected = 4096

    public init() {}
}
