import KubeModel
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
}
