import KubeModel
public import LoadBalancing
public import MeshCore
public import ServiceCatalog
import Synchronization

/// The endpoints of one service port and whose turn it is, shared by all loops so that turns, affinity and connection counts
/// hold for the whole node. Its lock is held for a pick only. Any thread.
public final class SharedBalancer: Sendable {
    /// Which endpoints they are.
    public struct Key: Sendable, Hashable {
        public var service: ObjectName
        public var transport: TransportProtocol
        public var port: UInt16
        /// Nil for endpoints of both.
        public var family: IPFamily?
        /// Only endpoints of this node.
        public var isLocal: Bool
        /// Only endpoints of this subset of the service's DestinationRule.
        public var subset: String?

        public init(
            service: ObjectName,
            transport: TransportProtocol,
            port: UInt16,
            family: IPFamily? = nil,
            isLocal: Bool = false,
            subset: String? = nil
        ) {
            self.subset = subset
            self.service = service
            self.transport = transport
            self.port = port
            self.family = family
            self.isLocal = isLocal
        }
    }

    /// An endpoint that was chosen, until `end`.
    public struct Pick: Sendable {
        /// Names the endpoint in `PickContext.excluded`.
        public var slot: Int
        public var endpoint: ResolvedEndpoint
    }

    public struct EndpointStatus: Sendable {
        public var address: TransportAddress
        public var node: String?
        public var active: Int
        public var failures: UInt64
    }

    private struct State {
        var balancer: EndpointBalancer
        var generator: SeededGenerator
        var endpoints: [TransportAddress: ResolvedEndpoint]
        var failures: [TransportAddress: UInt64] = [:]
        /// A large hash table is being built beside the loops.
        var isBuildingTable = false
    }

    public let key: Key
    private let state: Mutex<State>

    /// - Parameter weights: by endpoint; one that has none weighs 1.
    public init(
        _ key: Key,
        policy: LoadBalancingPolicy,
        affinitySeconds: Int?,
        endpoints: [ResolvedEndpoint],
        weights: [TransportAddress: UInt32] = [:],
        seed: UInt64
    ) {
        self.key = key
        var generator = SeededGenerator(seed: seed)
        let balancer = EndpointBalancer(
            policy: policy,
            endpoints: Self.balanced(endpoints, weights),
            affinityTimeout: affinitySeconds.map { .seconds($0) },
            using: &generator
        )
        self.state = Mutex(State(balancer: balancer, generator: generator, endpoints: Self.index(endpoints)))
    }

    /// Endpoints that stay keep their turn and their connections.
    public func update(
        policy: LoadBalancingPolicy,
        affinitySeconds: Int?,
        endpoints list: [ResolvedEndpoint],
        weights: [TransportAddress: UInt32] = [:]
    ) {
        // What takes time with thousands of endpoints is done before the lock is taken; in order they are sorted at once.
        let balanced = Self.balanced(list, weights).sorted { $0.address < $1.address }
        let endpoints = Self.index(list)
        self.state.withLock { state in
            state.balancer.update(policy: policy, affinityTimeout: affinitySeconds.map { .seconds($0) })
            state.balancer.update(endpoints: balanced, using: &state.generator)
            state.endpoints = endpoints
            state.failures = state.failures.filter { endpoints[$0.key] != nil }
        }
    }

    /// What a connection must show before an endpoint can be chosen; nil if its address is enough.
    public var httpKey: ConsistentHashPolicy.Key? {
        self.state.withLock { state in
            guard case .consistentHash(let policy) = state.balancer.policy, policy.needsHTTP else { return nil }
            return policy.key
        }
    }

    /// Chooses an endpoint and counts a connection to it; `end` takes it back.
    public func begin(_ context: PickContext) -> Pick? {
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

    /// Counts a connection to the endpoint that `isWanted` names, whosever turn it is; nil if no endpoint is it.
    public func begin(where isWanted: (ResolvedEndpoint) -> Bool) -> Pick? {
        let endpoints = self.state.withLock { $0.endpoints }
        // Searched without the lock: picks go on.
        guard let endpoint = endpoints.values.first(where: isWanted) else { return nil }
        return self.state.withLock { state in
            guard let slot = state.balancer.slot(listing: endpoint.transportAddress) else { return nil }
            state.balancer.begin(slot)
            return Pick(slot: slot, endpoint: endpoint)
        }
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
    public var isBuildingTable: Bool { self.state.withLock { $0.isBuildingTable } }

    /// The connection is over; `failed` if it never came to be.
    public func end(_ pick: Pick, failed: Bool = false) {
        self.state.withLock { state in
            state.balancer.end(pick.slot)
            if failed, state.endpoints[pick.endpoint.transportAddress] != nil {
                state.failures[pick.endpoint.transportAddress, default: 0] += 1
            }
        }
    }

    public func contains(_ address: TransportAddress) -> Bool {
        self.state.withLock { $0.endpoints[address] != nil }
    }

    public var endpointCount: Int { self.state.withLock { $0.endpoints.count } }

    /// At most `limit` endpoints, in the order of their addresses.
    public func status(limit: Int) -> [EndpointStatus] {
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

    private static func balanced(
        _ endpoints: [ResolvedEndpoint],
        _ weights: [TransportAddress: UInt32]
    ) -> [BalancedEndpoint] {
        endpoints.map { BalancedEndpoint($0.transportAddress, weight: weights[$0.transportAddress] ?? 1) }
    }

    private static func index(_ endpoints: [ResolvedEndpoint]) -> [TransportAddress: ResolvedEndpoint] {
        Dictionary(endpoints.map { ($0.transportAddress, $0) }, uniquingKeysWith: { first, _ in first })
    }
}
