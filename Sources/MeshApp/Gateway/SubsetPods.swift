import HashTreeCollections
import KubeClient
import MeshCore
import ServiceCatalog
import Synchronization

/// The labels of the cluster's pods in those namespaces in which the gateway's plan has subsets. Any thread.
final class SubsetPods: Sendable {
    let namespaces = WantedSet<String>()
    private let catalog: ClusterCatalog
    private let found = Mutex<[String: String]>([:])

    init(catalog: ClusterCatalog) { self.catalog = catalog }

    /// What keeps labels from being followed, in words.
    var problems: [String] {
        let wanted = self.namespaces.elements
        return self.found.withLock { found in
            found.filter { wanted.contains($0.key) }.sorted { $0.key < $1.key }.map {
                "pods of \($0.key), whose labels subsets need: \($0.value)"
            }
        }
    }

    /// Takes in what the cluster says.
    func take(_ event: PodLabelEvent) {
        switch event {
        case .following(let namespaces):
            self.found.withLock { $0 = $0.filter { namespaces.contains($0.key) } }
            self.catalog.keepPods(in: namespaces)
        // What comes may have been read while it was still asked for.
        case .listed(let namespace, let pods):
            if self.namespaces.elements.contains(namespace) { self.catalog.replacePods(pods, in: namespace) }
        case .changed(let namespace, let events):
            if self.namespaces.elements.contains(namespace) { self.catalog.apply(events, from: .api) }
        case .problem(let namespace, let problem): self.found.withLock { $0[namespace] = problem }
        }
    }
}
