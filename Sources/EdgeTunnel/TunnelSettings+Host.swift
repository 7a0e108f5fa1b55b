import LibP2P
import MeshCore
import Multiformats
import NIOCore
import Yamux

extension TunnelSettings {
    /// Flows of one direction where the configuration sets no limit: as many as a process of 64,000 descriptors can glue.
    static let mostFlows = 60_000
    /// Nodes that may be connected at once: a relay has all of them.
    static let mostPeers = 4096

    /// What stands above the host's part of an address.
    var layers: [Multiaddr.Component] {
        [.tcp(self.listenPort)] + (self.transport == .ws ? [.ws] : [])
    }

    func address(_ host: Multiaddr.Component) -> Multiaddr { Multiaddr([host] + self.layers) }

    /// The addresses of a relay, without its peer.
    func addresses(of relay: Relay) -> [Multiaddr] { relay.hosts.map { self.address($0) } }

    var flowLimits: (opener: FlowLimits, acceptor: FlowLimits) {
        func limits(_ all: Int?, _ ofPeer: Int?) -> FlowLimits {
            var limits = FlowLimits()
            limits.maximumFlows = all ?? Self.mostFlows
            limits.maximumFlowsPerPeer = ofPeer ?? Self.mostFlows
            return limits
        }
        return (
            limits(self.limits.outbound, self.limits.outboundPerPeer),
            limits(self.limits.inbound, self.limits.inboundPerPeer)
        )
    }

    /// Sets everything of a host that follows from the settings. The limits of flows are those of the flows' own tables, which say
    /// why they refuse; those of the host below leave room for them and for what else there is.
    func apply(to configuration: inout HostConfiguration, _ interfaces: InterfaceSelection, _ directory: PeerDirectory)
    {
        configuration.acceptPeer = { peer, _ in !directory.isRevoked(peer) }
        configuration.agentVersion = "edgemesh"
        configuration.interfaceFilter = { interfaces.admits($0.interface) }
        configuration.maximumInboundHandshakes = 512
        configuration.maximumInboundHandshakesPerAddress = 256
        configuration.peerStore.maximumPeers = 2 * Self.mostPeers
        configuration.connectionManager.lowWater = Self.mostPeers / 2
        configuration.connectionManager.highWater = Self.mostPeers
        let spare = 1024
        func room(_ inbound: Int?, _ outbound: Int?) -> ResourceLimits.Streams {
            ResourceLimits.Streams(
                inbound: (inbound ?? Self.mostFlows) + spare,
                outbound: (outbound ?? Self.mostFlows) + spare
            )
        }
        let inAll = room(self.limits.inbound, self.limits.outbound)
        let ofPeer = room(self.limits.inboundPerPeer, self.limits.outboundPerPeer)
        var limits = ResourceLimits()
        limits.systemConnections = .init(inbound: Self.mostPeers * 5 / 4, outbound: Self.mostPeers * 5 / 4)
        // A site's nodes may all be behind one NAT.
        limits.connectionsPerAddress = Self.mostPeers / 2
        // Circuits of a relay and flows share the whole; each circuit is a stream in and one out.
        limits.systemStreams = .init(inbound: inAll.inbound + Self.mostPeers, outbound: inAll.outbound + Self.mostPeers)
        limits.peerStreams = ofPeer
        limits.protocolStreams = inAll
        limits.protocolPeerStreams = ofPeer
        limits.memoryBytes =
            limits.systemConnections.inbound * limits.bytesPerConnection
            + (inAll.inbound + inAll.outbound) * limits.bytesPerStream
        configuration.limits = limits
        configuration.yamux.maximumInboundStreams = ofPeer.inbound
        configuration.yamux.maximumOutboundStreams = ofPeer.outbound
    }
}
