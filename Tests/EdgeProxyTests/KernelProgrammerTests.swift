import EndpointBalancing
import HashTreeCollections
import KubeModel
import LinuxNetwork
import LoadBalancing
import Logging
import MeshCore
import Synchronization
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

@Suite("Frontend ledger")
struct FrontendLedgerTests {
    @Test("only what differs is changed; a service that goes takes its frontends along")
    func changes() throws {
        let planner = ServicePlanner(nodeName: "a")
        var services: [ObjectName: Service] = [:]
        for index in 1...3 {
            let service = try makeService(
                "s\(index)",
                clusterIP: "10.96.0.\(index)",
                endpoints: [endpoint("10.1.0.\(index)")]
            )
            services[service.name] = service
        }
        var ledger = FrontendLedger()
        func update(_ names: [String]) -> [KernelFrontend: FrontendLedger.Change] {
            ledger.update(names.map { ObjectName(namespace: "shop", name: $0) }) {
                services[$0].flatMap { planner.plan($0) }
            }
        }
        #expect(update(["s1", "s2", "s3"]).count == 3)
        #expect(update(["s1", "s2", "s3"]).isEmpty)
        let changed = try makeService("s2", clusterIP: "10.96.0.2", endpoints: [endpoint("10.1.0.9")])
        services[changed.name] = changed
        #expect(Set(update(["s1", "s2"]).keys) == [try frontend("10.96.0.2:80")])
        services[changed.name] = nil
        let removed = update(["s2"])
        #expect(Set(removed.keys) == [try frontend("10.96.0.2:80")])
        #expect(removed.values.first?.planned == nil)
        #expect(ledger.frontendCount == 2)
    }

    @Test(
        "of two services with one frontend the first by name has it, and the other takes over",
        arguments: [true, false]
    )
    func conflict(laterFirst: Bool) throws {
        let planner = ServicePlanner(nodeName: "a")
        let early = try makeService("alpha", endpoints: [endpoint("10.1.0.1")])
        let late = try makeService("beta", endpoints: [endpoint("10.1.0.2")])
        var services = [early.name: early, late.name: late]
        var ledger = FrontendLedger()
        let address = try frontend("10.96.0.10:80")
        for name in laterFirst ? [late.name, early.name] : [early.name, late.name] {
            _ = ledger.update([name]) { services[$0].flatMap { planner.plan($0) } }
        }
        #expect(ledger.owner(of: address) == early.name)
        #expect(ledger.conflicts == [.init(frontend: address, owner: early.name, loser: late.name)])
        services[early.name] = nil
        let change = ledger.update([early.name]) { services[$0].flatMap { planner.plan($0) } }
        #expect(change[address]?.service == late.name)
        #expect(change[address]?.planned != nil)
        #expect(ledger.conflicts.isEmpty)
    }
}

@Suite("Kernel programmer", .timeLimit(.minutes(1)))
struct KernelProgrammerTests {
    private final class Recorder: Sendable {
        let tables = Mutex<[(table: RouteTable, rules: [KernelFrontend: KernelRule])]>([])
        let stale = Mutex<[StaleFlows]>([])
        let sleeps = Mutex(0)
    }

    /// Runs `body` beside a programmer that follows `catalog`.
    private func withProgrammer(
        _ catalog: FakeCatalog,
        _ programming: RecordingProgramming,
        _ recorder: Recorder = Recorder(),
        _ body: (KernelProgrammer) async throws -> Void
    ) async throws {
        let programmer = KernelProgrammer(
            programming: programming,
            planner: ServicePlanner(nodeName: "a"),
            logger: Logger(label: "test") { _ in
                SwiftLogNoOpLogHandler()
            },
            publish: { table, _ in
                let rules = programming.now.rules
                recorder.tables.withLock { $0.append((table, rules)) }
            },
            clearStaleFlows: { flows in recorder.stale.withLock { $0 += flows } },
            sleep: { _ in recorder.sleeps.withLock { $0 += 1 } }
        )
        let address = try transport("169.254.96.16:1")
        let task = Task {
            await programmer.run(catalog: catalog, listeners: ProxyListeners(tcpV4: address, udpV4: address))
        }
        try await body(programmer)
        task.cancel()
        await task.value
    }

    @Test("the present state is installed, then only differences are sent")
    func differences() async throws {
        let first = try makeService("s1", clusterIP: "10.96.0.1", endpoints: [endpoint("10.1.0.1")])
        let catalog = FakeCatalog([first])
        let programming = RecordingProgramming()
        try await self.withProgrammer(catalog, programming) { programmer in
            await programming.wait { $0.rules.count == 1 }
            catalog.set([try makeService("s2", clusterIP: "10.96.0.2", endpoints: [endpoint("10.1.0.2")])])
            await programming.wait { $0.rules.count == 2 }
            catalog.set([], removing: [first.name])
            await programming.wait { $0.updates.count == 2 }
            #expect(programming.now.installs == 1)
            #expect(programming.now.updates.map(\.count) == [1, 1])
            let removed = try #require(programming.now.updates.last?[frontend("10.96.0.1:80")])
            #expect(removed == nil)
        }
    }

