public import KubeModel
import MeshCore

/// What is told of the labels of pods.
public enum PodLabelEvent: Sendable {
    /// The namespaces that are followed from now on; what is known of the pods of others is of no use.
    case following(Set<String>)
    /// All pods of a namespace, and none but these.
    case listed(String, [PodObject])
    /// Pods of a namespace that came, went or have other labels.
    case changed(String, [SourceEvent])
    /// Why nothing new is known of the pods of a namespace, in words; nil once it is.
    case problem(String, String?)
}

extension KubernetesSource {
    /// The most namespaces whose pods are followed; of more the first in order are.
    public static let maximumPodNamespaces = 64

    /// Follows the names and labels of the pods of single namespaces, and nothing else of pods: what subsets are made of. Of the
    /// namespaces those that were asked for last, until cancelled.
    ///
    /// Each namespace has a connection of its own, by which its pods are listed and watched as `PartialObjectMetadata`.
    public func followPodLabels(
        _ wanted: AsyncStream<Set<String>>,
        sink: @escaping @Sendable (PodLabelEvent) async -> Void
    ) async throws {
        let gate = RequestGate(rate: self.options.requestsPerSecond, burst: self.options.burst)
        var following = FollowedTasks<String>()
        defer { following.cancel() }
        for await namespaces in wanted {
            let chosen = namespaces.sorted().prefix(Self.maximumPodNamespaces)
            await sink(.following(Set(chosen)))
            for namespace in namespaces.subtracting(chosen) {
                let most = "the pods of \(Self.maximumPodNamespaces) namespaces are followed already; these are not"
                await sink(.problem(namespace, most))
            }
            following.replace(with: chosen) { namespace in
                Task { try await self.followPods(of: namespace, gate, sink) }
            }
        }
        try Task.checkCancellation()
    }

    private func followPods(
        of namespace: String,
        _ gate: RequestGate,
        _ sink: @escaping @Sendable (PodLabelEvent) async -> Void
    ) async throws {
        let listing = PodListing()
        let reflector = Reflector(
            transport: self.transport,
            gate: gate,
            machine: self.machine(for: .podLabels(in: namespace)),
            logger: self.logger,
            sink: { events in
                if let news = await listing.take(events, of: namespace), !Task.isCancelled { await sink(news) }
            },
            report: { health in
                switch health {
                case .failing(let message), .limited(let message): await sink(.problem(namespace, message))
                case .synced: await sink(.problem(namespace, nil))
                case .connecting: break
                }
            }
        )
        try await reflector.run()
    }
}

/// Gathers a listing, so that no subset is ever told by a part of it.
private actor PodListing {
    private var pods: [PodObject]?

    /// What is to be told of a batch, which holds the beginning or the end of a listing by itself.
    func take(_ events: [SourceEvent], of namespace: String) -> PodLabelEvent? {
        switch events.first {
        case .syncBegan:
            self.pods = []
            return nil
        case .syncEnded:
            defer { self.pods = nil }
            return self.pods.map { .listed(namespace, $0) }
        default: break
        }
        // Of what cannot be read nothing is known.
        let known = events.filter { event in
            switch event {
            case .upsert(.pod(let pod)): pod.name.namespace == namespace
            case .deleted(.pod, let name): name.namespace == namespace
            default: false
            }
        }
        guard self.pods != nil else { return known.isEmpty ? nil : .changed(namespace, known) }
        for case .upsert(.pod(let pod)) in known { self.pods?.append(pod) }
        return nil
    }
}
