import KubeModel
import MeshCore

/// A listener of a Gateway, while its routes are gathered.
struct ListenerState {
    enum Sort: Equatable {
        case http
        case https(TLSTermination)
        case passthrough
        case terminated(TLSTermination)
        case tcp
        case udp

        /// Listeners of one family can share a port if their hosts differ.
        var family: Int {
            switch self {
            case .http: 0
            case .https, .passthrough, .terminated: 1
            case .tcp: 2
            case .udp: 3
            }
        }

        var transport: TransportProtocol { self == .udp ? .udp : .tcp }
    }

    var gateway: GatewayResource
    var listener: GatewaySpec.Listener
    var index: Int
    var addresses: [IPAddress?]
    /// Nil if it is not served.
    var sort: Sort?
    var hostname: HostPattern
    var kinds: [String]
    var accepted = GatewayCondition("Accepted", true, "Accepted")
    var resolved = GatewayCondition("ResolvedRefs", true, "ResolvedRefs")
    var conflicted = GatewayCondition("Conflicted", false, "NoConflicts")
    var attachedRoutes = 0
    /// HTTP rules by the host that they are for.
    var entries: [HostPattern: [RuleEntry]] = [:]
    var streams: [(hosts: [HostPattern], route: StreamRoute, resource: GatewayResource)] = []

    var field: String { "spec.listeners[\(self.index)]" }
    var isServed: Bool { self.sort != nil && self.accepted.isTrue && !self.conflicted.isTrue }

    func takes(_ kind: ObjectKind) -> Bool { self.kinds.contains(kind.rawValue) }
}

extension GatewayCompiler {
    static let gatewayGroup = "gateway.networking.k8s.io"

    mutating func compileGatewayAPI() {
        var classes: Set<String> = []
        for resource in self.input.resources {
            guard case .gatewayClass(let spec) = resource.content, spec.controllerName == self.settings.controllerName
            else {
                continue
            }
            var status = GatewayStatus(resource)
            if spec.hasParameters {
                status.conditions = [
                    GatewayCondition("Accepted", false, "InvalidParameters", "parametersRef is not read; take it out")
                ]
                self.find(.error, resource, "spec.parametersRef", "parameters are not read; take it out")
            } else {
                classes.insert(resource.name.name)
                status.conditions = [GatewayCondition("Accepted", true, "Accepted")]
            }
            self.result.statuses.append(status)
        }
        var listeners: [ListenerState] = []
        var gateways: [(GatewayResource, GatewaySpec, refusal: GatewayCondition?)] = []
        for resource in self.input.resources {
            guard case .gateway(let spec) = resource.content, classes.contains(spec.className) else { continue }
            let refusal = self.refusal(of: resource, spec)
            gateways.append((resource, spec, refusal))
            for (index, listener) in spec.listeners.enumerated() {
                var state = self.listener(resource, spec, listener, index)
                if refusal != nil { state.sort = nil }
                listeners.append(state)
            }
        }
        self.markConflicts(&listeners)
        self.attachRoutes(to: &listeners)
        let listenersOfGateways = Dictionary(grouping: listeners, by: \.gateway.name)
        for (resource, spec, refusal) in gateways {
            self.addStatus(of: resource, spec, refusal, listenersOfGateways[resource.name] ?? [])
        }
        self.addFragments(of: listeners)
    }

    /// Why nothing of a Gateway is served; nil if all is well.
    private mutating func refusal(of resource: GatewayResource, _ spec: GatewaySpec) -> GatewayCondition? {
        let (field, reason, text): (String, String, String)
        if spec.addresses.contains(nil) {
            (field, reason, text) = ("addresses", "UnsupportedAddress", "only addresses of type IPAddress are served")
        } else if spec.hasParameters {
            (field, reason) = ("infrastructure.parametersRef", "InvalidParameters")
            text = "parameters are not read; take it out"
        } else {
            return nil
        }
        self.find(.error, resource, "spec.\(field)", text)
        return GatewayCondition("Accepted", false, reason, text)
    }