    @Test("after a refusal everything is installed anew, and nothing of what came meanwhile is lost")
    func refusal() async throws {
        let catalog = FakeCatalog([try makeService("s1", clusterIP: "10.96.0.1", endpoints: [endpoint("10.1.0.1")])])
        let programming = RecordingProgramming()
        let recorder = Recorder()
        programming.refuse(2)
        try await self.withProgrammer(catalog, programming, recorder) { programmer in
            await programming.wait { $0.installs == 1 }
            #expect(recorder.sleeps.withLock { $0 } == 2)
            programming.refuse(1)
            catalog.set([try makeService("s2", clusterIP: "10.96.0.2", endpoints: [endpoint("10.1.0.2")])])
            await programming.wait { $0.installs == 2 }
            #expect(programming.now.rules.count == 2)
            #expect(await programmer.statistics.failures == 3)
        }
    }

    @Test("rules that someone removes come back, and later changes go on")
    func loss() async throws {
        let programming = RecordingProgramming()
        let catalog = FakeCatalog([try makeService("s1", clusterIP: "10.96.0.1", endpoints: [endpoint("10.1.0.1")])])
        try await self.withProgrammer(catalog, programming, Recorder()) { programmer in
            await programming.wait { $0.installs == 1 }
            for round in 2...3 {
                programming.lose()
                await programming.wait { $0.installs == round && $0.rules.count == 1 }
            }
            catalog.set([try makeService("s2", clusterIP: "10.96.0.2", endpoints: [endpoint("10.1.0.2")])])
            await programming.wait { $0.rules.count == 2 }
            #expect(await programmer.statistics.losses == 2)
            #expect(await programmer.statistics.failures == 0)
        }
    }

    @Test("a frontend finds its route while the kernel hands it over, before and after each transaction")
    func routesOutliveRules() async throws {
        let address = try frontend("10.96.0.10:80")
        let user = try makeService(endpoints: [endpoint("10.1.0.1")], policy: .leastRequest)
        let kernel = try makeService(endpoints: [endpoint("10.1.0.1")])
        let catalog = FakeCatalog([user])
        let programming = RecordingProgramming()
        let recorder = Recorder()
        try await self.withProgrammer(catalog, programming, recorder) { programmer in
            await programming.wait { $0.rules[address]?.action == .proxy }
            catalog.set([kernel])
            await programming.wait { $0.rules[address]?.action != .proxy }
            catalog.set([user])
            await programming.wait { $0.rules[address]?.action == .proxy && $0.updates.count == 2 }
            catalog.set([], removing: [user.name])
            await programming.wait { $0.rules.isEmpty }
            _ = await programmer.plans()
        }
        // Whenever the kernel's rule is `.proxy`, the table in force has the route.
        for (table, rules) in recorder.tables.withLock({ $0 }) where rules[address]?.action == .proxy {
            #expect(table.routes[address] != nil)
        }
        // Connections that were handed over before the kernel began to balance are still to be accepted.
        let balanced = recorder.tables.withLock { $0 }.filter { _, rules in
            if case .balance = rules[address]?.action { true } else { false }
        }
        #expect(balanced.first?.table.routes[address] != nil)
        #expect(recorder.tables.withLock { $0.last }?.table.routes.isEmpty == true)
    }

    @Test("turns and counts of a route survive a change of its endpoints")
    func balancerSurvives() async throws {
        let address = try frontend("10.96.0.10:80")
        let recorder = Recorder()
        let catalog = FakeCatalog([try makeService(endpoints: [endpoint("10.1.0.1")], policy: .leastRequest)])
        let programming = RecordingProgramming()
        try await self.withProgrammer(catalog, programming, recorder) { programmer in
            await programming.wait { $0.rules[address]?.action == .proxy }
            let before = recorder.tables.withLock { $0.first?.table.routes[address] }
            catalog.set([
                try makeService(endpoints: [endpoint("10.1.0.1"), endpoint("10.1.0.2")], policy: .leastRequest)
            ])
            await programming.wait { $0.updates.count == 1 }
            let after = recorder.tables.withLock { $0.last?.table.routes[address] }
            #expect(before != nil && before === after)
            #expect(after?.endpointCount == 2)
        }
    }

