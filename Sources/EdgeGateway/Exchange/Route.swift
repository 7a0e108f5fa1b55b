import EndpointBalancing
import GatewayRouting

/// A rule as requests meet it: an object, as a rule is far too large to be copied for each of them. Confined to its worker's loop.
final class Route {
    let rule: HTTPRule
    /// Empty if the rule answers by itself.
    let targets: [RouteTarget]

    init(_ rule: HTTPRule) {
        self.rule = rule
        if case .forward(let backends) = rule.action {
            self.targets = backends.map { RouteTarget($0, of: rule) }
        } else {
            self.targets = []
        }
    }

    /// One of them by weight; nil if all weigh nothing.
    func target(using generator: inout some RandomNumberGenerator) -> RouteTarget? {
        if self.targets.count == 1 { return self.targets[0].weighted.weight > 0 ? self.targets[0] : nil }
        guard case .forward(let backends) = self.rule.action else { return nil }
        return backends.chooseIndex(using: &generator).map { self.targets[$0] }
    }
}

/// One of a rule's backends. Confined to its worker's loop.
final class RouteTarget {
    let weighted: WeightedBackend
    /// The rule, or the part of it for this backend, changes requests or responses.
    let changesRequests: Bool
    let changesResponses: Bool
    private var balancer: SharedBalancer?

    var backend: Backend? { self.weighted.backend }

    init(_ weighted: WeightedBackend, of rule: HTTPRule) {
        self.weighted = weighted
        let filters = [rule.filters, weighted.filters]
        self.changesRequests = filters.contains { !$0.request.isEmpty || $0.path != nil || $0.authority != nil }
        self.changesResponses = filters.contains { !$0.response.isEmpty }
    }

    /// Whose turn it is. A service that went away has left a balancer without endpoints, and may have come back with another.
    func pick(
        from directory: BackendDirectory,
        _ choose: (SharedBalancer) -> SharedBalancer.Pick?
    ) -> (balancer: SharedBalancer, pick: SharedBalancer.Pick?)? {
        if let balancer, let pick = choose(balancer) { return (balancer, pick) }
        guard let backend = self.backend, let present = directory.balancer(for: backend) else {
            self.balancer = nil
            return nil
        }
        guard present !== self.balancer else { return (present, nil) }
        self.balancer = present
        return (present, choose(present))
    }
}

/// The rules of the hosts of a listener, as requests meet them. Confined to its worker's loop.
final class RouteTable {
    private let hosts: HTTPHosts
    private let routes: [[Route]]

    init(_ hosts: HTTPHosts) {
        self.hosts = hosts
        self.routes = hosts.hosts.map { $0.rules.map { Route($0) } }
    }

    /// Of the host whose pattern fits best.
    func position(of name: String) -> Int? { self.hosts.position(ofHostNamed: name) }

    func redirectsToHTTPS(_ host: Int) -> Bool { self.hosts.hosts[host].redirectsToHTTPS }

    func route(of host: Int, for request: RequestHead, within budget: MatchBudget) -> Route? {
        self.hosts.hosts[host].ruleIndex(for: request, within: budget).map { self.routes[host][$0] }
    }
}
