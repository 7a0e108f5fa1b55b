import EndpointBalancing
import KubeModel
import LinuxNetwork
import LoadBalancing
import MeshCore
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

@Suite("Near endpoints")
struct NearnessTests {
    /// One endpoint on this node, one beside it in its zone, one in another.
    private static func endpoints(hints: [[String]] = [[], [], []]) throws -> [ResolvedEndpoint] {
        try zip([("10.1.0.1", "a", "east"), ("10.1.0.2", "b", "east"), ("10.1.0.3", "c", "west")], hints).map {
            var endpoint = try endpoint($0.0, node: $0.1)
            endpoint.zone = $0.2
            endpoint.zoneHints = $1
            return ResolvedEndpoint(endpoint: endpoint, port: 80)
        }
    }

    @Test(
        "trafficDistribution prefers what is near, as far as there is any",
        arguments: [
            (nil as String?, "east" as String?, ["a", "b", "c"]),
            ("PreferClose", "east", ["a", "b"]),
            ("PreferSameZone", "east", ["a", "b"]),
            ("PreferSameNode", "east", ["a"]),
            ("PreferClose", "west", ["c"]),
            ("PreferClose", "north", ["a", "b", "c"]),
            ("PreferClose", nil, ["a", "b", "c"]),
            ("PreferSameNode", nil, ["a"]),
            ("a word of the future", "east", ["a", "b", "c"]),
        ]
    )
    func distribution(word: String?, zone: String?, nodes: [String]) throws {
        var planner = ServicePlanner(nodeName: "a")
        planner.zone = zone
        var service = ServiceObject(name: ObjectName(namespace: "shop", name: "web"))
        service.trafficDistribution = word
        #expect(planner.nearest(try Self.endpoints(), service).compactMap(\.endpoint.nodeName) == nodes)
    }

    @Test("PreferSameNode without one on this node is PreferSameZone")
    func sameNodeFallsBackToZone() throws {
        var planner = ServicePlanner(nodeName: "d")
        planner.zone = "east"
        var service = ServiceObject(name: ObjectName(namespace: "shop", name: "web"))
        service.trafficDistribution = "PreferSameNode"
        #expect(planner.nearest(try Self.endpoints(), service).compactMap(\.endpoint.nodeName) == ["a", "b"])
    }

    @Test(
        "hints of the control plane count only if all endpoints have one and one is for this zone",
        arguments: [
            ([["east"], ["west"], ["west"]], ["a"]),
            ([["east"], ["west", "east"], ["west"]], ["a", "b"]),
            ([["east"], [], ["west"]], ["a", "b", "c"]),
            ([["west"], ["west"], ["west"]], ["a", "b", "c"]),
        ]
    )
    func hints(hints: [[String]], nodes: [String]) throws {
        var planner = ServicePlanner(nodeName: "a")
        planner.zone = "east"
        let service = ServiceObject(name: ObjectName(namespace: "shop", name: "web"))
        #expect(planner.nearest(try Self.endpoints(hints: hints), service).compactMap(\.endpoint.nodeName) == nodes)
    }

    // MARK: DestinationRule

    private static func planned(_ locality: LocalityPreference, isRoutable: Bool) throws -> PlannedFrontend {
        var planner = ServicePlanner(
            nodeName: "a",
            routableCIDRs: isRoutable ? [try #require(CIDR("10.1.0.0/16"))] : []
        )
        planner.zone = "east"
        planner.regions = ["east": "right", "west": "left"]
        let service = try makeService(
            endpoints: try Self.endpoints().map(\.endpoint),
            locality: locality
        ) {
            // The rule goes first.
            $0.trafficDistribution = "PreferSameNode"
        }
        return try #require(planner.plan(service)?.frontends.first)
    }

    @Test("a DestinationRule's failover keeps to the zone, in the kernel if that reaches it")
    func failover() throws {
        let planned = try Self.planned(.failover([:]), isRoutable: true)
        guard case .balance(let balancing) = planned.rule.action else {
            Issue.record("the kernel does not balance: \(planned.reason)")
            return
        }
        #expect(balancing.backends.map { "\($0.address)" } == ["10.1.0.1", "10.1.0.2"])
    }

    @Test("a DestinationRule's distribution weighs the endpoints, in user space: as the shares say")
    func distribution() throws {
        let pattern = { (text: String) in try #require(LocalityPattern(text)) }
        let shares: [LocalityPreference.Share] = [
            .init(to: try pattern("right/east/*"), weight: 75), .init(to: try pattern("left"), weight: 25),
        ]
        let planned = try Self.planned(.distribute([.init(from: try pattern("right/*"), to: shares)]), isRoutable: true)
        #expect(planned.path == "user" && planned.reason.contains("localityLbSetting.distribute"))
        let route = try #require(planned.route)
        let balancer = RouteBalancer(route, seed: 1)
        var counts: [String: Int] = [:]
        for _ in 0..<800 {
            let context = PickContext(client: try ip("10.0.0.1"), now: MonotonicTime(nanoseconds: 0))
            let pick = try #require(balancer.begin(context))
            counts[pick.endpoint.endpoint.nodeName ?? "", default: 0] += 1
            balancer.end(pick)
        }
        // Smooth weighted round robin is exact over a whole turn: 3 to 3 to 2.
        #expect(counts == ["a": 300, "b": 300, "c": 200])
    }
}
