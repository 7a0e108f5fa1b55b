import LibP2P
import PeerIdentity
import Testing
import Yamux

@testable import EdgeTunnel

/// What follows from what a node is to carry.
@Suite struct TunnelCapacityTests {
    private static func settings(
        flows: Int? = 32_768,
        perPeer: Int? = 16_384,
        nodes: Int? = nil,
        isRelay: Bool = false
    ) -> TunnelSettings {
        var settings = TunnelSettings(nodeName: "node")
        settings.limits.inbound = flows
        settings.limits.outbound = flows
        settings.limits.inboundPerPeer = perPeer
        settings.limits.outboundPerPeer = perPeer
        settings.maximumNodes = nodes
        if isRelay { settings.relays = [TunnelSettings.Relay(nodeName: "node", hosts: [])] }
        return settings
    }

    private static func host(_ settings: TunnelSettings) throws -> HostConfiguration {
        let own = try KeyPair.derived(nodeName: settings.nodeName).peerID
        var configuration = HostConfiguration()
        settings.apply(
            to: &configuration,
            InterfaceSelection(named: [], filtered: []),
            PeerDirectory(ownName: settings.nodeName, ownPeer: own)
        )
        return configuration
    }

    @Test(
        "connections and streams at all their limits, and unread bytes, fit the node",
        arguments: [
            // As the configuration has it by default, on a node of half a gigabyte; a relay of the cloud; a very small node.
            (Self.settings(), 256), (Self.settings(isRelay: true), 576),
            (Self.settings(flows: 1000, perPeer: 500, nodes: 32), 80),
        ]
    )
    func memory(_ settings: TunnelSettings, mebibytes: Int) throws {
        let limits = try Self.host(settings).limits
        #expect((limits.memoryBytes + limits.unreadBytes) >> 20 <= mebibytes)
    }

    @Test(
        "no limit of the host stands before those of flows and nodes",
        arguments: [
            Self.settings(), Self.settings(isRelay: true), Self.settings(flows: nil, perPeer: nil),
            Self.settings(flows: 7, perPeer: 3, nodes: 2), Self.settings(flows: 3, perPeer: 100_000, nodes: 100_000),
        ]
    )
    func room(_ settings: TunnelSettings) throws {
        let configuration = try Self.host(settings)
        let (limits, flows, nodes) = (configuration.limits, settings.flowLimits, settings.capacity.peers)
        for (direction, table) in [(\ResourceLimits.Streams.inbound, flows.acceptor), (\.outbound, flows.opener)] {
            #expect(limits.systemStreams[keyPath: direction] > table.maximumFlows)
            #expect(limits.peerStreams[keyPath: direction] > table.maximumFlowsPerPeer)
            #expect(limits.protocolStreams[keyPath: direction] >= table.maximumFlows)
            #expect(limits.protocolPeerStreams[keyPath: direction] >= table.maximumFlowsPerPeer)
        }
        #expect(configuration.yamux.maximumInboundStreams > flows.acceptor.maximumFlowsPerPeer)
        #expect(configuration.yamux.maximumOutboundStreams > flows.opener.maximumFlowsPerPeer)
        #expect(limits.systemConnections.inbound > nodes && limits.systemConnections.outbound > nodes)
        #expect(configuration.connectionManager.highWater == nodes && limits.connectionsPerAddress == nodes)
        #expect(configuration.peerStore.maximumPeers >= nodes)
    }

    @Test("what a node carries follows from its role, unless it is set")
    func role() {
        #expect(Self.settings().capacity.peers == TunnelSettings.defaultNodes)
        #expect(Self.settings(isRelay: true).capacity.peers == TunnelSettings.defaultNodesOfRelay)
        #expect(Self.settings(nodes: 77, isRelay: true).capacity.peers == 77)
    }
}
