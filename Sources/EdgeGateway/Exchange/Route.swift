import EndpointBalancing
import GatewayRouting

/// A rule as requests meet it: an object, as a rule is far too large to be copied for each of them. Confined to its worker's loop.
final class Route {
    /// Its parts stand beside it: most requests want none of them, and to look at one in the rule is to copy that.
    let rule: HTTPRule
    let origin: String
    let action: HTTPRule.Action
    let responseEdits: HeaderEdits
    let timeout: Duration?
    let tryTimeout: Duration?
    let retries: RetryPolicy?
    let mirrors: [Mirror]
    let cors: CORSPolicy?
    let fault: FaultInjection?
    let persistence: SessionPersistence?
    /// Every request is one of its.
    let matchesAll: Bool
    /// Empty if the rule answers by itself.
    let targets: [RouteTarget]

    init(_ rule: HTTPRule) {
        self.rule = rule
        self.origin = rule.origin
        self.action = rule.action
        self.matchesAll = rule.matches.isEmpty
        self.timeout = rule.timeout
        self.tryTimeout = rule.tryTimeout
        self.retries = rule.retries
        self.mirrors = rule.mirrors
        self.responseEdits = rule.filters.response
        self.cors = rule.cors
        self.fault = rule.fault
        self.persistence = rule.persistence
        if case .forward(let backends) = rule.action {
            self.targets = backends.map { RouteTarget($0, of: rule) }
        } else {
            self.targets = []
        }
    }

    /// One of them by weight; nil if all weigh nothing.
    func target(using generator: inout some RandomNumberGenerator) -> RouteTarget? {
        if self.targets.count == 1 { return self.targets[0].weighted.weight > 0 ? self.targets[0] : nil }
        guard case .forward(let backends) = self.action else { return nil }
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
    private let redirects: [Bool]

    init(_ hosts: HTTPHosts) {
        self.hosts = hosts
        self.redirects = hosts.hosts.map(\.redirectsToHTTPS)
        self.routes = hosts.hosts.map { $0.rules.map { Route($0) } }
    }

    /// Of the host whose pattern fits best.
    func position(of name: String) -> Int? { self.hosts.position(ofHostNamed: name) }

    func redirectsToHTTPS(_ host: Int) -> Bool { self.redirects[host] }

    /// The first whose rule holds; nil if the budget was used up before that is known.
    func route(of host: Int, for request: RequestHead, within budget: MatchBudget) -> Route? {
        for route in self.routes[host] {
            let isMatched = route.matchesAll || route.rule.matches(request, within: budget)
            if budget.isExhausted { return nil }
            if isMatched { return route }
        }
        return nil
    }
}
