import LibP2P
import MeshCore
import Multiformats
import NIOCore

extension TunnelSettings {
    /// Flows of one direction where the configuration sets no limit: as many as a process of 64,000 descriptors can glue.
    static let mostFlows = 60_000
    /// Nodes that may be connected at once: few need more of the cluster than that at a time, but a relay has all of it.
    static let defaultNodes = 512
    static let defaultNodesOfRelay = 4096

    /// What this node's host is to carry. A node that becomes a relay without a new start carries what it was started for.
    var capacity: HostCapacity {
        let nodes = self.maximumNodes ?? (self.isConfiguredRelay ? Self.defaultNodesOfRelay : Self.defaultNodes)
        let limits = self.flowLimits
        return HostCapacity(
            peers: nodes,
            streamsPerPeer: max(limits.opener.maximumFlowsPerPeer, limits.acceptor.maximumFlowsPerPeer),
            streams: max(limits.opener.maximumFlows, limits.acceptor.maximumFlows) + Self.circuits(nodes: nodes)
        )
    }

    /// Circuits that a relay carries at once; each is a stream in and one out.
    static func circuits(nodes: Int) -> Int { 2 * nodes }

    /// What stands above the host's part of an address of this node.
    var layers: [Multiaddr.Component] { self.layers(port: self.listenPort) }

    private func layers(port: UInt16) -> [Multiaddr.Component] { [.tcp(port)] + (self.transport == .ws ? [.ws] : []) }

    /// The addresses of a relay, without its peer.
    func addresses(of relay: Relay) -> [Multiaddr] {
        let layers = self.layers(port: self.relayPort ?? self.listenPort)
        return relay.hosts.map { Multiaddr([$0] + layers) }
    }

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
        configuration.fit(self.capacity)
    }
}
