import EndpointBalancing
import GatewayRouting
import HashTreeCollections
import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog
import Synchronization

/// The balancers of the service ports that requests have gone to, kept up to date with the catalog. Any thread.
final class BackendDirectory: Sendable {
    private struct State {
        var snapshot: CatalogSnapshot
        var balancers: [SharedBalancer.Key: SharedBalancer] = [:]
        var generator: SeededGenerator
        var isUnreachable: @Sendable (Endpoint) -> Bool = { _ in false }
    }

    private let defaultPolicy: LoadBalancingPolicy
    private let state: Mutex<State>

    init(defaultPolicy: LoadBalancingPolicy, seed: UInt64) {
        self.defaultPolicy = defaultPolicy
        self.state = Mutex(State(snapshot: CatalogSnapshot(), generator: SeededGenerator(seed: seed)))
    }

    /// Nil if the service is not known or has no such port.
    func balancer(for backend: Backend, transport: TransportProtocol = .tcp) -> SharedBalancer? {
        let key = SharedBalancer.Key(
            service: backend.service,
            transport: transport,
            port: backend.port,
            subset: backend.subset
        )
        return self.state.withLock { state in
            if let known = state.balancers[key] { return known }
            guard let (service, port) = Self.port(key, state.snapshot) else { return nil }
            let balancer = SharedBalancer(
                key,
                policy: service.policy(for: port) ?? self.defaultPolicy,
                affinitySeconds: service.object.clientIPAffinitySeconds,
                endpoints: Self.endpoints(service, port, key.subset, without: state.isUnreachable),
                seed: state.generator.next()
            )
            state.balancers[key] = balancer
            return balancer
        }
    }

    func update(_ update: CatalogUpdate) {
        self.state.withLock { state in
            state.snapshot = update.snapshot
            for key in state.balancers.keys where update.changedServices.contains(key.service) {
                self.refresh(key, &state)
            }
        }
    }

    /// Leaves endpoints out as long as their service has others.
    func avoid(_ isUnreachable: @escaping @Sendable (Endpoint) -> Bool) {
        self.state.withLock { state in
            state.isUnreachable = isUnreachable
            for key in state.balancers.keys { self.refresh(key, &state) }
        }
    }

    private func refresh(_ key: SharedBalancer.Key, _ state: inout State) {
        guard let (service, port) = Self.port(key, state.snapshot) else {
            // Sessions that still have it see that their endpoint is gone.
            state.balancers.removeValue(forKey: key)?
                .update(policy: self.defaultPolicy, affinitySeconds: nil, endpoints: [])
            return
        }
        state.balancers[key]?.update(
            policy: service.policy(for: port) ?? self.defaultPolicy,
            affinitySeconds: service.object.clientIPAffinitySeconds,
            endpoints: Self.endpoints(service, port, key.subset, without: state.isUnreachable)
        )
    }

    private static func port(
        _ key: SharedBalancer.Key,
        _ snapshot: CatalogSnapshot
    ) -> (Service, ServiceObject.Port)? {
        guard let service = snapshot.services[key.service],
            let port = service.object.ports.first(where: { $0.port == key.port && $0.transport == key.transport })
        else { return nil }
        return (service, port)
    }

    /// What is known of nodes may be a moment old: if none can be reached, all are tried.
    private static func endpoints(
        _ service: Service,
        _ port: ServiceObject.Port,
        _ subset: String?,
        without isUnreachable: (Endpoint) -> Bool
    ) -> [ResolvedEndpoint] {
        let serving = service.endpoints(for: port, subset: subset).serving(
            publishNotReady: service.object.publishNotReadyAddresses
        )
        let reachable = serving.filter { !isUnreachable($0.endpoint) }
        return reachable.isEmpty ? serving : reachable
    }
}
