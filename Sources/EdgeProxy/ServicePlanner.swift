import EndpointBalancing
import KubeModel
import LinuxNetwork
public import LoadBalancing
public import MeshCore
public import ServiceCatalog

/// Decides how each frontend of a service is served on this node.
public struct ServicePlanner: Sendable, Hashable {
    public var reach: EndpointReach
    public var hasIPv6: Bool
    public var defaultPolicy: LoadBalancingPolicy
    /// The zone of this node; nil if it has none, or none is known.
    public var zone: String?
    /// The regions of zones, as far as nodes tell.
    public var regions: [String: String] = [:]
    /// Nodes that the tunnel finds no way to: their endpoints are left out as long as there are others.
    public var unreachableNodes: Set<String> = []

    public init(
        nodeName: String,
        routableCIDRs: [CIDR] = [],
        hasIPv6: Bool = false,
        defaultPolicy: LoadBalancingPolicy = .roundRobin
    ) {
        self.reach = EndpointReach(nodeName: nodeName, routableCIDRs: routableCIDRs)
        self.hasIPv6 = hasIPv6
        self.defaultPolicy = defaultPolicy
    }

    /// Nil if the proxy has nothing to do with the service: filtered out, headless, or a name only.
    public func plan(_ service: Service) -> ServicePlan? {
        let object = service.object
        guard service.isProxied, !object.isHeadless, object.type != .externalName else { return nil }
        var frontends: [PlannedFrontend] = []
        for port in object.ports where port.transport != .sctp {
            let endpoints = service.endpoints(for: port)
            for (match, origin) in self.matches(of: object, port) {
                let number = origin == .nodePort ? port.nodePort : port.port
                let frontend = KernelFrontend(match: match, transport: port.transport, port: number)
                guard !frontends.contains(where: { $0.frontend == frontend }) else { continue }
                frontends.append(self.plan(service, port, endpoints, frontend, origin))
            }
        }
        return frontends.isEmpty ? nil : ServicePlan(service: service.name, frontends: frontends)
    }

    private func matches(
        of object: ServiceObject,
        _ port: ServiceObject.Port
    ) -> [(KernelFrontend.Match, PlannedFrontend.Origin)] {
        var matches: [(KernelFrontend.Match, PlannedFrontend.Origin)] = []
        matches += object.clusterIPs.map { (.address($0), .clusterIP) }
        matches += object.externalIPs.map { (.address($0), .externalIP) }
        matches += object.loadBalancerIngress.map { (.address($0), .loadBalancerIP) }
        if port.nodePort != 0 {
            let families = Set(object.clusterIPs.map(\.family))
            matches += families.sorted().map { (.nodePort($0), .nodePort) }
        }
        return matches.filter { match, _ in
            switch match {
            case .address(let address): !address.isUnspecified && (self.hasIPv6 || address.family == .v4)
            case .nodePort(let family): self.hasIPv6 || family == .v4
            }
        }
    }

