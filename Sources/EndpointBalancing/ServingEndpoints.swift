import KubeModel
import MeshCore
public import ServiceCatalog

extension Sequence<ResolvedEndpoint> {
    /// Those that may have new connections, each address once: the ready ones; if there are none, those that still serve while
    /// they terminate.
    /// - Parameter publishNotReady: every endpoint counts as ready.
    public func serving(publishNotReady: Bool) -> [ResolvedEndpoint] {
        var seen: Set<TransportAddress> = []
        let distinct = self.filter { seen.insert($0.transportAddress).inserted }
        if publishNotReady { return distinct }
        let ready = distinct.filter { $0.endpoint.conditions.contains(.ready) }
        guard ready.isEmpty else { return ready }
        return distinct.filter { $0.endpoint.conditions.isSuperset(of: [.serving, .terminating]) }
    }
}
