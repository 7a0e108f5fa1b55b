import KubeModel
import LoadBalancing
import MeshCore
import NIOCore
import ServiceCatalog
import Synchronization

/// The balancer of one user-space route, shared by all loops so that turns, affinity and connection counts hold for the
/// whole node. Its lock is held for a pick only.
final class RouteBalancer: Sendable {
    struct Pick: Sendable {
        var slot: Int
        var endpoint: ResolvedEndpoint
    }

    struct EndpointStatus: Sendable {
        var address: TransportAddress
        var node: String?
        var active: Int
        var failures: UInt64
    }

    private struct State {
        var balancer: EndpointBalancer
        var generator: SeededGenerator
        var endpoints: [TransportAddress: ResolvedEndpoint]
        var failures: [TransportAddress: UInt64] = [:]
        /// A large hash table is being built beside the loops.
        var isBuildingTable = false
    }

    let key: ProxyRoute.Key
    private let state: Mutex<State>

    init(_ route: ProxyRoute, seed: UInt64) {
        self.key = route.key
        var generator = SeededGenerator(seed: seed)
        let balancer = EndpointBalancer(
            policy: route.policy,
            endpoints: route.balanced,
            affinityTimeout: route.affinitySeconds.map { .seconds($0) },
            using: &generator
        )
        self.state = Mutex(State(balancer: balancer, generator: generator, endpoints: Self.index(route.endpoints)))
    }

    func update(_ route: ProxyRoute) {
        // What takes time with thousands of endpoints is done before the lock is taken; in order they are sorted at once.
        let balanced = route.balanced.sorted { $0.address < $1.address }
        let endpoints = Self.index(route.endpoints)
        self.state.withLock { state in
            state.balancer.update(policy: route.policy, affinityTimeout: route.affinitySeconds.map { .seconds($0) })
            state.balancer.update(endpoints: balanced, using: &state.generator)
            state.endpoints = endpoints
            state.failures = state.failures.filter { endpoints[$0.key] != nil }
        }
    }

    /// What a connection must show before an endpoint can be chosen; nil if its address is enough.
    var httpKey: ConsistentHashPolicy.Key? {
        self.state.withLock { state in
            guard case .consistentHash(let policy) = state.balancer.policy, policy.needsHTTP else { return nil }
            return policy.key
        }
    }

    /// Chooses an endpoint and counts a connection to it; `end` takes it back.
    func begin(_ context: PickContext) -> Pick? {
        let (pick, request) = self.state.withLock { state -> (Pick?, ConsistentHashTableRequest?) in
            guard let slot = state.balancer.pick(context, using: &state.generator),
                let address = state.balancer.endpoint(in: slot)?.address, let endpoint = state.endpoints[address]
            else { return (nil, nil) }
            state.balancer.begin(slot)
            let request = state.isBuildingTable ? nil : state.balancer.takeTableRequest()
            if request != nil { state.isBuildingTable = true }
            return (Pick(slot: slot, endpoint: endpoint), request)
        }
        if let request { self.build(request) }
        return pick
    }

    /// Off the loops: a table of thousands of endpoints takes tens of milliseconds. One at a time for each route.
    private func build(_ request: ConsistentHashTableRequest) {
        Task {
            let table = await Self.table(request)
            self.state.withLock { state in
                state.balancer.install(table, for: request)
                state.isBuildingTable = false
            }
        }
    }

    @concurrent
    private static func table(_ request: ConsistentHashTableRequest) async -> ConsistentHashTable { request.build() }

    /// Whether the route's hash table is being built.
    var isBuildingTable: Bool { self.state.withLock { $0.isBuildingTable } }

    func end(_ pick: Pick, failed: Bool = false) {
        self.state.withLock { state in
            state.balancer.end(pick.slot)
            if failed, state.endpoints[pick.endpoint.transportAddress] != nil {
                state.failures[pick.endpoint.transportAddress, default: 0] += 1
            }
        }
    }

    func contains(_ address: TransportAddress) -> Bool {
        self.state.withLock { $0.endpoints[address] != nil }
    }

    var endpointCount: Int { self.state.withLock { $0.endpoints.count } }

    /// At most `limit` endpoints, in the order of their addresses.
    func status(limit: Int) -> [EndpointStatus] {
        let (endpoints, failures) = self.state.withLock { ($0.endpoints, $0.failures) }
        // Sorted without the lock: picks go on.
        let addresses = endpoints.keys.sorted().prefix(limit)
        let actives = self.state.withLock { state in addresses.map { state.balancer.active(to: $0) } }
        return zip(addresses, actives).map { address, active in
            EndpointStatus(
                address: address,
                node: endpoints[address]?.endpoint.nodeName,
                active: active,
                failures: failures[address] ?? 0
            )
        }
    }

    private static func index(_ endpoints: [ResolvedEndpoint]) -> [TransportAddress: ResolvedEndpoint] {
        Dictionary(endpoints.map { ($0.transportAddress, $0) }, uniquingKeysWith: { first, _ in first })
    }
}
