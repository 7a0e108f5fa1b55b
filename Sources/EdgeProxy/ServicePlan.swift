public import EndpointBalancing
public import LinuxNetwork
public import LoadBalancing
public import MeshCore
public import ServiceCatalog

/// What the proxy does for one service: its frontends with their actions. A pure function of the service and the node.
public struct ServicePlan: Sendable, Hashable {
    public var service: ObjectName
    /// In a stable order; a frontend appears once.
    public var frontends: [PlannedFrontend]

    public init(service: ObjectName, frontends: [PlannedFrontend]) {
        self.service = service
        self.frontends = frontends
    }
}

/// One address and port of a service, and how flows to it are served.
public struct PlannedFrontend: Sendable, Hashable {
    public enum Origin: String, Sendable, Hashable {
        case clusterIP
        case externalIP
        case loadBalancerIP
        case nodePort
    }

    public var frontend: KernelFrontend
    public var origin: Origin
    public var portName: String
    public var policy: LoadBalancingPolicy
    public var rule: KernelRule
    /// Set if the rule's action is `.proxy`, and for node ports that the kernel balances: calls to them on loopback come to
    /// the proxy.
    public var route: ProxyRoute?
    /// Why the kernel, the proxy or nobody serves it, for people.
    public var reason: String
    /// Something an operator should know: a setting that another one overrides.
    public var note: String?

    /// `kernel`, `user`, `reject`, `drop`.
    public var path: String {
        switch self.rule.action {
        case .balance: "kernel"
        case .proxy: "user"
        case .reject: "reject"
        case .drop: "drop"
        }
    }
}

/// What the user-space proxy needs to serve a frontend.
public struct ProxyRoute: Sendable, Hashable {
    /// Frontends with equal keys share one balancer: its turns, its affinity, its counts.
    public typealias Key = SharedBalancer.Key

    public var key: Key
    public var policy: LoadBalancingPolicy
    public var affinitySeconds: Int?
    /// Never empty.
    public var endpoints: [ResolvedEndpoint]
    /// By endpoint; empty if all are equal.
    public var weights: [TransportAddress: UInt32] = [:]
}
