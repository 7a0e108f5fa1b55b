public import Documents
import LinuxNetwork
import LoadBalancing
import MeshCore
public import MeshInterfaces

extension EdgeProxyService: StatusReporting {
    /// Services and endpoints that a status lists; more are only counted.
    private static let maximumServices = 2_000
    private static let maximumEndpoints = 64

    public var statusName: String { "edgeProxy" }

    public func status() async -> Document {
        let (programmer, backendName) = self.parts
        let (plans, conflicts) = await programmer.plans()
        let statistics = await programmer.statistics
        var paths: [String: Int] = [:]
        var calls: [String: UInt64] = [:]
        let flows = await programmer.flowCounters()
        for plan in plans {
            for planned in plan.frontends {
                paths[planned.path, default: 0] += 1
                if let counter = flows[planned.frontend] { calls[planned.path, default: 0] += counter.flows }
            }
        }
        var services: [Document] = []
        for plan in plans.prefix(Self.maximumServices) {
            var frontends: [Document] = []
            for frontend in plan.frontends {
                frontends.append(await Self.document(frontend, flows[frontend.frontend], programmer))
            }
            services.append(["service": .string("\(plan.service)"), "frontends": .array(frontends)])
        }
        var totals: [String: UInt64] = [:]
        var order: [String] = []
        for counters in await self.counters() {
            order = counters.members.map { $0.0 }
            for (name, value) in counters.members { totals[name, default: 0] += value }
        }
        var kernel: [Document.Member] = [
            .init("backend", .string(backendName)),
            .init("installed", Document(.bool(await programmer.isInstalled))),
            .init("transactions", .integer(statistics.transactions)),
            .init("installs", .integer(statistics.installs)),
            .init("failures", .integer(statistics.failures)),
            .init("lastLatencyMilliseconds", Document(.number(statistics.lastLatency.inSeconds * 1_000))),
            .init("maximumLatencyMilliseconds", Document(.number(statistics.maximumLatency.inSeconds * 1_000))),
        ]
        if let error = statistics.lastError { kernel.append(.init("lastError", .string(error))) }
        return .object([
            .init("kernel", .object(kernel)),
            .init("listeners", .array((self.listeners?.all ?? []).map { .string($0) })),
            .init(
                "frontendsByPath",
                .object(paths.sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) })
            ),
            .init("counters", .object(order.map { .init($0, .integer(totals[$0] ?? 0)) })),
            // Not among those that only grow: the kernel counts anew when a rule changes.
            .init(
                "gauges",
                flows.isEmpty
                    ? .object([])
                    : ["kernelCalls": .integer(calls["kernel"] ?? 0), "userCalls": .integer(calls["user"] ?? 0)]
            ),
            .init(
                "conflicts",
                .array(
                    conflicts.prefix(Self.maximumServices).map {
                        [
                            "frontend": .string("\($0.frontend)"), "served": .string("\($0.owner)"),
                            "ignored": .string("\($0.loser)"),
                        ]
                    }
                )
            ),
            .init("serviceCount", .integer(plans.count)),
            .init("services", .array(services)),
        ])
    }

    private static func document(
        _ planned: PlannedFrontend,
        _ flows: FlowCounter?,
        _ programmer: KernelProgrammer
    ) async -> Document {
        var members: [Document.Member] = [
            .init("frontend", .string("\(planned.frontend)")),
            .init("kind", .string(planned.origin.rawValue)),
            .init("portName", .string(planned.portName)),
            .init("path", .string(planned.path)),
            .init("reason", .string(planned.reason)),
            .init("policy", .string(planned.policy.statusText)),
        ]
        // Since the rule was last changed.
        if let flows { members.append(.init("calls", .integer(flows.flows))) }
        if let note = planned.note { members.append(.init("note", .string(note))) }
        switch planned.rule.action {
        case .balance(let balancing):
            if let seconds = balancing.affinitySeconds { members.append(.init("affinitySeconds", .integer(seconds))) }
            members.append(.init("endpointCount", .integer(balancing.backends.count)))
            members.append(
                .init(
                    "endpoints",
                    .array(balancing.backends.prefix(Self.maximumEndpoints).map { ["address": .string("\($0)")] })
                )
            )
        case .proxy:
            guard let route = planned.route else { break }
            if let seconds = route.affinitySeconds { members.append(.init("affinitySeconds", .integer(seconds))) }
            members.append(.init("endpointCount", .integer(route.endpoints.count)))
            let endpoints = await programmer.balancer(for: route.key)?.status(limit: Self.maximumEndpoints) ?? []
            members.append(
                .init(
                    "endpoints",
                    .array(
                        endpoints.map { endpoint in
                            [
                                "address": .string("\(endpoint.address)"), "node": .string(endpoint.node ?? ""),
                                "active": .integer(endpoint.active), "failures": .integer(endpoint.failures),
                            ]
                        }
                    )
                )
            )
        case .reject, .drop:
            break
        }
        return .object(members)
    }
}

extension ProxyListeners {
    fileprivate var all: [String] {
        var texts = ["\(self.tcpV4)/tcp", "\(self.udpV4)/udp"]
        if let tcpV6 { texts.append("\(tcpV6)/tcp") }
        if let udpV6 { texts.append("\(udpV6)/udp") }
        return texts
    }
}

extension LoadBalancingPolicy {
    /// As `edgemesh status` shows it.
    var statusText: String {
        switch self {
        case .roundRobin: "roundRobin"
        case .random: "random"
        case .leastRequest: "leastRequest"
        case .consistentHash(let policy):
            switch policy.key {
            case .sourceAddress: "consistentHash(sourceAddress)"
            case .httpHeader(let name): "consistentHash(header \(name))"
            case .httpCookie(let name, _, _): "consistentHash(cookie \(name))"
            case .httpQueryParameter(let name): "consistentHash(query \(name))"
            }
        }
    }
}
