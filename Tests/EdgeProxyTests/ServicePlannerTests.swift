import EndpointBalancing
import KubeModel
import LinuxNetwork
import LoadBalancing
import MeshCore
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

@Suite("Service plan")
struct ServicePlannerTests {
    let planner: ServicePlanner

    init() throws {
        self.planner = ServicePlanner(nodeName: "a", routableCIDRs: [try cidr("10.244.0.0/16")], hasIPv6: true)
    }

    private func only(_ service: Service) throws -> PlannedFrontend {
        try #require(self.planner.plan(service)?.frontends.first)
    }

    private func balancing(_ planned: PlannedFrontend) throws -> KernelBalancing {
        guard case .balance(let balancing) = planned.rule.action else { throw BadFixture(text: planned.path) }
        return balancing
    }

    @Test("endpoints of this node are balanced by the kernel")
    func kernel() throws {
        let planned = try self.only(makeService(endpoints: [endpoint("10.1.0.1"), endpoint("10.1.0.2")]))
        let balancing = try self.balancing(planned)
        #expect(planned.frontend == (try frontend("10.96.0.10:80")))
        #expect(planned.path == "kernel")
        #expect(planned.route == nil)
        #expect(balancing.backends == [try transport("10.1.0.1:8080"), try transport("10.1.0.2:8080")])
        #expect(balancing.localBackends == [try ip("10.1.0.1"), try ip("10.1.0.2")])
        #expect(balancing.policy == .roundRobin)
        #expect(!balancing.masquerade)
    }

    @Test(
        "one endpoint that the kernel cannot reach sends the whole frontend to user space",
        arguments: [
            ("10.2.0.7", "b" as String?, "user", "endpoint 10.2.0.7 on node b is not reachable by the kernel"),
            ("10.244.9.9", "b", "kernel", "every endpoint is reachable by the kernel"),
            ("10.2.0.7", nil, "user", "endpoint 10.2.0.7 names no node and lies in no routable block"),
            ("10.244.9.9", nil, "kernel", "every endpoint is reachable by the kernel"),
            ("10.1.0.9", "a", "kernel", "every endpoint is reachable by the kernel"),
        ]
    )
    func reachability(address: String, node: String?, path: String, reason: String) throws {
        let planned = try self.only(makeService(endpoints: [endpoint("10.1.0.1"), endpoint(address, node: node)]))
        #expect(planned.path == path)
        #expect(planned.reason == reason)
        #expect((planned.route != nil) == (path == "user"))
    }

    @Test(
        "policies go to the kernel if it can do them",
        arguments: [
            (nil as LoadBalancingPolicy?, KernelBalancing.Policy.roundRobin as KernelBalancing.Policy?),
            (.roundRobin, .roundRobin), (.random, .random), (.leastRequest, nil), (headerHash, nil),
            (.consistentHash(.init(key: .sourceAddress, algorithm: .maglev(tableSize: 65_537))), .sourceHash),
        ]
    )
    func policies(policy: LoadBalancingPolicy?, expected: KernelBalancing.Policy?) throws {
        let planned = try self.only(makeService(endpoints: [endpoint("10.1.0.1")], policy: policy))
        if let expected {
            #expect(try self.balancing(planned).policy == expected)
        } else {
            #expect(planned.rule.action == .proxy)
            #expect(planned.route?.policy == policy)
        }
    }

    @Test("HTTP keys mean nothing to UDP: the client's address is hashed, by the kernel")
    func udpHash() throws {
        let planned = try self.only(
            makeService(transportProtocol: .udp, endpoints: [endpoint("10.1.0.1")], policy: headerHash)
        )
        #expect(try self.balancing(planned).policy == .sourceHash)
        #expect(planned.note != nil)
    }

    @Test("affinity goes before the policy of a DestinationRule, with a note")
    func affinity() throws {
        let plain = try self.only(
            makeService(endpoints: [endpoint("10.1.0.1")]) { $0.clientIPAffinitySeconds = 600 }
        )
        #expect(try self.balancing(plain).affinitySeconds == 600)
        #expect(plain.note == nil)
        let both = try self.only(
            makeService(endpoints: [endpoint("10.1.0.1")], policy: headerHash) { $0.clientIPAffinitySeconds = 600 }
        )
        #expect(both.path == "kernel")
        #expect(both.policy == .roundRobin)
        #expect(both.note != nil)
    }

    @Test(
        "which endpoints are usable by their conditions",
        arguments: [
            // ready first; terminating ones only if none is ready; neither is no endpoint
            ([3, 3], false, 2), ([3, 2], false, 1), ([6, 6], false, 2), ([3, 6], false, 1), ([4, 0], false, 0),
            ([2, 2], false, 0), ([2, 0], true, 2), ([3, 6], true, 2),
        ]
    )
    func conditions(conditions: [Int], publishNotReady: Bool, usable: Int) throws {
        let endpoints = try conditions.enumerated().map { index, bits in
            try endpoint("10.1.0.\(index + 1)", EndpointConditions(rawValue: UInt8(bits)))
        }
        let planned = try self.only(
            makeService(endpoints: endpoints) { $0.publishNotReadyAddresses = publishNotReady }
        )
        if usable == 0 {
            #expect(planned.rule.action == .reject)
            #expect(planned.reason == "no endpoint is ready")
        } else {
            #expect(try self.balancing(planned).backends.count == usable)
        }
    }

