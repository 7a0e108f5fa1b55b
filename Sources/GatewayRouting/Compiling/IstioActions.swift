import KubeModel
import MeshCore

extension GatewayCompiler {
    /// Nil, with a finding, if the route does nothing that can be done.
    mutating func rule(
        _ route: VirtualServiceSpec.HTTP,
        _ matches: [HTTPMatch],
        _ resource: GatewayResource,
        _ server: IstioServer,
        _ field: String
    ) -> HTTPRule? {
        if route.delegate != nil {
            self.find(
                .error,
                resource,
                "\(field).delegate",
                "delegates are not followed; write the delegate's routes here"
            )
            return nil
        }
        let actions = [
            route.route.isEmpty ? nil : "route", route.redirect.map { _ in "redirect" },
            route.directResponse.map { _ in "directResponse" },
        ]
        guard actions.compactMap({ $0 }).count == 1 else {
            self.find(.error, resource, field, "it must have exactly one of route, redirect and directResponse")
            return nil
        }
        var rule: HTTPRule
        if let redirect = route.redirect {
            guard let compiled = self.redirect(redirect, resource, field) else { return nil }
            rule = HTTPRule(origin: "", matches: matches, action: .redirect(compiled))
        } else if let response = route.directResponse {
            let answer = DirectResponse(status: response.status, body: Array(response.body.utf8))
            rule = HTTPRule(origin: "", matches: matches, action: .respond(answer))
        } else {
            let backends = self.weighted(route.route, resource, server.gateway.name.namespace, field)
            rule = HTTPRule(origin: "", matches: matches, action: .forward(backends))
            self.setForwarding(of: route, to: &rule, resource, server, field)
        }
        let edits = self.filters(route.headers, resource, "\(field).headers")
        rule.filters.request = edits.request
        rule.filters.response = edits.response
        if rule.filters.authority == nil { rule.filters.authority = edits.authority }
        return rule
    }

    /// Several destinations without weights: the first has all, as EdgeMesh 1.17 had it.
    mutating func weighted(
        _ destinations: [VirtualServiceSpec.WeightedDestination],
        _ resource: GatewayResource,
        _ gatewayNamespace: String,
        _ field: String
    ) -> [WeightedBackend] {
        let hasWeights = destinations.contains { ($0.weight ?? 0) > 0 }
        if !hasWeights, destinations.count > 1 {
            self.find(
                .warning,
                resource,
                "\(field).route",
                "no destination has a weight, so that the first gets everything"
            )
        }
        var backends: [WeightedBackend] = []
        for (index, entry) in destinations.enumerated() {
            let field = "\(field).route[\(index)]"
            let weight = hasWeights && destinations.count > 1 ? entry.weight ?? 0 : index == 0 ? 1 : 0
            guard weight > 0 else { continue }
            let backend = self.backend(
                entry.destination,
                of: resource,
                gatewayNamespace: gatewayNamespace,
                "\(field).destination"
            )
            let filters = self.filters(entry.headers, resource, "\(field).headers")
            backends.append(WeightedBackend(backend: backend, weight: weight, filters: filters))
        }
        return backends
    }

    private mutating func filters(
        _ headers: VirtualServiceSpec.Headers,
        _ resource: GatewayResource,
        _ field: String
    ) -> HTTPFilters {
        func pairs(_ values: [VirtualServiceSpec.Named<String>]) -> [(String, String)] {
            values.map { ($0.name, $0.value) }
        }
        func isHost(_ name: String) -> Bool { ["host", ":authority"].contains(name.lowercased()) }
        var filters = HTTPFilters()
        let request = headers.request
        filters.authority = (request.set + request.add).first { isHost($0.name) }?.value
        filters.request = self.edits(
            set: pairs(request.set.filter { !isHost($0.name) }),
            add: pairs(request.add.filter { !isHost($0.name) }),
            remove: request.remove,
            resource,
            "\(field).request"
        )
        filters.response = self.edits(
            set: pairs(headers.response.set),
            add: pairs(headers.response.add),
            remove: headers.response.remove,
            resource,
            "\(field).response"
        )
        return filters
    }