    private mutating func listener(
        _ gateway: GatewayResource,
        _ spec: GatewaySpec,
        _ listener: GatewaySpec.Listener,
        _ index: Int
    ) -> ListenerState {
        var state = ListenerState(
            gateway: gateway,
            listener: listener,
            index: index,
            addresses: spec.addresses.isEmpty ? [nil] : spec.addresses,
            hostname: .any,
            kinds: []
        )
        let isHTTP = ["HTTP", "HTTPS"].contains(listener.portProtocol)
        switch (listener.portProtocol, listener.tls?.mode) {
        case ("HTTP", _): state.sort = .http
        case ("HTTPS", .terminate?): state.sort = self.termination(&state, spec).map { .https($0) }
        case ("TLS", .terminate?): state.sort = self.termination(&state, spec).map { .terminated($0) }
        case ("TLS", .passthrough?): state.sort = .passthrough
        case ("TCP", _): state.sort = .tcp
        case ("UDP", _): state.sort = .udp
        case ("HTTPS", _), ("TLS", _):
            let text = "protocol \(listener.portProtocol) needs tls"
            state.accepted = GatewayCondition(
                "Accepted",
                false,
                "UnsupportedValue",
                text + (isHTTP ? " with mode Terminate" : "")
            )
        default:
            state.accepted = GatewayCondition(
                "Accepted",
                false,
                "UnsupportedProtocol",
                "allowed are HTTP, HTTPS, TLS, TCP and UDP"
            )
        }
        let kinds: [String] =
            switch listener.portProtocol {
            case "HTTP", "HTTPS": ["HTTPRoute", "GRPCRoute"]
            case "TLS": listener.tls?.mode == .passthrough ? ["TLSRoute"] : ["TLSRoute", "TCPRoute"]
            case "TCP": ["TCPRoute"]
            case "UDP": ["UDPRoute"]
            default: []
            }
        state.kinds = kinds
        if !listener.kinds.isEmpty {
            let asked = listener.kinds.filter { $0.group == Self.gatewayGroup && kinds.contains($0.kind) }.map(\.kind)
            if asked.count < listener.kinds.count {
                state.resolved = GatewayCondition(
                    "ResolvedRefs",
                    false,
                    "InvalidRouteKinds",
                    "protocol \(listener.portProtocol) takes \(kinds.joined(separator: ", "))"
                )
            }
            state.kinds = asked
        }
        if let name = listener.hostname, isHTTP || listener.portProtocol == "TLS" {
            if let pattern = HostPattern(name) {
                state.hostname = pattern
            } else {
                state.accepted = GatewayCondition(
                    "Accepted",
                    false,
                    "UnsupportedValue",
                    "hostname is no host name or *.NAME"
                )
            }
        }
        for condition in [state.accepted, state.resolved] where !condition.isTrue {
            self.find(.error, gateway, state.field, condition.message)
        }
        return state
    }

    /// Listeners of one Gateway that cannot live together are all out of force; of those of several, the older wins.
    private mutating func markConflicts(_ listeners: inout [ListenerState]) {
        for index in listeners.indices {
            guard let sort = listeners[index].sort else { continue }
            for other in listeners.indices where other != index {
                guard let otherSort = listeners[other].sort,
                    listeners[other].listener.port == listeners[index].listener.port,
                    otherSort.transport == sort.transport
                else { continue }
                let isSameGateway = listeners[other].gateway.name == listeners[index].gateway.name
                guard isSameGateway || other < index && listeners[other].isServed else { continue }
                let shares = listeners[other].addresses.contains {
                    $0 == nil || listeners[index].addresses.contains($0)
                }
                guard isSameGateway || shares || listeners[index].addresses.contains(nil) else { continue }
                var reason: String?
                if otherSort.family != sort.family || sort.family > 1 {
                    reason = "ProtocolConflict"
                } else if listeners[other].hostname == listeners[index].hostname {
                    // Plain HTTP of several Gateways is merged, and TLS that ends alike.
                    if isSameGateway || sort.family == 1 && otherSort != sort { reason = "HostnameConflict" }
                }
                guard let reason else { continue }
                let text =
                    "the listener \(listeners[other].listener.name) of \(listeners[other].gateway.name) has port \(listeners[index].listener.port) already"
                listeners[index].conflicted = GatewayCondition("Conflicted", true, reason, text)
                self.find(.error, listeners[index].gateway, listeners[index].field, text)
            }
        }
    }

