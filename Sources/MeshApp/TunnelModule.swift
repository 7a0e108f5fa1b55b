import ByteStreams
import Configuration
import EdgeTunnel
import KubeClient
import Logging
import MeshCore
import Multiformats
import NIOCore
import NIOPosix
import ServiceCatalog

/// The tunnel, made of the agent's configuration.
enum TunnelModule {
    static let name = "edgeTunnel"

    static func make(
        _ configuration: AgentConfiguration,
        catalog: ClusterCatalog,
        group: MultiThreadedEventLoopGroup,
        logger: Logger
    ) -> EdgeTunnelService {
        EdgeTunnelService(
            settings: configuration.tunnelSettings,
            catalog: catalog,
            group: group,
            annotator: Self.annotator(configuration, group),
            logger: logger
        )
    }

    /// The Node object is the agent's: a gateway has none of its own to write to.
    private static func annotator(
        _ configuration: AgentConfiguration,
        _ group: MultiThreadedEventLoopGroup
    ) -> ClusterAnnotator? {
        guard configuration.followsAPI, configuration.role == .agent else { return nil }
        return ClusterAnnotator(configuration: configuration, group: group)
    }
}

/// Writes annotations by the API that the agent follows.
private struct ClusterAnnotator: NodeAnnotating {
    let configuration: AgentConfiguration
    let group: MultiThreadedEventLoopGroup

    func annotate(node: String, key: String, value: String) async throws {
        let annotator = NodeAnnotator(
            try self.configuration.kubeConfiguration(variable: ProcessEnvironment.variable),
            version: Version.number,
            group: self.group
        )
        try await annotator.annotate(node: node, key: key, value: value)
    }
}

extension AgentConfiguration {
    var tunnelSettings: TunnelSettings {
        let tunnel = self.modules.edgeTunnel
        var settings = TunnelSettings(nodeName: self.commonConfig.nodeName)
        settings.listenPort = tunnel.listenPort
        if self.role == .gateway {
            // As the original's: a client with a name and a port of its own, as its node may have an agent too.
            settings.nodeName += "-gateway"
            settings.listenPort = tunnel.listenPort == 0 ? 0 : tunnel.listenPort &+ 1
            settings.relayPort = tunnel.listenPort
            settings.acceptsFlows = false
        }
        settings.transport = TunnelSettings.Transport(rawValue: tunnel.transport.rawValue) ?? .tcp
        settings.rendezvous = tunnel.rendezvous
        settings.preSharedKeyFile = tunnel.psk.enable ? tunnel.psk.path : nil
        if tunnel.identity == .node {
            let file = tunnel.identityFile.isEmpty ? "\(self.commonConfig.stateDir)/tunnel.key" : tunnel.identityFile
            settings.identity = .node(file: file)
        }
        settings.revocationsFile = "\(self.commonConfig.stateDir)/revoked-peers"
        settings.relays = tunnel.relayNodes.map { relay in
            TunnelSettings.Relay(
                nodeName: relay.nodeName,
                hosts: relay.advertiseAddress.map { address -> Multiaddr.Component in
                    switch address {
                    case .address(.v4(let v4)): .ip4(v4)
                    case .address(.v6(let v6)): .ip6(v6)
                    case .name(let name): .dns(name)
                    }
                }
            )
        }
        settings.maximumRelays = tunnel.maxCandidates
        settings.relayService =
            self.role == .gateway
            ? .off : TunnelSettings.RelayService(rawValue: tunnel.relayService.rawValue) ?? .configured
        settings.finderPeriod = .seconds(Int64(tunnel.finderPeriod))
        settings.heartbeat = .seconds(Int64(tunnel.heartbeatPeriod))
        if tunnel.tunnelLimitConfig.enable {
            settings.limits.inbound = tunnel.tunnelLimitConfig.tunnelBaseStreamIn
            settings.limits.outbound = tunnel.tunnelLimitConfig.tunnelBaseStreamOut
            settings.limits.inboundPerPeer = tunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn
            settings.limits.outboundPerPeer = tunnel.tunnelLimitConfig.tunnelPeerBaseStreamOut
        }
        settings.maximumNodes = tunnel.maxNodes > 0 ? tunnel.maxNodes : nil
        settings.listenInterfaces = Set(Self.names(tunnel.listenInterfaces).filter { $0 != "*" })
        settings.filteredInterfaces = Self.names(tunnel.extraFilteredInterfaces)
        settings.holePunching = tunnel.holePunching
        if self.modules.edgeCNI.enable, self.role != .gateway {
            settings.packetDatagrams =
                TunnelSettings.PacketDatagrams(rawValue: tunnel.packetDatagrams.rawValue) ?? .auto
        }
        settings.portMapping = tunnel.portMapping
        settings.livenessInterval = TimeAmount(tunnel.livenessInterval)
        settings.livenessTimeout = TimeAmount(tunnel.livenessTimeout)
        settings.targets.mode = tunnel.targets.mode == .any ? .any : .catalog
        settings.targets.allowsLoopback = tunnel.targets.mode == .any
        settings.targets.allowed = tunnel.targets.allow.compactMap { TargetAccessSettings.Entry($0) }
        settings.targets.routableCIDRs = self.modules.edgeProxy.routableCIDRs
        return settings
    }
}
