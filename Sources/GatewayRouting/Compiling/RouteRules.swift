import KubeModel
import MeshCore

/// A rule for one match, with what orders it among the others of a host.
struct RuleEntry {
    private enum PathRank: Int { case exact, other }

    var rule: HTTPRule
    private var path: PathRank
    private var length: Int
    private var hasMethod: Bool
    private var headers: Int
    private var query: Int
    /// Older routes first, then by the order in the route.
    private var place: [Int]

    init(_ rule: HTTPRule, _ match: HTTPMatch, place: [Int]) {
        self.rule = rule
        switch match.path {
        case .exact(let text, _): (self.path, self.length) = (.exact, text.utf8.count)
        case .elements(let text): (self.path, self.length) = (.other, text.utf8.count)
        case .prefix(let text, _): (self.path, self.length) = (.other, text.utf8.count)
        case .regex(let regex): (self.path, self.length) = (.other, regex.pattern.utf8.count)
        case nil: (self.path, self.length) = (.other, 1)
        }
        self.hasMethod = match.method != nil
        self.headers = match.headers.count
        self.query = match.query.count
        self.place = place
    }

    /// The order of the Gateway API: an exact path, the longest path, a method, most headers, most parameters, the oldest
    /// route. Of paths of other kinds a regular expression counts by its length too.
    static func precedes(_ first: RuleEntry, _ second: RuleEntry) -> Bool {
        let keys = [first, second].map {
            [$0.path.rawValue, -$0.length, $0.hasMethod ? 0 : 1, -$0.headers, -$0.query] + $0.place
        }
        return keys[0].lexicographicallyPrecedes(keys[1])
    }
}

extension ListenerState {
    /// The hosts of an HTTP listener with their rules in order. Rules for a wider name come after those for a narrower one.
    func hosts(where isOwn: (HostPattern) -> Bool) -> [HTTPHosts.Host] {
        var patterns = Set(self.entries.keys.filter(isOwn))
        patterns.insert(self.hostname)
        let sorted = self.entries.mapValues { $0.sorted(by: RuleEntry.precedes).map(\.rule) }
        let wildcards = sorted.keys.filter { $0.text.utf8.first == UInt8(ascii: "*") }.sorted(
            by: HostPattern.isMoreSpecific
        )
        return patterns.sorted(by: HostPattern.isMoreSpecific).map { pattern in
            let wider = wildcards.filter { $0 != pattern && $0.covers(pattern) }
            return HTTPHosts.Host(pattern: pattern, rules: ([pattern] + wider).flatMap { sorted[$0] ?? [] })
        }
    }
}

extension GatewayCompiler {
    /// Adds the rules of a route; gives what is wrong with its references, or with itself.
    mutating func entries(
        of resource: GatewayResource,
        _ spec: RouteSpec,
        _ policies: inout BackendPolicies,
        into entries: inout [RuleEntry]
    ) -> GatewayCondition {
        var condition = GatewayCondition("ResolvedRefs", true, "ResolvedRefs")
        let age = self.index.place(of: resource)
        for (index, rule) in spec.rules.enumerated() {
            let field = "spec.rules[\(index)]"
            guard let compiled = self.rule(rule, resource, spec.isGRPC, &policies, &condition, field) else { continue }
            for (number, match) in (rule.matches.isEmpty ? [RouteSpec.Match()] : rule.matches).enumerated() {
                guard self.countRule(of: resource),
                    let match = self.match(match, spec.isGRPC, resource, "\(field).matches[\(number)]")
                else { continue }
                var rule = compiled
                rule.matches = [match]
                entries.append(RuleEntry(rule, match, place: [age, index, number]))
            }
        }
        return condition
    }

    private mutating func match(
        _ match: RouteSpec.Match,
        _ isGRPC: Bool,
        _ resource: GatewayResource,
        _ field: String
    ) -> HTTPMatch? {
        var compiled = HTTPMatch()
        switch match.path {
        case .exact(let path): compiled.path = .exact(path, ignoresCase: false)
        case .prefix(let path): compiled.path = .elements(path)
        case .regex(let pattern):
            guard let regex = self.regex(pattern, resource, "\(field).path") else { return nil }
            compiled.path = .regex(regex)
        case nil: compiled.path = .elements("/")
        }
        compiled.method = match.method.map { .exact($0) }
        if isGRPC {
            compiled.method = .exact("POST")
            if let method = match.grpcMethod {
                guard let path = self.path(of: method, resource, "\(field).method") else { return nil }
                compiled.path = path
            }
        }
        // Of two entries for one name the first counts.
        var seen: Set<String> = []
        for header in match.headers where seen.insert(header.name.lowercased()).inserted {
            guard let value = self.value(header.value, resource, "\(field).headers") else { return nil }
            compiled.headers.append(NamedMatch(name: header.name.lowercased(), value: value))
        }
        seen = []
        for parameter in match.queryParams where seen.insert(parameter.name).inserted {
            guard let value = self.value(parameter.value, resource, "\(field).queryParams") else { return nil }
            compiled.query.append(NamedMatch(name: parameter.name, value: value))
        }
        return compiled
    }

