package import LibP2P
import LibP2PDiscovery
import LibP2PRelay
import MeshCore
package import MeshInterfaces
package import Multiformats
package import NIOCore
package import PeerIdentity

/// A node of the mesh on a host that is made elsewhere: on a simulated machine. It seeks nobody in the local network, and its own address
/// is what the host says. Any thread.
package final class MeshMember: Sendable {
    package let name: String
    let node: MeshNode

    /// - Parameters:
    ///   - loop: one of the host's.
    ///   - makeHost: makes the host, which the given closure sets up as the settings have it.
    package init(
        settings: TunnelSettings,
        identity: KeyPair,
        on loop: any EventLoop,
        makeHost: ((inout HostConfiguration) -> Void) throws -> Host
    ) throws {
        let interfaces = InterfaceSelection(named: settings.listenInterfaces, filtered: settings.filteredInterfaces)
        let directory = PeerDirectory(ownName: settings.nodeName, ownPeer: identity.peerID)
        let host = try makeHost { configuration in
            settings.apply(to: &configuration, interfaces, directory)
            configuration.listenAddresses = []
        }
        self.name = settings.nodeName
        self.node = MeshNode(
            host: host,
            settings: settings,
            directory: directory,
            interfaces: interfaces,
            unreachable: UnreachableNodes(loop: loop),
            logger: host.logger
        )
    }

    package func start(catalog: any CatalogReading) async throws { try await self.node.start(catalog: catalog) }

    package func stop(deadline: NIODeadline) async { await self.node.stop(deadline: deadline) }

    package var host: Host { self.node.host }

    /// The relays that hold a slot for this node.
    package var relays: Set<PeerID> { Set(self.node.relayClient.reservations.map(\.relay)) }

    /// What is known of each node that was connected or asked for, by its name.
    package var paths: [String: NodePath] { self.node.paths.paths }

    /// A connection to a node, as a flow to it has one.
    package func connection(to node: String, deadline: NIODeadline) -> EventLoopFuture<Connection> {
        guard let peer = self.node.directory.peer(of: node) else {
            return self.node.loop.makeFailedFuture(
                TunnelError(code: .unknownNode, message: "nothing tells which peer node \(node) is")
            )
        }
        return self.node.paths.connection(to: node, peer, on: self.node.loop, deadline: deadline)
    }

    /// Requests that this node has sent to the DHT.
    package func requestsToDHT() async -> UInt64 {
        let (wan, lan) = (await self.node.dht.wan.metrics(), await self.node.dht.lan.metrics())
        return wan.requestsSent + lan.requestsSent
    }
}