    /// Whether an object may name another: in its own namespace, or by a ReferenceGrant of the other's.
    func isGranted(from resource: GatewayResource, to reference: ObjectReference) -> Bool {
        guard let namespace = reference.namespace, namespace != resource.name.namespace else { return true }
        return self.index.grants(in: namespace).contains { spec in
            spec.from.contains {
                $0.group == Self.gatewayGroup && $0.kind == resource.kind.rawValue
                    && $0.namespace == resource.name.namespace
            }
                && spec.to.contains {
                    $0.group == reference.group && $0.kind == reference.kind
                        && ($0.name == nil || $0.name == reference.name)
                }
        }
    }

    // MARK: Status and plan

    private mutating func addStatus(
        of resource: GatewayResource,
        _ spec: GatewaySpec,
        _ refusal: GatewayCondition?,
        _ own: [ListenerState]
    ) {
        var status = GatewayStatus(resource)
        status.listeners = own.map { state in
            let isProgrammed = state.isServed
            let conflicted = state.conflicted
            let accepted =
                conflicted.isTrue
                ? GatewayCondition("Accepted", false, conflicted.reason, conflicted.message) : state.accepted
            return GatewayStatus.Listener(
                name: state.listener.name,
                supportedKinds: state.kinds,
                attachedRoutes: state.attachedRoutes,
                conditions: [
                    accepted,
                    GatewayCondition(
                        "Programmed",
                        isProgrammed,
                        isProgrammed ? "Programmed" : "Invalid",
                        isProgrammed ? "" : "the listener is not served"
                    ),
                    state.resolved, conflicted,
                ]
            )
        }
        let isAllGood = status.listeners.allSatisfy {
            $0.conditions.allSatisfy { $0.isTrue == ($0.type != "Conflicted") }
        }
        let isServed = own.contains(where: \.isServed)
        status.conditions = [
            refusal
                ?? (isAllGood
                    ? GatewayCondition("Accepted", true, "Accepted")
                    : GatewayCondition("Accepted", isServed, "ListenersNotValid", "see the conditions of the listeners"))
        ]
        status.conditions.append(
            GatewayCondition(
                "Programmed",
                isServed,
                isServed ? "Programmed" : "Invalid",
                isServed ? "" : "no listener is served"
            )
        )
        if spec.allowsInsecureClients {
            status.conditions.append(GatewayCondition(GatewayStatus.insecureClients, true, "ConfigurationChanged"))
        }
        self.result.statuses.append(status)
    }

    private mutating func addFragments(of listeners: [ListenerState]) {
        var hostnames: [ListenerPlan.Key: Set<HostPattern>] = [:]
        for state in listeners where state.isServed {
            for key in state.keys { hostnames[key, default: []].insert(state.hostname) }
        }
        for state in listeners where state.isServed {
            for key in state.keys {
                // What a more specific listener of the port holds is that one's alone.
                let narrower = hostnames[key, default: []].filter { $0 != state.hostname && state.hostname.covers($0) }
                let service = state.service { host in !narrower.contains { $0.covers(host) } }
                guard let service else { continue }
                self.fragments.append(Fragment(key: key, resource: state.gateway, field: state.field, service: service))
            }
            if [.tcp, .udp].contains(state.sort), state.streams.isEmpty {
                self.find(.warning, state.gateway, state.field, "no route is attached: the port is not opened")
            }
        }
    }
}

extension ListenerState {
    fileprivate var keys: [ListenerPlan.Key] {
        guard let sort = self.sort else { return [] }
        return self.addresses.map { .init(transport: sort.transport, address: $0, port: self.listener.port) }
    }

    /// What is served for the hosts that are its own; nil for nothing.
    fileprivate func service(where isOwn: (HostPattern) -> Bool) -> Fragment.Service? {
        switch self.sort {
        case .http: return .http(self.hosts(where: isOwn))
        case .https(let termination):
            let hosts = HTTPHosts(self.hosts(where: isOwn))
            return .tls([TLSServer(hosts: [self.hostname], termination: termination, service: .http(hosts))])
        case .passthrough, .terminated:
            var termination: TLSTermination?
            if case .terminated(let value) = self.sort { termination = value }
            let servers = self.streams.map { stream in
                TLSServer(
                    hosts: stream.hosts.filter(isOwn),
                    termination: termination,
                    service: .stream(stream.route)
                )
            }
            // Open without a route, too, as its Gateway tells its address: such names are refused one by one.
            return .tls(servers.filter { !$0.hosts.isEmpty })
        case .tcp, .udp: return self.streams.first.map { .stream($0.route) }
        case nil: return nil
        }
    }
}
