import KubeModel
import MeshCore

extension GatewayCompiler {
    mutating func attachRoutes(to listeners: inout [ListenerState]) {
        var policies = self.policies()
        for resource in self.input.resources {
            switch resource.content {
            case .route(let spec):
                self.attach(resource, spec.parents, spec.hostnames, to: &listeners) { compiler in
                    var entries: [RuleEntry] = []
                    let resolved = compiler.entries(of: resource, spec, &policies, into: &entries)
                    let all = entries
                    return (
                        resolved,
                        { state, hosts in
                            for host in hosts { state.entries[host, default: []] += all }
                        }
                    )
                }
            case .streamRoute(let spec):
                self.attach(resource, spec.parents, spec.hostnames, to: &listeners) { compiler in
                    let (route, resolved) = compiler.stream(spec, resource, &policies)
                    return (
                        resolved,
                        { state, hosts in
                            if let route { state.streams.append((hosts, route, resource)) }
                        }
                    )
                }
            default: break
            }
        }
        self.addStatuses(of: policies)
    }

    typealias Attachment = (inout ListenerState, [HostPattern]) -> Void

    /// - Parameter compile: compiles the route, once, when a listener takes it.
    private mutating func attach(
        _ route: GatewayResource,
        _ parents: [ParentReference],
        _ hostnames: [String],
        to listeners: inout [ListenerState],
        _ compile: (inout GatewayCompiler) -> (GatewayCondition, Attachment)
    ) {
        var patterns: [HostPattern] = []
        for name in hostnames {
            guard let pattern = HostPattern(name), name != "*" else {
                self.find(.error, route, "spec.hostnames", "\"\(name)\" is no host name or *.NAME")
                continue
            }
            patterns.append(pattern)
        }
        // Bad names must not open the route to every host.
        let isWithoutHosts = patterns.isEmpty && !hostnames.isEmpty
        if hostnames.isEmpty { patterns = [.any] }
        var compiled: (GatewayCondition, Attachment)?
        var status = GatewayStatus(route)
        var attached: Set<Int> = []
        for parent in parents {
            guard parent.target.kind == "Gateway", parent.target.group == Self.gatewayGroup else { continue }
            let name = ObjectName(namespace: parent.target.namespace ?? route.name.namespace, name: parent.target.name)
            guard listeners.contains(where: { $0.gateway.name == name }) else { continue }
            var accepted = GatewayCondition(
                "Accepted",
                false,
                "NoMatchingParent",
                "no listener of \(name) has that name and port"
            )
            var found: [(Int, [HostPattern])] = []
            for index in listeners.indices where Self.isNamed(listeners[index], name, by: parent) {
                let listener = listeners[index]
                guard listener.takes(route.kind), self.allows(listener, route.name.namespace) else {
                    if found.isEmpty, accepted.reason == "NoMatchingParent" {
                        accepted = GatewayCondition(
                            "Accepted",
                            false,
                            "NotAllowedByListeners",
                            "no listener of \(name) takes a \(route.kind.rawValue) of this namespace"
                        )
                    }
                    continue
                }
                let hosts =
                    listener.hasNames ? patterns.compactMap { HostPattern.intersection(listener.hostname, $0) } : [.any]
                guard !hosts.isEmpty, !isWithoutHosts else {
                    if found.isEmpty {
                        accepted = GatewayCondition(
                            "Accepted",
                            false,
                            "NoMatchingListenerHostname",
                            "no listener of \(name) has one of the route's hostnames"
                        )
                    }
                    continue
                }
                found.append((index, hosts))
            }
            if !found.isEmpty {
                accepted = GatewayCondition("Accepted", true, "Accepted")
                if compiled == nil { compiled = compile(&self) }
                var gateway = parent
                gateway.target.namespace = name.namespace
                (gateway.sectionName, gateway.port) = (nil, nil)
                self.gatewaysOfRoutes[ObjectIndex.Key(route), default: []].append(gateway)
            } else {
                self.find(.error, route, "spec.parentRefs", accepted.message)
            }
            for (index, hosts) in found where attached.insert(index).inserted {
                listeners[index].attachedRoutes += 1
                compiled?.1(&listeners[index], hosts.reduce(into: []) { if !$0.contains($1) { $0.append($1) } })
            }
            var resolved = GatewayCondition("ResolvedRefs", true, "ResolvedRefs")
            if let condition = compiled?.0 {
                // Some problems of the route itself are told by `Accepted`.
                if condition.type == "Accepted" { accepted = condition } else { resolved = condition }
            } else {
                resolved = self.references(of: route)
            }
            status.parents.append(GatewayStatus.Parent(reference: parent, conditions: [accepted, resolved]))
        }
        if !status.parents.isEmpty { self.result.statuses.append(status) }
    }