    @Test("a service without endpoints is refused")
    func noEndpoints() throws {
        let planned = try self.only(makeService(endpoints: []))
        #expect(planned.rule.action == .reject)
        #expect(planned.reason == "no endpoints")
    }

    @Test("every kind of frontend appears once, with its own port")
    func frontends() throws {
        let service = try makeService(endpoints: [endpoint("10.1.0.1")]) { object in
            object.type = .loadBalancer
            object.clusterIPs = [try ip("10.96.0.10"), try ip("fd00::10")]
            object.ports = [ServiceObject.Port(port: 80, nodePort: 30_080)]
            object.externalIPs = [try ip("192.0.2.1"), try ip("192.0.2.2")]
            object.loadBalancerIngress = [try ip("192.0.2.2"), try ip("198.51.100.9")]
            object.loadBalancerSourceRanges = [try cidr("203.0.113.0/24")]
        }
        let plan = try #require(self.planner.plan(service))
        let kinds = plan.frontends.map { "\($0.frontend) \($0.origin.rawValue) \($0.path)" }
        #expect(
            kinds == [
                "10.96.0.10:80/tcp clusterIP kernel", "[fd00::10]:80/tcp clusterIP reject",
                "192.0.2.1:80/tcp externalIP kernel", "192.0.2.2:80/tcp externalIP kernel",
                "198.51.100.9:80/tcp loadBalancerIP kernel", "nodePort(IPv4):30080/tcp nodePort kernel",
                "nodePort(IPv6):30080/tcp nodePort reject",
            ]
        )
        // For calls on loopback, which the kernel cannot balance.
        #expect(plan.frontends.filter { $0.route != nil }.map(\.origin) == [.nodePort])
        #expect(plan.frontends.filter { !$0.rule.sourceRanges.isEmpty }.map(\.origin) == [.loadBalancerIP])
        var withoutIPv6 = self.planner
        withoutIPv6.hasIPv6 = false
        #expect(withoutIPv6.plan(service)?.frontends.allSatisfy { $0.frontend.family == .v4 } == true)
    }

    @Test("only traffic from outside that leaves the node is masqueraded")
    func masquerade() throws {
        let service = try makeService(endpoints: [endpoint("10.1.0.1"), endpoint("10.244.3.3", node: "b")]) {
            $0.ports = [ServiceObject.Port(port: 80, nodePort: 30_080)]
        }
        let plan = try #require(self.planner.plan(service))
        #expect(try plan.frontends.map { try self.balancing($0).masquerade } == [false, true])
    }

    @Test(
        "traffic policy Local: only endpoints of this node; without one outsiders are dropped, insiders refused",
        arguments: [(true, "kernel", "kernel"), (false, "reject", "drop")]
    )
    func local(hasLocal: Bool, inside: String, outside: String) throws {
        let endpoints = try [endpoint("10.244.3.3", node: "b")] + (hasLocal ? [endpoint("10.1.0.1")] : [])
        let service = try makeService(endpoints: endpoints) {
            $0.ports = [ServiceObject.Port(port: 80, nodePort: 30_080)]
            $0.internalTrafficPolicy = .local
            $0.externalTrafficPolicy = .local
        }
        let plan = try #require(self.planner.plan(service))
        #expect(plan.frontends.map(\.path) == [inside, outside])
        if hasLocal {
            for planned in plan.frontends {
                #expect(try self.balancing(planned).backends == [transport("10.1.0.1:8080")])
                #expect(try !self.balancing(planned).masquerade)
            }
        }
    }

    @Test("Local without any endpoint anywhere is refused, not dropped")
    func localWithoutAny() throws {
        let service = try makeService(endpoints: []) {
            $0.ports = [ServiceObject.Port(port: 80, nodePort: 30_080)]
            $0.externalTrafficPolicy = .local
        }
        #expect(self.planner.plan(service)?.frontends.map(\.path) == ["reject", "reject"])
    }

    @Test("the two traffic policies keep separate balancers")
    func routeKeys() throws {
        let service = try makeService(endpoints: [endpoint("10.1.0.1")], policy: .leastRequest) {
            $0.ports = [ServiceObject.Port(port: 80, nodePort: 30_080)]
            $0.externalIPs = [try ip("192.0.2.1")]
            $0.externalTrafficPolicy = .local
        }
        let keys = try #require(self.planner.plan(service)).frontends.map { $0.route?.key.isLocal }
        #expect(keys == [false, true, true])
    }

    @Test("services that are none of the proxy's have no plan")
    func skipped() throws {
        let endpoints = [try endpoint("10.1.0.1")]
        #expect(self.planner.plan(try makeService(endpoints: endpoints, isProxied: false)) == nil)
        #expect(self.planner.plan(try makeService(endpoints: endpoints) { $0.isHeadless = true }) == nil)
        #expect(self.planner.plan(try makeService(endpoints: endpoints) { $0.type = .externalName }) == nil)
        #expect(self.planner.plan(try makeService(transportProtocol: .sctp, endpoints: endpoints)) == nil)
    }
}