    @Test("stale UDP flows are cleared, TCP connections that nothing has answered at the first rule of a frontend")
    func stale() async throws {
        let recorder = Recorder()
        let programming = RecordingProgramming()
        let both = try [endpoint("10.1.0.1"), endpoint("10.1.0.2")]
        let catalog = FakeCatalog([
            try makeService("tcp", clusterIP: "10.96.0.1", endpoints: both),
            try makeService("udp", clusterIP: "10.96.0.2", transportProtocol: .udp, endpoints: both),
        ])
        try await self.withProgrammer(catalog, programming, recorder) { programmer in
            await programming.wait { $0.rules.count == 2 }
            let one = [try endpoint("10.1.0.1")]
            catalog.set([
                try makeService("tcp", clusterIP: "10.96.0.1", endpoints: one),
                try makeService("udp", clusterIP: "10.96.0.2", transportProtocol: .udp, endpoints: one),
            ])
            await programming.wait { $0.updates.count == 1 }
            _ = await programmer.plans()
        }
        let last = try #require(recorder.stale.withLock { $0.last })
        #expect(last.frontend == (try frontend("10.96.0.2:80", .udp)))
        let unanswered = recorder.stale.withLock { $0 }.filter { $0.frontend.transport == .tcp }
        #expect(unanswered.map(\.frontend) == [try frontend("10.96.0.1:80", .tcp)])
        #expect(last.remainingBackends == [try transport("10.1.0.1:8080")])
        #expect(last.formerBackends == [try transport("10.1.0.1:8080"), try transport("10.1.0.2:8080")])
        #expect(last.filters?.map(\.replyAddress) == [IPAddress("10.1.0.2")])
    }

    @Test("stale flows are named to the kernel by frontend and backend, merged with what waits")
    func filters() throws {
        let service = try frontend("10.96.0.2:53", .udp)
        let nodePort = KernelFrontend(match: .nodePort(.v4), transport: .udp, port: 30_053)
        let (one, two) = (try transport("10.1.0.1:8080"), try transport("10.1.0.2:8080"))
        let address = IPAddress("10.96.0.2")
        func filter(
            _ destination: IPAddress?,
            _ port: UInt16,
            _ reply: IPAddress?,
            _ replyPort: UInt16?
        ) -> FlowFilter {
            FlowFilter(
                family: .v4,
                destination: destination,
                port: port,
                replyAddress: reply,
                replyPort: replyPort
            )
        }
        func stale(
            _ frontend: KernelFrontend,
            _ former: Set<TransportAddress>?,
            _ remaining: Set<TransportAddress>
        ) -> StaleFlows {
            StaleFlows(frontend: frontend, remainingBackends: remaining, formerBackends: former)
        }
        #expect(stale(service, nil, [one]).filters == nil, "not known what was before")
        #expect(stale(service, [one, two], [one]).filters == [filter(address, 53, two.address, 8080)])
        #expect(stale(service, [one], [one, two]).filters == [], "none went")
        #expect(stale(service, [one, two], []).filters == [filter(address, 53, nil, nil)], "removed")
        #expect(stale(service, [], [one]).filters == [filter(address, 53, address, 53)], "new: untranslated flows")
        #expect(stale(nodePort, [one], []).filters == [filter(nil, 30_053, one.address, 8080)])
        #expect(stale(nodePort, [], [one]).filters == [filter(nil, 30_053, nil, 30_053)])
        var unanswered = filter(address, 53, address, 53)
        unanswered.transport = .tcp
        unanswered.isUnanswered = true
        #expect(stale(try frontend("10.96.0.2:53", .tcp), nil, []).filters == [unanswered])
        let merged = stale(service, [one], [two]).merged(with: stale(service, [two], [one]))
        #expect(merged.filters == [filter(address, 53, two.address, 8080)])
        #expect(stale(service, nil, [two]).merged(with: stale(service, [two], [one])).filters == nil)
    }

    @Test("flows to the proxy stay when its endpoints change: it ends the sessions that must")
    func proxiedFlowsStay() async throws {
        let recorder = Recorder()
        let programming = RecordingProgramming()
        let catalog = FakeCatalog([
            try makeService(transportProtocol: .udp, endpoints: [endpoint("10.1.0.1")], policy: .leastRequest)
        ])
        try await self.withProgrammer(catalog, programming, recorder) { programmer in
            await programming.wait { $0.rules.count == 1 }
            _ = await programmer.plans()
        }
        let flows = recorder.stale.withLock { $0 }
        #expect(flows.map(\.remainingBackends) == [[try transport("169.254.96.16:1")]])
    }

    @Test("10,000 services are planned at once, and one change among them touches one frontend")
    func scale() throws {
        let planner = ServicePlanner(nodeName: "a")
        var services: [ObjectName: Service] = [:]
        let endpoints = try (1...10).map { try endpoint("10.1.0.\($0)") }
        for index in 0..<10_000 {
            let service = try makeService(
                "s\(index)",
                clusterIP: "10.96.\(index / 250).\(index % 250 + 1)",
                endpoints: endpoints
            )
            services[service.name] = service
        }
        var ledger = FrontendLedger()
        #expect(ledger.update(services.keys) { services[$0].flatMap { planner.plan($0) } }.count == 10_000)
        let changed = try makeService("s77", clusterIP: "10.96.0.78", endpoints: [endpoint("10.1.0.1")])
        services[changed.name] = changed
        #expect(ledger.update([changed.name]) { services[$0].flatMap { planner.plan($0) } }.count == 1)
    }
}