    private mutating func value(
        _ value: RouteSpec.ValueMatch,
        _ resource: GatewayResource,
        _ field: String
    ) -> TextMatch? {
        switch value {
        case .exact(let text): .exact(text)
        case .regex(let pattern): self.regex(pattern, resource, field).map { .regex($0) }
        }
    }

    /// A method of gRPC is the path `/SERVICE/METHOD`.
    private mutating func path(
        of method: RouteSpec.GRPCMethod,
        _ resource: GatewayResource,
        _ field: String
    ) -> PathMatch? {
        if !method.isRegex {
            if let service = method.service {
                return method.method.map { .exact("/\(service)/\($0)", ignoresCase: false) }
                    ?? .elements("/\(service)/")
            }
        }
        func part(_ text: String?) -> String { text.map { method.isRegex ? "(?:\($0))" : "\\Q\($0)\\E" } ?? "[^/]+" }
        return self.regex("/\(part(method.service))/\(part(method.method))", resource, field).map { .regex($0) }
    }

    private mutating func rule(
        _ rule: RouteSpec.Rule,
        _ resource: GatewayResource,
        _ isGRPC: Bool,
        _ policies: inout BackendPolicies,
        _ condition: inout GatewayCondition,
        _ field: String
    ) -> HTTPRule? {
        let origin = "\(resource.kind.rawValue) \(resource.name) \(rule.name ?? field)"
        var filters = CompiledFilters()
        self.compile(rule.filters, into: &filters, resource, &policies, &condition, "\(field).filters")
        if let problem = filters.problem {
            condition = problem
            self.find(.error, resource, "\(field).filters", problem.message)
            return HTTPRule(origin: origin, matches: [], action: .respond(DirectResponse(status: 500)))
        }
        var compiled: HTTPRule
        if let redirect = filters.redirect {
            compiled = HTTPRule(origin: origin, matches: [], action: .redirect(redirect))
        } else {
            let backends = self.weighted(rule.backends, resource, &policies, &condition, field)
            compiled = HTTPRule(origin: origin, matches: [], action: .forward(backends))
        }
        compiled.filters = filters.filters
        compiled.mirrors = filters.mirrors
        compiled.cors = filters.cors
        compiled.timeout = rule.requestTimeout.flatMap { $0 > .zero ? $0 : nil }
        compiled.tryTimeout = rule.backendTimeout.flatMap { $0 > .zero ? $0 : nil }
        if let retry = rule.retry {
            // Connections that fail, break off or fall silent count without being named (GEP-1731).
            let conditions = Set(retry.codes.map { RetryPolicy.Condition.status($0) }).union([
                .connectFailure, .refusedStream, .reset,
            ])
            compiled.retries = RetryPolicy(
                attempts: retry.attempts,
                conditions: conditions,
                backoff: retry.backoff ?? .milliseconds(25)
            )
        }
        if let persistence = rule.persistence {
            var session = SessionPersistence(
                carrier: persistence.isHeader ? .header : .cookie,
                name: persistence.name ?? "edgemesh-session"
            )
            session.absoluteTimeout = persistence.absoluteTimeout
            compiled.persistence = session
        }
        return compiled
    }

    /// Never empty: what has no backend that can be used is answered with 500.
    private mutating func weighted(
        _ references: [BackendReference],
        _ resource: GatewayResource,
        _ policies: inout BackendPolicies,
        _ condition: inout GatewayCondition,
        _ field: String
    ) -> [WeightedBackend] {
        var backends: [WeightedBackend] = []
        for (index, reference) in references.enumerated() {
            let field = "\(field).backendRefs[\(index)]"
            var backend = self.backend(reference.target, reference.port, of: resource, &policies, &condition, field)
            var filters = CompiledFilters()
            self.compile(reference.filters, into: &filters, resource, &policies, &condition, "\(field).filters")
            if filters.redirect != nil || !filters.mirrors.isEmpty || filters.cors != nil || filters.problem != nil {
                condition = filters.problem ?? condition
                backend = nil
                self.find(
                    .error,
                    resource,
                    "\(field).filters",
                    "of filters for one backend, those for headers and rewrites are carried out"
                )
            }
            if reference.weight > 0 {
                backends.append(WeightedBackend(backend: backend, weight: reference.weight, filters: filters.filters))
            }
        }
        if backends.isEmpty {
            self.find(.warning, resource, field, "no backend has a weight: requests are answered with 500")
            backends = [WeightedBackend(backend: nil)]
        }
        return backends
    }
}
