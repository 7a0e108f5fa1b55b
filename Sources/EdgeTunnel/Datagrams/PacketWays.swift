import ByteStreams
import LibP2P
import LibP2PRelay
import Logging
import MeshCore
import Multiformats
import NIOCore
import PacketDatagrams

/// Ways for datagrams beside the channels of packets: the port that they share, and what finds and uses them in each channel
/// (docs/protocols/packet-datagrams.md). Any thread.
final class PacketWays: Sendable {
    let port: DatagramPort
    private let host: Host
    private let observed: ObservedAddresses?
    private let configuration: DatagramLink.Configuration

    init(
        host: Host,
        observed: ObservedAddresses? = nil,
        configuration: DatagramLink.Configuration = DatagramLink.Configuration(),
        logger: Logger
    ) {
        self.host = host
        self.observed = observed
        self.configuration = configuration
        self.port = DatagramPort(loop: host.group.next(), logger: logger)
    }

    /// Takes the port and tells peers that datagrams may be agreed upon. Without a port nothing is told.
    func start(_ port: UInt16) async {
        await self.port.open(port)
        guard !self.port.ports.isEmpty else { return }
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
        guard !self.port.ports.isEmpty else { return }
        let (connection, channel) = (stream.connection, stream.channel)
        let isLocal = connection.remoteAddress.ipAddress?.isLoopback ?? false
        var configuration = self.configuration
        configuration.admits = { $0.isPlace(ofLocalPeer: isLocal) }
        try channel.pipeline.syncOperations.addHandler(
            PacketDatagramHandler(
                role,
                port: self.port,
                prefersAES: Processor.computesAES,
                configuration: configuration,
                surroundings: PacketDatagramHandler.Surroundings(
                    addresses: { [weak self] in self?.addresses ?? [] },
                    isUnderstood: {
                        connection.identification?.protocols.contains(TunnelProtocol.packetDatagrams) ?? false
                    }
                ),
                now: MonotonicTime(channel.eventLoop.now)
            )
        )
    }

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
