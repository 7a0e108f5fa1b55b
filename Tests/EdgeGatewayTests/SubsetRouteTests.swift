import GatewayRouting
import MeshCore
import Testing

@testable import EdgeGateway

@Suite struct SubsetRouteTests {
    @Test("a route to a subset goes to its pods alone")
    func subsets() async throws {
        let servers = [try await TestBackend.start("one"), try await TestBackend.start("two")]
        func rule(_ path: String, _ subset: String?) -> HTTPRule {
            var target = backend("web")
            target.backend?.subset = subset
            return HTTPRule(origin: "test", matches: [HTTPMatch(path: .elements(path))], action: .forward([target]))
        }
        try await GatewayRig.with(
            [.http(hosts([rule("/v2", "v2"), rule("/v3", "v3"), rule("/v4", "v4"), rule("/any", nil)]))],
            services: [makeService("web", ports: servers.map(\.port), subsets: ["v2": ["pod-1"], "v3": []])]
        ) { _, ports in
            func ask(_ path: String) async throws -> String {
                try await RawClient.exchange(ports[0], "GET \(path) HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            }
            for _ in 0..<4 { #expect(try await ask("/v2").contains("backend: two\n")) }
            // One has no pods, the other is defined by no rule.
            for subset in ["v3", "v4"] {
                let missing = try await ask("/\(subset)")
                #expect(missing.hasPrefix("HTTP/1.1 503 ") && missing.contains("in subset \(subset)"))
            }
            var names: Set<String> = []
            for _ in 0..<2 { names.insert(try await ask("/any").contains("backend: one\n") ? "one" : "two") }
            #expect(names == ["one", "two"])
        }
        for server in servers { try await server.stop() }
    }
}
