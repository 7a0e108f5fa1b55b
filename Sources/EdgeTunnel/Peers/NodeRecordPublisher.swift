import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import ServiceCatalog

/// Writes an annotation into the cluster's record of a node.
public protocol NodeAnnotating: Sendable {
    func annotate(node: String, key: String, value: String) async throws
}

/// Keeps this node's peer ID in the cluster's record of the node, where the other agents look for it.
///
/// It writes only what differs from the catalog, and not often: two agents that take themselves for the same node would overwrite
/// each other for ever.
struct NodeRecordPublisher: Sendable {
    let nodeName: String
    let peer: PeerID
    let catalog: any CatalogReading
    let annotator: any NodeAnnotating
    let loop: any EventLoop
    let logger: Logger
    /// Between two looks at the record.
    var interval: TimeAmount = .seconds(60)
    var backoff = Backoff(base: .seconds(1), cap: .seconds(300))

    /// Runs until it is cancelled.
    func run() async {
        var backoff = self.backoff
        while !Task.isCancelled {
            var pause = self.interval
            if self.recorded != self.peer.description {
                do {
                    try await self.annotator.annotate(
                        node: self.nodeName,
                        key: NodeObject.peerIDAnnotation,
                        value: self.peer.description
                    )
                    backoff.reset()
                    self.logger.notice(
                        "this node's record in the cluster names its peer",
                        metadata: ["peer-id": "\(self.peer)"]
                    )
                } catch {
                    let delay = backoff.next()
                    pause = .nanoseconds(delay.saturatedNanoseconds)
                    self.logger.warning(
                        "this node's peer ID is not in the cluster's record of the node, so others cannot reach it",
                        metadata: [
                            "error": "\(error)",
                            "mend":
                                "allow the agent to patch nodes, or run: kubectl annotate --overwrite node \(self.nodeName) \(NodeObject.peerIDAnnotation)=\(self.peer)",
                        ]
                    )
                }
            }
            guard await self.loop.pause(pause) else { return }
        }
    }

    private var recorded: String? { self.catalog.snapshot.nodes[self.nodeName]?.peerID }
}
