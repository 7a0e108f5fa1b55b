public import Documents
import EndpointBalancing
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
        let flows = await programmer.flowCounters()
        var paths: [String: Int] = [:]
        for planned in plans.lazy.flatMap(\.frontends) { paths[planned.path, default: 0] += 1 }
        var services: [Document] = []
        for plan in plans.prefix(Self.maximumServices) {
            var frontends: [Document] = []
            for frontend in plan.frontends {
                frontends.append(await Self.document(frontend, flows[frontend.frontend], programmer))
            }
            services.append(["service": .string("\(plan.service)"), "frontends": .array(frontends)])
        }
        var kernel: [Document.Member] = [
            .init("backend", .string(backendName)),
            .init("installed", Document(.bool(await programmer.isInstalled))),
            .init("transactions", .integer(statistics.transactions)),
            .init("installs", .integer(statistics.installs)),
            .init("failures", .integer(statistics.failures)),
            .init("losses", .integer(statistics.losses)),
            .init("lastLatencyMilliseconds", Document(.number(statistics.lastLatency.inSeconds * 1_000))),
            .init("maximumLatencyMilliseconds", Document(.number(statistics.maximumLatency.inSeconds * 1_000))),
        ]
        if let error = statistics.lastError { kernel.append(.init("lastError", .string(error))) }
        let figures = await self.figures(calls: Self.calls(plans, flows))
        return .object(
            [
                .init("kernel", .object(kernel)),
                .init("listeners", .array((self.listeners?.all ?? []).map { .string($0) })),
                .init(
                    "frontendsByPath",
                    .object(paths.sorted { $0.key < $1.key }.map { .init($0.key, .integer($0.value)) })
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
            ] + figures
        )
    }

    /// The members `counters` and `gauges`: sums over the loops, and the calls that the kernel has counted.
    private func figures(calls: [Document.Member]) async -> [Document.Member] {
        let reports = await self.counters()
        func sums(_ figures: [ProxyCounters.Figure]) -> [Document.Member] {
            figures.map { figure in
                Document.Member(figure.key, .integer(reports.reduce(0) { $0 + figure.value($1) }))
            }
        }
        return [
            .init("counters", .object(sums(ProxyCounters.counters))),
            // The kernel's counts are not among those that only grow: it counts anew when a rule changes.
            .init("gauges", .object(sums(ProxyCounters.gauges) + calls)),
        ]
    }

    /// Calls by path; nothing if the kernel does not count.
    private static func calls(_ plans: [ServicePlan], _ flows: [KernelFrontend: FlowCounter]) -> [Document.Member] {
        guard !flows.isEmpty else { return [] }
        var calls: [String: UInt64] = ["kernel": 0, "user": 0]
        for planned in plans.lazy.flatMap(\.frontends) {
            if let counter = flows[planned.frontend] { calls[planned.path, default: 0] += counter.flows }
        }
        return calls.sorted { $0.key < $1.key }.map { .init("\($0.key)Calls", .integer($0.value)) }
    }

    public func metrics() async -> [MetricSample] {
        var help = Dictionary((ProxyCounters.counters + ProxyCounters.gauges).map { ($0.key, $0.help) }) { $1 }
        help["kernelCalls"] = "Calls that the kernel balanced, since its rules last changed."
        help["userCalls"] = "Calls that the kernel handed to the user-space proxy, since its rules last changed."
        let programmer = self.parts.programmer
        let calls = Self.calls(await programmer.plans().services, await programmer.flowCounters())
        let samples = MetricSample.samples(
            ofStatus: .object(await self.figures(calls: calls)),
            subsystem: self.statusName,
            help: help
        )
        let statistics = await programmer.statistics
        func sample(_ name: String, _ kind: MetricSample.Kind, _ help: String, _ value: Double) -> MetricSample {
            MetricSample(name: "edgemesh_proxy_kernel_\(name)", kind: kind, help: help, value: value)
        }
        return samples + [
            sample(
                "installed",
                .gauge,
                "1 if the service rules are in the kernel.",
                await programmer.isInstalled ? 1 : 0
            ),
            sample("transactions_total", .counter, "Changes of the service rules.", Double(statistics.transactions)),
            sample("installs_total", .counter, "Times that all rules were programmed.", Double(statistics.installs)),
            sample("failures_total", .counter, "Changes that the kernel refused.", Double(statistics.failures)),
            sample("losses_total", .counter, "Times that someone else removed the rules.", Double(statistics.losses)),
            sample(
                "latency_seconds",
                .gauge,
                "From a change of the catalog to the kernel, the last time.",
                statistics.lastLatency.inSeconds
            ),
        ]
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