    private static func isNamed(_ state: ListenerState, _ gateway: ObjectName, by parent: ParentReference) -> Bool {
        state.gateway.name == gateway && (parent.sectionName == nil || parent.sectionName == state.listener.name)
            && (parent.port == nil || parent.port == state.listener.port)
    }

    private func allows(_ state: ListenerState, _ namespace: String) -> Bool {
        switch state.listener.from {
        case .all: true
        case .same: namespace == state.gateway.name.namespace
        case .none: false
        case .selector: state.listener.selector.matches(self.input.namespaceLabels[namespace] ?? [:])
        }
    }

    /// `ResolvedRefs` of a route that no listener takes, which is not compiled.
    private mutating func references(of route: GatewayResource) -> GatewayCondition {
        let backends: [BackendReference]
        switch route.content {
        case .route(let spec): backends = spec.rules.flatMap(\.backends)
        case .streamRoute(let spec): backends = spec.rules.flatMap { $0 }
        default: backends = []
        }
        for backend in backends {
            if case .failure(let problem) = self.resolve(backend.target, backend.port, of: route) {
                return problem.condition
            }
        }
        return GatewayCondition("ResolvedRefs", true, "ResolvedRefs")
    }

    // MARK: Backends

    func resolve(
        _ reference: ObjectReference,
        _ port: UInt16?,
        of route: GatewayResource
    ) -> Result<(ObjectName, ServiceObject.Port), ReferenceProblem> {
        func problem(
            _ reason: String,
            _ message: String
        ) -> Result<(ObjectName, ServiceObject.Port), ReferenceProblem> {
            .failure(ReferenceProblem(reason, message))
        }
        guard reference.kind == "Service", reference.group.isEmpty || reference.group == "core" else {
            return problem("InvalidKind", "a backend is a Service, not a \(reference.kind)")
        }
        let name = ObjectName(namespace: reference.namespace ?? route.name.namespace, name: reference.name)
        guard self.isGranted(from: route, to: reference) else {
            return problem(
                "RefNotPermitted",
                "no ReferenceGrant in \(name.namespace) lets this route use the Service \(name)"
            )
        }
        guard let service = self.input.service(name) else {
            return problem("BackendNotFound", "there is no Service \(name)")
        }
        guard let port, let found = service.ports.first(where: { $0.port == port }) else {
            return problem(
                "BackendNotFound",
                "the Service \(name) has no port \(port.map(String.init) ?? "without a number")"
            )
        }
        return .success((name, found))
    }

    /// Nil, with what is wrong in `condition`, for a backend whose share is answered with 500.
    mutating func backend(
        _ reference: ObjectReference,
        _ port: UInt16?,
        of route: GatewayResource,
        _ policies: inout BackendPolicies,
        _ condition: inout GatewayCondition,
        _ field: String
    ) -> Backend? {
        switch self.resolve(reference, port, of: route) {
        case .failure(let problem):
            condition = problem.condition
            self.find(.error, route, field, problem.condition.message)
            return nil
        case .success(let (name, port)):
            var backend = Backend(service: name, port: port.port)
            backend.application = self.application(of: port)
            if case .route(let spec) = route.content, spec.isGRPC { backend.application = .http2 }
            switch policies.tls(of: name, port, for: route) {
            case .none: break
            case .some(nil):
                condition = GatewayCondition(
                    "ResolvedRefs",
                    false,
                    "InvalidCACertificateRef",
                    "the BackendTLSPolicy of \(name) cannot be carried out"
                )
                self.find(.error, route, field, condition.message)
                return nil
            case .some(let tls?): backend.tls = tls
            }
            return backend
        }
    }

    mutating func stream(
        _ spec: StreamRouteSpec,
        _ resource: GatewayResource,
        _ policies: inout BackendPolicies
    ) -> (StreamRoute?, GatewayCondition) {
        var condition = GatewayCondition("ResolvedRefs", true, "ResolvedRefs")
        if spec.rules.count > 1 {
            self.find(
                .warning,
                resource,
                "spec.rules",
                "nothing tells the rules apart, so that the first alone is in force"
            )
        }
        guard let rule = spec.rules.first, self.countRule(of: resource) else { return (nil, condition) }
        var backends: [WeightedBackend] = []
        for (index, reference) in rule.enumerated() where reference.weight > 0 {
            let backend = self.backend(
                reference.target,
                reference.port,
                of: resource,
                &policies,
                &condition,
                "spec.rules[0].backendRefs[\(index)]"
            )
            backends.append(WeightedBackend(backend: backend, weight: reference.weight))
        }
        return (StreamRoute(backends: backends), condition)
    }
}

extension ListenerState {
    /// Whether clients name a host on it.
    fileprivate var hasNames: Bool {
        self.sort.map { $0.family < 2 } ?? ["HTTP", "HTTPS", "TLS"].contains(self.listener.portProtocol)
    }
}
