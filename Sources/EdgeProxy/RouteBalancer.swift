import EndpointBalancing

/// The balancer of one user-space route.
typealias RouteBalancer = SharedBalancer

extension SharedBalancer {
    convenience init(_ route: ProxyRoute, seed: UInt64) {
        self.init(
            route.key,
            policy: route.policy,
            affinitySeconds: route.affinitySeconds,
            endpoints: route.endpoints,
            weights: route.weights,
            seed: seed
        )
    }

    func update(_ route: ProxyRoute) {
        self.update(
            policy: route.policy,
            affinitySeconds: route.affinitySeconds,
            endpoints: route.endpoints,
            weights: route.weights
        )
    }
}