    private func plan(
        _ service: Service,
        _ port: ServiceObject.Port,
        _ endpoints: [ResolvedEndpoint],
        _ frontend: KernelFrontend,
        _ origin: PlannedFrontend.Origin
    ) -> PlannedFrontend {
        let object = service.object
        let trafficPolicy = origin == .clusterIP ? object.internalTrafficPolicy : object.externalTrafficPolicy
        let affinity = frontend.transport == .sctp ? nil : object.clientIPAffinitySeconds
        var note: String?
        var policy = service.policy(for: port) ?? self.defaultPolicy
        if affinity != nil, service.policy(for: port) != nil {
            policy = self.defaultPolicy
            note = "session affinity ClientIP goes before the policy of the DestinationRule"
        }
        if case .consistentHash(let hash) = policy, hash.needsHTTP, frontend.transport == .udp {
            policy = .consistentHash(ConsistentHashPolicy(key: .sourceAddress, algorithm: hash.algorithm))
            note = "UDP has no HTTP request to hash: the client's address is hashed"
        }
        var planned = PlannedFrontend(
            frontend: frontend,
            origin: origin,
            portName: port.name,
            policy: policy,
            rule: KernelRule(
                action: .reject,
                sourceRanges: origin == .loadBalancerIP ? object.loadBalancerSourceRanges : []
            ),
            route: nil,
            reason: "",
            note: note
        )
        let family = endpoints.filter { $0.endpoint.address.family == frontend.family }
        let cluster = family.serving(publishNotReady: object.publishNotReadyAddresses)
        let usable: [ResolvedEndpoint]
        var weights: [TransportAddress: UInt32] = [:]
        switch trafficPolicy {
        case .cluster:
            (usable, weights) = self.preferred(self.reachable(cluster), service)
        case .local:
            usable = family.filter(self.isLocal).serving(publishNotReady: object.publishNotReadyAddresses)
        }
        guard !usable.isEmpty else {
            if cluster.isEmpty {
                planned.reason = family.isEmpty ? "no endpoints" : "no endpoint is ready"
            } else {
                // For pods of such a node the service "behaves as if it has zero endpoints"
                // (https://kubernetes.io/docs/concepts/services-networking/service-traffic-policy/), and a service without
                // endpoints refuses: the caller learns at once. The API reference says "dropping the traffic" of the same field,
                // as kube-proxy does, which only makes the caller wait. An outside client comes by a balancer that may try
                // another node: silence makes it do that.
                planned.rule.action = origin == .clusterIP ? .reject : .drop
                planned.reason = "traffic policy Local and no endpoint on this node"
            }
            return planned
        }
        let route = ProxyRoute(
            key: ProxyRoute.Key(
                service: service.name,
                transport: port.transport,
                port: port.port,
                family: frontend.family,
                isLocal: trafficPolicy == .local
            ),
            policy: policy,
            affinitySeconds: affinity,
            endpoints: usable,
            weights: weights
        )
        switch self.kernelBalancing(policy, usable, isWeighted: !weights.isEmpty) {
        case .kernel(let kernelPolicy):
            let local = usable.filter(self.isLocal)
            planned.rule.action = .balance(
                KernelBalancing(
                    policy: kernelPolicy,
                    backends: usable.map(\.transportAddress),
                    affinitySeconds: affinity,
                    localBackends: Set(local.map(\.endpoint.address)),
                    masquerade: origin != .clusterIP && trafficPolicy == .cluster && local.count < usable.count
                )
            )
            planned.reason = "every endpoint is reachable by the kernel"
            // The kernel cannot send a packet from 127.0.0.1 to another host: calls to the node port there come to the proxy.
            if origin == .nodePort { planned.route = route }
        case .user(let reason):
            planned.rule.action = .proxy
            planned.reason = reason
            planned.route = route
        }
        return planned
    }

    private func isLocal(_ endpoint: ResolvedEndpoint) -> Bool { self.reach.isLocal(endpoint.endpoint) }

    /// Without those on nodes that no path leads to, unless there are no others: what is known may be a moment old.
    private func reachable(_ endpoints: [ResolvedEndpoint]) -> [ResolvedEndpoint] {
        guard !self.unreachableNodes.isEmpty else { return endpoints }
        let reachable = endpoints.filter { endpoint in
            self.reach.tunnelNode(of: endpoint.endpoint).map { !self.unreachableNodes.contains($0) } ?? true
        }
        return reachable.isEmpty ? endpoints : reachable
    }

    private enum Path {
        case kernel(KernelBalancing.Policy)
        case user(String)
    }

    private func kernelBalancing(
        _ policy: LoadBalancingPolicy,
        _ endpoints: [ResolvedEndpoint],
        isWeighted: Bool
    ) -> Path {
        guard !isWeighted else { return .user("localityLbSetting.distribute weighs the endpoints") }
        let kernelPolicy: KernelBalancing.Policy
        switch policy {
        case .roundRobin: kernelPolicy = .roundRobin
        case .random: kernelPolicy = .random
        case .leastRequest: return .user("policy least request needs connection counts")
        case .consistentHash(let hash):
            guard !hash.needsHTTP else { return .user("the policy hashes a part of the HTTP request") }
            kernelPolicy = .sourceHash
        }
        for endpoint in endpoints where !self.isLocal(endpoint) {
            let address = endpoint.endpoint.address
            guard !self.reach.isRoutable(endpoint.endpoint) else { continue }
            guard let node = endpoint.endpoint.nodeName else {
                return .user("endpoint \(address) names no node and lies in no routable block")
            }
            return .user("endpoint \(address) on node \(node) is not reachable by the kernel")
        }
        return .kernel(kernelPolicy)
    }
}
