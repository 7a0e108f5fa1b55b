import KubeModel
import MeshCore

extension GatewayCompiler {
    /// A VirtualService with those of its hosts that are some.
    typealias BoundService = (resource: GatewayResource, spec: VirtualServiceSpec, hosts: [HostPattern])

    mutating func compile(_ server: IstioServer, _ services: [BoundService]) {
        let key = ListenerPlan.Key(transport: .tcp, address: server.address, port: server.spec.port)
        let covers = Dictionary(grouping: server.hosts) { $0.namespace }.mapValues { HostCover($0.map { $0.pattern }) }
        let fitting: [(BoundService, [HostPattern])] = services.compactMap { service in
            let fitting = [nil, service.resource.name.namespace].compactMap { covers[$0] }
            var seen: Set<HostPattern> = []
            let hosts = service.hosts.flatMap { host in fitting.flatMap { $0.common(with: host) } }
                .filter { seen.insert($0).inserted }
            return hosts.isEmpty ? nil : (service, hosts)
        }
        if fitting.isEmpty {
            self.find(
                .warning,
                server.gateway,
                server.field,
                "no VirtualService names this Gateway with one of its hosts: requests are answered with 404, connections are closed"
            )
        }
        let service: Fragment.Service?
        switch server.sort {
        case .http: service = .http(self.httpHosts(server, fitting))
        case .https(let termination):
            let hosts = HTTPHosts(self.httpHosts(server, fitting))
            service = .tls([
                TLSServer(hosts: server.hosts.map { $0.pattern }, termination: termination, service: .http(hosts))
            ])
        case .tls(let termination):
            service = self.tcpRoute(server, fitting.map { $0.0 }).map { route in
                .tls([
                    TLSServer(hosts: server.hosts.map { $0.pattern }, termination: termination, service: .stream(route))
                ])
            }
        case .passthrough:
            let servers = self.passthroughServers(server, fitting)
            service = servers.isEmpty ? nil : .tls(servers)
        case .tcp: service = self.tcpRoute(server, fitting.map { $0.0 }).map { .stream($0) }
        }
        guard let service else { return }
        self.fragments.append(Fragment(key: key, resource: server.gateway, field: server.field, service: service))
    }

    /// Tells of those that are none.
    mutating func hosts(of resource: GatewayResource, _ spec: VirtualServiceSpec) -> [HostPattern] {
        guard !spec.hosts.isEmpty else { return [.any] }
        return spec.hosts.compactMap { text in
            let pattern = HostPattern(text)
            if pattern == nil { self.find(.error, resource, "spec.hosts", "\"\(text)\" is no host name, *.NAME or *") }
            return pattern
        }
    }

    // MARK: HTTP

    private mutating func httpHosts(
        _ server: IstioServer,
        _ services: [(BoundService, [HostPattern])]
    ) -> [HTTPHosts.Host] {
        let redirects = server.spec.tls?.httpsRedirect == true
        var rules: [HostPattern: [[HTTPRule]]] = [:]
        for (service, hosts) in services {
            let own = self.httpRules(of: service, on: server)
            for host in hosts { rules[host, default: []].append(own) }
        }
        // Without a VirtualService the hosts are known all the same, for 404 and for the redirect.
        for host in server.hosts where rules[host.pattern] == nil { rules[host.pattern] = [] }
        return rules.map { host, lists in
            // Of several VirtualServices, what matches everything comes last, or it would hide the others.
            let all = lists.flatMap { $0 }
            let sorted = lists.count < 2 ? all : all.filter { !$0.matchesAll } + all.filter(\.matchesAll)
            return HTTPHosts.Host(pattern: host, rules: sorted, redirectsToHTTPS: redirects)
        }.sorted { HostPattern.isMoreSpecific($0.pattern, than: $1.pattern) }
    }

    private mutating func httpRules(of service: BoundService, on server: IstioServer) -> [HTTPRule] {
        var rules: [HTTPRule] = []
        for (index, route) in service.spec.http.enumerated() {
            let field = "spec.http[\(index)]"
            guard let matches = self.matches(of: route, service.resource, server, field),
                self.countRule(of: service.resource),
                var rule = self.rule(route, matches, service.resource, server, field)
            else { continue }
            rule.origin =
                "VirtualService \(service.resource.name) \(route.name.isEmpty ? "http[\(index)]" : route.name)"
            rules.append(rule)
        }
        if service.spec.http.isEmpty {
            self.find(
                .warning,
                service.resource,
                "spec.http",
                "there is no route for port \(server.spec.port), which speaks HTTP"
            )
        }
        return rules
    }