    private mutating func redirect(
        _ redirect: VirtualServiceSpec.Redirect,
        _ resource: GatewayResource,
        _ field: String
    ) -> HTTPRedirect? {
        let status = redirect.code ?? 301
        guard [301, 302, 303, 307, 308].contains(status) else {
            self.find(
                .error,
                resource,
                "\(field).redirect.redirectCode",
                "\(status) is no redirect; allowed: 301, 302, 303, 307, 308"
            )
            return nil
        }
        var compiled = HTTPRedirect(status: status)
        compiled.scheme = redirect.scheme?.lowercased()
        compiled.path = redirect.uri.map { .full($0.utf8.first == UInt8(ascii: "/") ? $0 : "/" + $0) }
        let authority = redirect.authority.flatMap { RequestHost($0) }
        if redirect.authority != nil, authority == nil {
            self.find(.error, resource, "\(field).redirect.authority", "it is no host with or without a port")
            return nil
        }
        compiled.host = authority?.name
        if let port = redirect.port ?? authority?.port {
            compiled.port = .number(port)
        } else if redirect.derivePort == "FROM_REQUEST_PORT" {
            compiled.port = .ofRequest
        } else {
            // The client's `Host` stays as it is, with its port, unless something of it is replaced.
            compiled.port =
                redirect.derivePort == nil && authority == nil && redirect.scheme == nil ? .ofRequest : .omitted
        }
        return compiled
    }

    private mutating func setForwarding(
        of route: VirtualServiceSpec.HTTP,
        to rule: inout HTTPRule,
        _ resource: GatewayResource,
        _ server: IstioServer,
        _ field: String
    ) {
        if let rewrite = route.rewrite {
            rule.filters.authority = rewrite.authority
            if let uri = rewrite.uri { rule.filters.path = .prefix(uri) }
            if let pattern = rewrite.regexMatch {
                rule.filters.path = self.regexRewrite(pattern, rewrite, resource, field)
            }
        }
        rule.timeout = route.timeout.flatMap { $0 > .zero ? $0 : nil }
        rule.retries = self.retries(route.retries, resource, "\(field).retries")
        rule.tryTimeout = route.retries?.perTryTimeout.flatMap { $0 > .zero ? $0 : nil }
        rule.cors = route.cors.map { self.policy($0, resource, "\(field).corsPolicy") }
        rule.fault = route.fault.map { self.fault($0, resource, "\(field).fault") }
        for (index, mirror) in route.mirrors.enumerated() {
            let field = "\(field).mirrors[\(index)]"
            guard
                let backend = self.backend(
                    mirror.destination,
                    of: resource,
                    gatewayNamespace: server.gateway.name.namespace,
                    field
                )
            else { continue }
            rule.mirrors.append(Mirror(backend: backend, share: Self.share(mirror.percentage)))
        }
    }

    private mutating func regexRewrite(
        _ pattern: String,
        _ rewrite: VirtualServiceSpec.Rewrite,
        _ resource: GatewayResource,
        _ field: String
    ) -> PathRewrite? {
        let field = "\(field).rewrite.uriRegexRewrite"
        guard let regex = self.regex(pattern, resource, "\(field).match") else { return nil }
        let text = rewrite.regexRewrite ?? ""
        do throws(RegexError) {
            _ = try RegexSubstitution(text, groups: regex.groupCount)
        } catch {
            self.find(.error, resource, "\(field).rewrite", error.reason)
            return nil
        }
        return .regex(regex, substitution: text)
    }

    /// All requests without a percentage.
    private static func share(_ percentage: Double?) -> UInt32 {
        guard let percentage, percentage.isFinite else { return 1_000_000 }
        return UInt32(max(0, min(percentage, 100)) * 10_000)
    }

    private mutating func retries(
        _ retries: VirtualServiceSpec.Retries?,
        _ resource: GatewayResource,
        _ field: String
    ) -> RetryPolicy? {
        // Istio's own default.
        guard let retries else { return RetryPolicy(attempts: 2, conditions: [.connectFailure, .refusedStream]) }
        guard retries.attempts > 0 else { return nil }
        var conditions: Set<RetryPolicy.Condition> = []
        for name in retries.conditions {
            switch name {
            case "connect-failure", "unavailable", "reset-before-request": conditions.insert(.connectFailure)
            case "refused-stream": conditions.insert(.refusedStream)
            case "reset": conditions.insert(.reset)
            case "gateway-error": conditions.insert(.gatewayError)
            case "5xx": conditions.insert(.serverError)
            case "retriable-4xx": conditions.insert(.retriable4xx)
            default:
                guard let status = UInt16(name), (100...599).contains(status) else {
                    self.find(
                        .warning,
                        resource,
                        "\(field).retryOn",
                        "\"\(name)\" is not looked at; known are connect-failure, refused-stream, reset, gateway-error, 5xx, retriable-4xx and numbers"
                    )
                    continue
                }
                conditions.insert(.status(status))
            }
        }
        if retries.conditions.isEmpty { conditions = [.connectFailure, .refusedStream] }
        return RetryPolicy(
            attempts: retries.attempts,
            conditions: conditions,
            backoff: retries.backoff ?? .milliseconds(25)
        )
    }

