import ByteStreams
import LibP2P
import LibP2PRelay
import Logging
import MeshCore
import Multiformats
import NIOCore
import PacketDatagrams
import Synchronization

/// Ways for datagrams beside the channels of packets: the port that they share, and what finds and uses them in each channel
/// (docs/protocols/packet-datagrams.md). Any thread.
final class PacketWays: Sendable {
    /// With two agents that are nearer than this and directly connected, packets go by the stream: it carries more for the same work, and
    /// what it loses is back after so short a time that the others hardly wait.
    static let nearRoundTrip = Duration.milliseconds(1)

    private struct State {
        /// Peers have been told.
        var isOffered = false
        var ways: [ObjectIdentifier: (peer: PeerID, way: PacketWay)] = [:]
        /// Of all channels, also of those that have ended.
        var counters = DatagramLink.Counters()
    }

    let port: DatagramPort
    private let host: Host
    private let use: TunnelSettings.PacketDatagrams
    private let observed: ObservedAddresses?
    private let configuration: DatagramLink.Configuration
    private let state = Mutex(State())

    /// - Parameter use: not `never`.
    init(
        host: Host,
        use: TunnelSettings.PacketDatagrams,
        observed: ObservedAddresses? = nil,
        configuration: DatagramLink.Configuration = DatagramLink.Configuration(),
        logger: Logger
    ) {
        self.host = host
        self.use = use
        self.observed = observed
        self.configuration = configuration
        self.port = DatagramPort(loop: host.group.next(), logger: logger)
    }

    /// Takes the port and tells peers that datagrams may be agreed upon. Without a port nothing is told.
    func start(_ port: UInt16) async {
        await self.port.open(port)
        guard !self.port.ports.isEmpty else { return }
        self.state.withLock { $0.isOffered = true }
        // By its name alone: what there is to be said is said in the channel of packets.
        self.host.handle(TunnelProtocol.packetDatagrams, options: HandlerOptions(allowLimitedConnection: true)) {
            $0.reset()
            return $0.channel.eventLoop.makeSucceededVoidFuture()
        }
    }

    func stop() async {
        self.host.stopHandling(TunnelProtocol.packetDatagrams)
        await self.port.close()
    }

    /// Looks for a way beside a channel of ours from now on. On the channel's loop, before anybody reads it.
    func join(_ stream: NegotiatedStream, _ role: DatagramExchange.Role) throws {
        guard self.state.withLock({ $0.isOffered }) else { return }
        let (connection, channel) = (stream.connection, stream.channel)
        let (own, peer) = (self.host.peerID.bytes, connection.remotePeer)
        let isLocal = connection.remoteAddress.ipAddress?.isLoopback ?? false
        var configuration = self.configuration
        configuration.admits = { $0.isPlace(ofLocalPeer: isLocal) }
        // The stream of a relay is no way that is near.
        if self.use == .auto, !connection.isRelayed { configuration.nearRoundTrip = Self.nearRoundTrip }
        let key = ObjectIdentifier(channel)
        try channel.pipeline.syncOperations.addHandler(
            PacketDatagramHandler(
                role,
                of: role == .opener
                    ? DatagramParties(opener: own, acceptor: peer.bytes)
                    : DatagramParties(opener: peer.bytes, acceptor: own),
                port: self.port,
                prefersAES: Processor.computesAES,
                configuration: configuration,
                surroundings: PacketDatagramHandler.Surroundings(
                    addresses: { [weak self] in self?.addresses ?? [] },
                    isOffered: { connection.identification?.protocols.contains(TunnelProtocol.packetDatagrams) },
                    tell: { [weak self] in self?.note($0, of: key, peer) }
                ),
                now: MonotonicTime(channel.eventLoop.now)
            )
        )
    }

    // MARK: Figures

    /// Of all channels, also of those that have ended.
    var counters: DatagramLink.Counters { self.state.withLock { $0.counters } }

    /// What the packets to each peer go by: by datagrams, if one of its channels has them.
    var ways: [PeerID: PacketWay] {
        let all = self.state.withLock { Array($0.ways.values) }
        return Dictionary(all, uniquingKeysWith: { $0.reason == nil ? $0 : $1 })
    }

    private func note(_ way: PacketWay?, of key: ObjectIdentifier, _ peer: PeerID) {
        self.state.withLock { state in
            guard let way else {
                state.ways[key] = nil
                return
            }
            state.counters += way.counters
            if let before = state.ways[key] { state.counters -= before.way.counters }
            state.ways[key] = (peer, way)
        }
    }

    // MARK: Addresses

    /// Where this node may be reached by datagrams: at the addresses of its tunnel, those that others see included. A NAT that keeps
    /// ports maps this one as it is.
    var addresses: [TransportAddress] {
        let ports = self.port.ports
        let known = self.host.advertisedAddresses + self.host.listenAddresses + (self.observed?.candidates ?? [])
        var addresses: [TransportAddress] = []
        for address in known where !address.isCircuit {
            guard let ip = address.ipAddress, ip.reach != .linkLocal, !ip.isUnspecified, let port = ports[ip.family]
            else { continue }
            let candidate = TransportAddress(ip, port)
            if !addresses.contains(candidate) { addresses.append(candidate) }
        }
        return addresses
    }
}

extension TransportAddress {
    /// Whether a peer may be there, for all that its address tells: what a peer says of itself makes this node send something there.
    /// - Parameter isLocal: the peer is on this machine.
    fileprivate func isPlace(ofLocalPeer isLocal: Bool) -> Bool {
        switch self.address {
        case .v4(let address):
            let first = address.octets.0
            return first != 0 && first < 224 && (isLocal || first != 127)
        case .v6(let address):
            guard address.mappedIPv4 == nil, address.high >> 56 != 0xFF, self.address.reach != .linkLocal else {
                return false
            }
            return self.address.reach == .loopback ? isLocal : !self.address.isUnspecified
        }
    }
}

extension IPAddress {
    fileprivate var isUnspecified: Bool { self == .v4(.any) || self == .v6(.any) }
}
