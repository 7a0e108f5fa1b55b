import Configuration
import Documents
import EdgeCNI
import EdgeTunnel
import FakeKube
import Glibc
import LibP2P
import Logging
import MeshTesting
import Multiformats
import NIOPosix
import ServiceLifecycle
import Synchronization
import Testing

@testable import EdgeTunnel
@testable import MeshApp

extension NodePlatform {
    /// No machine at all: nothing is made, and nothing redirected.
    static let nothing = NodePlatform(
        ensureBridge: { _, _ in },
        makeProgramming: { _, _, _ in NoKernelProgramming() },
        makePodNetwork: { PodNetworkPlatform.live(backend: $0, logger: $1) },
        udpOriginalDestination: { _, _ in nil },
        clearStaleFlows: { _ in }
    )
}

/// Agents that follow a cluster, each with its tunnel on loopback, and without the machine below them.
final class ClusterAgents {
    /// One of them while it runs.
    struct Agent {
        let parts: AgentParts
        fileprivate let group: ServiceGroup
        fileprivate let running: Task<Void, any Error>

        var tunnel: EdgeTunnelService {
            get throws { try #require(self.parts.tunnel) }
        }

        /// The host of its tunnel.
        var mesh: MeshNode {
            get throws { try #require(self.tunnel.state.withLock { $0.running }) }
        }

        func stop() async {
            await self.group.triggerGracefulShutdown()
            _ = await self.running.result
        }
    }

    let kube = FakeKube()
    let folder: String

    init(_ name: String) {
        self.folder = "/tmp/edgemesh-\(name)-\(getpid())"
        mkdir(self.folder, 0o700)
    }

    func remove() async {
        await self.kube.stop()
        _ = try? shell("rm -rf \(self.folder)")
    }

    func addNode(_ name: String) {
        self.kube.apply([
            "apiVersion": "v1", "kind": "Node", "metadata": ["name": .string(name)],
            "status": ["addresses": [["type": "InternalIP", "address": "127.0.0.1"]]],
        ])
    }

    /// What the cluster's record of a node says of its peer.
    func record(of node: String) throws -> String? {
        let json = try #require(self.kube.json("nodes", name: node))
        return try Document.parseJSON(json)["metadata"]?["annotations"]?["edgemesh.kubeedge.io/peer-id"]?.string
    }

    func stateFolder(of node: String) -> String { "\(self.folder)/\(node)" }

    func start(_ name: String, _ change: (inout AgentConfiguration) -> Void = { _ in }) async throws -> Agent {
        mkdir(self.stateFolder(of: name), 0o700)
        var configuration = AgentConfiguration.defaults(ConfigurationEnvironment(variables: ["NODE_NAME": name]))
        configuration.commonConfig.nodeName = name
        configuration.commonConfig.stateDir = self.stateFolder(of: name)
        configuration.kubeAPIConfig.mode = .manual
        configuration.kubeAPIConfig.master = self.kube.url
        configuration.modules.edgeDNS.enable = false
        configuration.modules.edgeProxy.enable = false
        configuration.modules.edgeTunnel.enable = true
        configuration.modules.edgeTunnel.listenPort = 0
        configuration.modules.edgeTunnel.listenInterfaces = "lo"
        configuration.modules.edgeTunnel.portMapping = false
        configuration.modules.edgeTunnel.psk.enable = false
        change(&configuration)
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let parts = AgentParts(
            configuration: configuration,
            platform: .nothing,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: logger
        )
        let group = ServiceGroup(configuration: .init(services: parts.services(admin: []), logger: logger))
        let agent = Agent(parts: parts, group: group, running: Task { try await group.run() })
        try await eventually("the tunnel of \(name) is up") {
            parts.tunnel?.state.withLock { $0.running } != nil
        }
        return agent
    }

    /// As mDNS would.
    static func introduce(_ other: Agent, to agent: Agent) throws {
        let host = try other.mesh.host
        try agent.mesh.host.peers.add(host.listenAddresses, to: host.peerID, lifetime: .permanent)
    }
}