    private mutating func policy(
        _ cors: VirtualServiceSpec.CORS,
        _ resource: GatewayResource,
        _ field: String
    ) -> CORSPolicy {
        var policy = CORSPolicy(
            origins: cors.origins.enumerated().compactMap { index, origin -> TextMatch? in
                switch origin {
                case .exact("*"), .present: return .present
                case .exact(let text): return .exact(text)
                case .prefix(let text): return .prefix(text)
                case .regex(let pattern):
                    return self.regex(pattern, resource, "\(field).allowOrigins[\(index)].regex").map { .regex($0) }
                }
            }
        )
        policy.methods = cors.methods
        policy.headers = cors.headers
        policy.exposedHeaders = cors.exposedHeaders
        policy.maximumAge = cors.maximumAge
        policy.allowsCredentials = cors.allowsCredentials
        policy.forwardsUnmatchedPreflights = true
        return policy
    }

    private mutating func fault(
        _ fault: VirtualServiceSpec.Fault,
        _ resource: GatewayResource,
        _ field: String
    ) -> FaultInjection {
        var compiled = FaultInjection()
        compiled.delay = fault.delay
        compiled.delayShare = fault.delay == nil ? 0 : Self.share(fault.delayPercentage)
        compiled.abortStatus = fault.abortStatus
        compiled.abortShare = fault.abortStatus == nil ? 0 : Self.share(fault.abortPercentage)
        if fault.abortsOtherwise {
            self.find(.warning, resource, "\(field).abort", "only httpStatus is injected; set it")
        }
        return compiled
    }

    // MARK: Streams

    /// The first TCP route for the server's port.
    mutating func tcpRoute(_ server: IstioServer, _ services: [BoundService]) -> StreamRoute? {
        for service in services {
            for (index, route) in service.spec.tcp.enumerated() {
                let isFitting =
                    route.matches.isEmpty || route.matches.contains { self.holds($0, on: server, service.resource) }
                guard isFitting, self.countRule(of: service.resource) else { continue }
                return self.stream(route, service.resource, server, "spec.tcp[\(index)]")
            }
        }
        self.find(
            .warning,
            server.gateway,
            server.field,
            "no VirtualService has a tcp route for port \(server.spec.port): it is not opened"
        )
        return nil
    }

    mutating func passthroughServers(_ server: IstioServer, _ services: [(BoundService, [HostPattern])]) -> [TLSServer]
    {
        var servers: [TLSServer] = []
        var taken: Set<HostPattern> = []
        for (service, hosts) in services {
            let allowed = HostCover(hosts)
            for (index, route) in service.spec.tls.enumerated() {
                let field = "spec.tls[\(index)]"
                var hosts: [HostPattern] = []
                for match in route.matches where self.holds(match, on: server, service.resource) {
                    for name in match.sniHosts {
                        guard let pattern = HostPattern(name) else {
                            self.find(
                                .error,
                                service.resource,
                                "\(field).match",
                                "\"\(name)\" is no host name, *.NAME or *"
                            )
                            continue
                        }
                        let common = allowed.common(with: pattern)
                        guard !common.isEmpty else {
                            self.find(
                                .warning,
                                service.resource,
                                "\(field).match",
                                "\(name) is none of the hosts of the object and its Gateway"
                            )
                            continue
                        }
                        hosts += common.filter { taken.insert($0).inserted }
                    }
                }
                guard !hosts.isEmpty, self.countRule(of: service.resource) else { continue }
                let stream = self.stream(route, service.resource, server, field)
                servers.append(TLSServer(hosts: hosts, termination: nil, service: .stream(stream)))
            }
        }
        if servers.isEmpty {
            self.find(
                .warning,
                server.gateway,
                server.field,
                "no VirtualService has a tls route for port \(server.spec.port): it is not opened"
            )
        }
        return servers
    }

    private mutating func holds(
        _ match: VirtualServiceSpec.StreamMatch,
        on server: IstioServer,
        _ resource: GatewayResource
    ) -> Bool {
        !match.asksForSource && (match.port == nil || match.port == server.spec.port)
            && (match.gateways.isEmpty || match.gateways.contains { self.means($0, server.gateway.name, resource) })
    }

    private mutating func stream(
        _ route: VirtualServiceSpec.Stream,
        _ resource: GatewayResource,
        _ server: IstioServer,
        _ field: String
    ) -> StreamRoute {
        StreamRoute(backends: self.weighted(route.route, resource, server.gateway.name.namespace, field))
    }
}
