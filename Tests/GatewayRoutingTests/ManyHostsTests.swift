import Documents
import KubeModel
import MeshCore
import Testing

@testable import GatewayRouting

/// Thousands of hosts on one port. What takes a step for each pair of them does not end within the time limit.
@Suite(.timeLimit(.minutes(1))) struct ManyHostsTests {
    private static let pairs = 5_000

    /// - Parameter perObject: how many pairs of hosts one VirtualService has.
    private static func passthrough(gateways: Int, perObject: Int) throws -> GatewayCompilation {
        let port: Document = ["number": 443, "name": "pass", "protocol": "TLS"]
        let server: Document = ["port": port, "hosts": ["*"], "tls": ["mode": "PASSTHROUGH"]]
        let names = (0..<gateways).map { "edge-\($0)" }
        let objects =
            names.map { istioObject("Gateway", $0, ["servers": [server]]) }
            + (0..<self.pairs / perObject).map { number in
                let numbers = (0..<perObject).map { number * perObject + $0 }
                let hosts = numbers.flatMap { [Document.string("a-\($0).example"), .string("b-\($0).example")] }
                let destination: Document = ["host": .string("web-\(number)"), "port": ["number": 443]]
                let route: Document = [
                    "match": [["sniHosts": .array(hosts)]], "route": [["destination": destination]],
                ]
                return istioObject(
                    "VirtualService",
                    "route-\(number)",
                    ["hosts": .array(hosts), "gateways": .array(names.map { .string($0) }), "tls": [route]]
                )
            }
        let input = GatewayInput(
            resources: try gatewayResources(objects),
            service: { _ in ServiceFacts(ports: [ServiceObject.Port(port: 443)]) }
        )
        return GatewayCompiler.compile(input, settings: CompilerSettings())
    }

    private static func servers(_ compilation: GatewayCompilation) throws -> [TLSServer] {
        guard case .tls(let servers)? = compilation.plan.listeners.first?.service else {
            throw MissingPlan()
        }
        return servers
    }

    private struct MissingPlan: Error {}

    @Test("ten thousand names that are passed on, and a second Gateway that may have none of them")
    func names() throws {
        let compilation = try Self.passthrough(gateways: 2, perObject: 1)
        let servers = try Self.servers(compilation)
        #expect(servers.count == Self.pairs && servers.allSatisfy { $0.hosts.count == 2 })
        #expect(
            compilation.plan.listeners.map(\.origins) == [["IstioGateway shop/edge-0", "IstioGateway shop/edge-1"]]
        )
        let told = compilation.findings.filter { $0.message.contains("are served by an older object or route") }
        #expect(told.count == Self.pairs && told.allSatisfy { $0.name.name == "edge-1" })
        let index = TLSNames(servers)
        let isEachFound = (0..<Self.pairs).allSatisfy { number in
            let name = "b-\(number).example"
            return index.position(of: name).map { servers[$0].serves(name) } == true
        }
        #expect(isEachFound && index.position(of: "c.example") == nil)
    }

    @Test("all of them in one object")
    func oneObject() throws {
        let compilation = try Self.passthrough(gateways: 1, perObject: Self.pairs)
        let servers = try Self.servers(compilation)
        #expect(compilation.findings.isEmpty && servers.map(\.hosts.count) == [2 * Self.pairs])
    }

    private static func patterns(_ texts: [String]) -> [HostPattern] { texts.compactMap { HostPattern($0) } }

    @Test(
        "what patterns have in common",
        arguments: [
            (["*"], "a.b", ["a.b"]), (["*.b"], "a.b", ["a.b"]), (["*.b"], "*.a.b", ["*.a.b"]), (["*.b"], "b", []),
            (["a.b", "c.b", "d"], "*.b", ["a.b", "c.b"]), (["a.b", "*.b"], "*.b", ["*.b", "a.b"]),
            (["x", "*.y"], "*", ["x", "*.y"]), (["a.b"], "a.c", []), (["*.a.b"], "*.b", ["*.a.b"]), ([], "*", []),
            (["*", "x"], "*", ["*", "x"]), (["*.b"], "*.ab", []),
        ]
    )
    func common(_ patterns: [String], _ other: String, _ common: [String]) throws {
        let found = HostCover(Self.patterns(patterns)).common(with: try #require(HostPattern(other)))
        #expect(found == Self.patterns(common))
    }
}
