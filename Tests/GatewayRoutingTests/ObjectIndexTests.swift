import Documents
import KubeModel
import MeshCore
import Synchronization
import Testing

@testable import GatewayRouting

@Suite struct ObjectIndexTests {
    private final class Counter: Sendable {
        private let number = Mutex(0)
        var value: Int { self.number.withLock { $0 } }
        func count() { self.number.withLock { $0 += 1 } }
    }

    private static func rule(_ namespace: String, _ name: String, host: String) -> DestinationRuleObject {
        DestinationRuleObject(name: ObjectName(namespace: namespace, name: name), host: host)
    }

    private static func service(_ rule: DestinationRuleObject) -> ObjectName? {
        GatewayCompiler.service(named: rule.host, in: rule.name.namespace, clusterDomain: "cluster.local")
    }

    @Test func rulesOfAServiceAreInOrder() {
        let rules = [
            Self.rule("d", "z", host: "web"), Self.rule("d", "web", host: "other"),
            Self.rule("c", "a", host: "web.d.svc.cluster.local"), Self.rule("c", "web", host: "web"),
            Self.rule("d", "b", host: "WEB.d."), Self.rule("d", "wild", host: "*.d.svc.cluster.local"),
        ]
        let index = ObjectIndex([], rules, service: Self.service)
        func names(_ namespace: String, _ name: String) -> [String] {
            index.rules(of: ObjectName(namespace: namespace, name: name)).map(\.name.description)
        }
        #expect(names("d", "web") == ["d/web", "c/a", "d/b", "d/z"])
        #expect(names("d", "other") == ["d/web"])
        #expect(names("c", "web") == ["c/web"])
        #expect(names("d", "wild") == ["d/wild"] && names("d", "none").isEmpty)
    }

    /// Of each rule the host is read once, however many backends ask; each service is asked for as often as routes name it.
    @Test func theWorkGrowsWithTheObjectsAndNotWithTheirProduct() throws {
        let (services, rules, routes) = (10_000, 1_000, 1_000)
        let objects = (0..<rules).map { Self.rule("shop", "rule-\($0)", host: "web-\($0 * services / rules)") }
        var reads = 0
        let index = ObjectIndex([], objects) { rule in
            reads += 1
            return Self.service(rule)
        }
        #expect(reads == rules)
        let found = (0..<services).reduce(0) { count, number in
            count + index.rules(of: ObjectName(namespace: "shop", name: "web-\(number)")).count
        }
        #expect(reads == rules && found == rules)

        let resources = try Self.resources(routes: routes) { "web-\($0 * services / routes)" }
        let asked = Counter()
        let input = GatewayInput(
            resources: resources,
            destinationRules: objects,
            service: { _ in
                asked.count()
                return ServiceFacts(ports: [ServiceObject.Port(port: 80)])
            }
        )
        let compilation = GatewayCompiler.compile(input, settings: CompilerSettings())
        #expect(compilation.plan.listeners.count == 1 && compilation.findings.isEmpty)
        #expect(asked.value == routes, "one backend each")
    }

    /// A Gateway and its VirtualServices.
    private static func resources(routes: Int, _ service: (Int) -> String) throws -> [GatewayResource] {
        let port: Document = ["number": 80, "name": "web", "protocol": "HTTP"]
        let gateway = istioObject("Gateway", "edge", ["servers": [["port": port, "hosts": ["*"]]]])
        let others = (0..<routes).map { number in
            let destination: Document = ["host": .string(service(number)), "port": ["number": 80]]
            return istioObject(
                "VirtualService",
                "route-\(number)",
                [
                    "hosts": [.string("web-\(number).example")], "gateways": ["edge"],
                    "http": [["route": [["destination": destination]]]],
                ]
            )
        }
        return try gatewayResources([gateway] + others)
    }
}
