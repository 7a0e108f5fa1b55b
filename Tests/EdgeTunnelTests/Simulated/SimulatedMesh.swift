import HashTreeCollections
import KubeModel
import LibP2P
import Logging
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import NetSim
import PeerIdentity
import ServiceCatalog
import Synchronization

@testable import EdgeTunnel

/// A node of the mesh on a simulated machine.
final class SimulatedNode: Sendable {
    let name: String
    let machine: Machine
    let mesh: MeshNode
    let catalog = ClusterCatalog()
    private let down = Mutex<[Set<String>]>([])

    init(
        _ name: String,
        on machine: Machine,
        relays: [TunnelSettings.Relay] = [],
        identity: KeyPair? = nil,
        _ configure: (inout TunnelSettings) -> Void = { _ in }
    ) throws {
        let identity = try identity ?? KeyPair.derived(nodeName: name)
        var settings = TunnelSettings(nodeName: name)
        settings.relays = relays
        settings.portMapping = false
        configure(&settings)
        let interfaces = InterfaceSelection(named: [], filtered: [])
        let directory = PeerDirectory(ownName: name, ownPeer: identity.peerID)
        let host = try machine.host(identity: identity) { configuration in
            settings.apply(to: &configuration, interfaces, directory)
            configuration.listenAddresses = []
        }
        let unreachable = UnreachableNodes(loop: machine.simulation.loop)
        self.name = name
        self.machine = machine
        self.mesh = MeshNode(
            host: host,
            settings: settings,
            directory: directory,
            interfaces: interfaces,
            unreachable: unreachable,
            logger: host.logger
        )
        _ = unreachable.observe { [weak self] nodes in self?.down.withLock { $0.append(nodes) } }
    }

    var host: Host { self.mesh.host }
    /// What was told of unreachable nodes, in order.
    var told: [Set<String>] { self.down.withLock { $0 } }
    var unreachable: Set<String> { self.told.last ?? [] }

    func start() async throws { try await self.mesh.start(catalog: self.catalog) }

    func stop() async { await self.mesh.stop(deadline: self.machine.simulation.loop.now) }

    func path(to node: SimulatedNode) -> NodePath? { self.mesh.paths.paths[node.name] }

    /// Knows where another node is, as if it had been found.
    func find(_ other: SimulatedNode) {
        self.host.peers.add(other.host.listenAddresses, to: other.host.peerID, lifetime: .permanent)
    }

    /// As an open flow would.
    func use(_ other: SimulatedNode) async throws -> Connection {
        try await self.mesh.paths.connection(
            to: other.name,
            other.host.peerID,
            on: self.machine.simulation.loop,
            deadline: self.machine.simulation.loop.now + .seconds(30)
        ).get()
    }

    func learn(_ records: [String: PeerID?]) {
        let objects = records.map { name, peer -> ClusterObject in
            var node = NodeObject(name: name)
            node.peerID = peer?.description
            return .node(node)
        }
        self.catalog.apply(objects.map { .upsert($0) }, from: .api)
    }
}

extension TunnelSettings.Relay {
    init(_ name: String, at address: IPv4Address) {
        self.init(nodeName: name, hosts: [.ip4(address)])
    }
}

extension Simulation {
    func pause(_ time: TimeAmount) async throws {
        try await self.loop.scheduleTask(in: time) {}.futureResult.get()
    }

    /// Waits until it is so. False if it is not within that time.
    func wait(atMost bound: TimeAmount, until condition: () -> Bool) async throws -> Bool {
        let deadline = self.loop.now + bound
        while !condition() {
            guard self.loop.now < deadline else { return false }
            try await self.pause(.milliseconds(20))
        }
        return true
    }
}