    /// Nil if the route can match nothing here.
    private mutating func matches(
        of route: VirtualServiceSpec.HTTP,
        _ resource: GatewayResource,
        _ server: IstioServer,
        _ field: String
    ) -> [HTTPMatch]? {
        var matches: [HTTPMatch] = []
        for (index, match) in route.matches.enumerated() {
            let field = "\(field).match[\(index)]"
            if match.asksForSource {
                self.find(
                    .warning,
                    resource,
                    field,
                    "sourceLabels and sourceNamespace never hold for requests from outside"
                )
                continue
            }
            guard
                match.gateways.isEmpty
                    || match.gateways.contains(where: { self.means($0, server.gateway.name, resource) }),
                match.port == nil || match.port == server.spec.port,
                let compiled = self.match(match, resource, field)
            else { continue }
            matches.append(compiled)
        }
        if route.rewrite?.uri != nil {
            // What is rewritten is the prefix `/` where no path is asked for.
            if route.matches.isEmpty { matches = [HTTPMatch()] }
            for index in matches.indices where matches[index].path == nil {
                matches[index].path = .prefix("/", ignoresCase: false)
            }
            return matches.isEmpty ? nil : matches
        }
        return matches.isEmpty && !route.matches.isEmpty ? nil : matches
    }

    func means(_ text: String, _ gateway: ObjectName, _ resource: GatewayResource) -> Bool {
        text == gateway.description || text == gateway.name
            || text == "./\(gateway.name)" && resource.name.namespace == gateway.namespace
    }

    private mutating func match(
        _ match: VirtualServiceSpec.Match,
        _ resource: GatewayResource,
        _ field: String
    ) -> HTTPMatch? {
        var compiled = HTTPMatch()
        var isGood = true
        func text(
            _ value: VirtualServiceSpec.StringMatch?,
            _ key: String,
            _ compiler: inout GatewayCompiler
        ) -> TextMatch? {
            switch value {
            case nil: return nil
            case .present: return .present
            case .exact(let text): return .exact(text)
            case .prefix(let text): return .prefix(text)
            case .regex(let pattern):
                guard let regex = compiler.regex(pattern, resource, "\(field).\(key).regex") else {
                    isGood = false
                    return nil
                }
                return .regex(regex)
            }
        }
        func named(
            _ values: [VirtualServiceSpec.Named<VirtualServiceSpec.StringMatch>],
            _ key: String,
            _ compiler: inout GatewayCompiler
        ) -> [NamedMatch] {
            values.map { entry in
                var value = text(entry.value, "\(key).\(entry.name)", &compiler) ?? .present
                // An empty text matches any value, as Envoy's empty prefix does.
                if case .prefix("") = value { value = .present }
                return NamedMatch(name: key == "queryParams" ? entry.name : entry.name.lowercased(), value: value)
            }
        }
        switch match.uri {
        case nil, .present: break
        case .exact(let path):
            compiled.path = .exact(self.path(path, resource, "\(field).uri.exact"), ignoresCase: match.ignoresUriCase)
        case .prefix(let path):
            compiled.path = .prefix(self.path(path, resource, "\(field).uri.prefix"), ignoresCase: match.ignoresUriCase)
        case .regex(let pattern):
            self.find(
                .note,
                resource,
                "\(field).uri.regex",
                "it must match the whole path, as in Istio; EdgeMesh 1.17 looked for it anywhere"
            )
            guard let regex = self.regex(pattern, resource, "\(field).uri.regex") else { return nil }
            compiled.path = .regex(regex)
        }
        compiled.scheme = text(match.scheme, "scheme", &self)
        compiled.method = text(match.method, "method", &self)
        compiled.authority = text(match.authority, "authority", &self)
        compiled.headers = named(match.headers, "headers", &self)
        compiled.withoutHeaders = named(match.withoutHeaders, "withoutHeaders", &self)
        compiled.query = named(match.queryParams, "queryParams", &self)
        compiled.port = match.port
        return isGood ? compiled : nil
    }

    /// EdgeMesh 1.17 took paths without their first slash.
    private mutating func path(_ text: String, _ resource: GatewayResource, _ field: String) -> String {
        guard text.utf8.first != UInt8(ascii: "/") else { return text }
        self.find(.warning, resource, field, "\"\(text)\" does not begin with /; /\(text) is used")
        return "/" + text
    }
}

extension HTTPRule {
    /// Whether a match of it holds for every request.
    fileprivate var matchesAll: Bool {
        self.matches.isEmpty
            || self.matches.contains { match in
                let isAnyPath =
                    switch match.path {
                    case nil, .prefix("/", _), .prefix("", _): true
                    case .regex(let regex): [".*", "/.*", "^/.*$", "^.*$"].contains(regex.pattern)
                    default: false
                    }
                return isAnyPath && match.method == nil && match.scheme == nil && match.authority == nil
                    && match.headers.isEmpty && match.withoutHeaders.isEmpty && match.query.isEmpty
            }
    }
}
