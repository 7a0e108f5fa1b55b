import Documents
import Glibc
import Testing

@testable import NetLab

/// The real agent on a node of network namespaces. One suite after the other: two labs at a time would measure each other.
@Suite(.serialized) enum EndToEnd {}

/// A lab with its agent that the tests of one suite share.
struct RunningLab: SuiteTrait, TestScoping {
    @TaskLocal private static var current: (node: NodeLab, agent: LabProcess)?

    /// More files for the folder of manifests.
    var manifests: [String: String] = [:]

    static var node: NodeLab { get throws { try #require(Self.current).node } }
    static var agent: LabProcess { get throws { try #require(Self.current).agent } }

    static func provide(
        _ manifests: [String: String],
        _ body: () async throws -> Void
    ) async throws {
        try #require(geteuid() == 0, "labs are made of network namespaces: run these tests as root")
        var options = NodeLab.Options()
        options.name = "t\(getpid())"
        options.program = try EdgemeshBinary.path()
        options.manifests = manifests
        let node = try await NodeLab.create(options)
        defer { try? node.remove() }
        let agent = try node.startAgent()
        try await node.waitUntilServing(agent)
        try await Self.$current.withValue((node, agent), operation: body)
    }

    func provideScope(
        for test: Test,
        testCase: Test.Case?,
        performing function: @concurrent @Sendable () async throws -> Void
    ) async throws {
        try await Self.provide(self.manifests, function)
    }
}

extension Trait where Self == RunningLab {
    static func lab(_ manifests: [String: String]) -> RunningLab { RunningLab(manifests: manifests) }
}

// MARK: - Objects

/// Objects as a user would write them, with endpoints where a test wants them.
enum Manifest {
    /// - Parameters:
    ///   - ports: As `80:9376/tcp` or `80:9376:30080/tcp`, the last with a node port.
    ///   - endpoints: Last numbers of addresses of the pod network.
    ///   - node: Where the endpoints are. Nil: unknown, so that the kernel is not trusted to reach them and the
    ///     user-space proxy serves.
    ///   - spec: More lines of the service's `spec`.
    static func service(
        _ name: String,
        _ address: String,
        port: String,
        endpoints: [Int],
        on node: String? = nil,
        spec: [String] = []
    ) -> String {
        let parts = port.split(separator: "/")
        let numbers = parts[0].split(separator: ":")
        let nodePort = numbers.count == 3 ? ", nodePort: \(numbers[2])" : ""
        var text = """
            apiVersion: v1
            kind: Service
            metadata: {name: \(name), namespace: default}
            spec:
              type: \(nodePort.isEmpty ? "ClusterIP" : "NodePort")
              clusterIP: \(address)
              ports:
                - {name: main, protocol: \(parts[1].uppercased()), port: \(numbers[0])\(nodePort)}

            """
        text += spec.map { "  \($0)\n" }.joined()
        return endpoints.isEmpty
            ? text : text + self.slice("\(name)-1", of: name, port: port, endpoints: endpoints, on: node)
    }

    /// More endpoints of a service, such as on another node.
    static func slice(
        _ name: String,
        of service: String,
        port: String,
        endpoints: [Int],
        on node: String? = nil
    ) -> String {
        let parts = port.split(separator: "/")
        let target = parts[0].split(separator: ":")[1]
        let list = endpoints.map { "  - {addresses: [10.244.1.\($0)]\(node.map { ", nodeName: \($0)" } ?? "")}\n" }
        return """
            ---
            apiVersion: discovery.k8s.io/v1
            kind: EndpointSlice
            metadata: {name: \(name), namespace: default, labels: {kubernetes.io/service-name: \(service)}}
            addressType: IPv4
            ports: [{name: main, port: \(target), protocol: \(parts[1].uppercased())}]
            endpoints:
            \(list.joined())
            """
    }

    static func rule(_ service: String, _ loadBalancer: String) -> String {
        """
        apiVersion: networking.istio.io/v1alpha3
        kind: DestinationRule
        metadata: {name: \(service), namespace: default}
        spec: {host: \(service), trafficPolicy: {loadBalancer: \(loadBalancer)}}

        """
    }
}

// MARK: - What tests ask of a lab

extension Document {
    /// The longest time of a successful exchange, of the load client's report.
    var worstLatency: Duration {
        switch self["latencyMicroseconds"]?["max"]?.content {
        case .integer(let number): .microseconds(number)
        case .number(let number): .microseconds(number)
        default: .seconds(Int.max)
        }
    }
}

extension NodeLab {
    /// The answers of `count` calls by curl, each on a connection of its own; fails the test if one is lost.
    func curl(
        _ url: String,
        times count: Int = 1,
        options: [String] = [],
        on host: String? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> [String] {
        let output = try await self.lab.run(
            on: host ?? self.layout.client.name,
            ["curl", "-sS", "--max-time", "10", "-H", "Connection: close"] + options + ["\(url)?call=[1-\(count)]"],
            deadline: .seconds(60)
        )
        #expect(
            output.lines.count == count,
            "\(url): \(output.standardError.prefix(200))",
            sourceLocation: sourceLocation
        )
        return output.lines
    }

    func shell(_ script: String, on host: String? = nil, deadline: Duration = .seconds(15)) async throws -> String {
        try await self.lab.output(on: host ?? self.layout.client.name, ["sh", "-c", script], deadline: deadline)
    }

    /// SYNs that a host has sent again since it was made, as the first had no answer within a second.
    func repeatedSYNs(on host: String) async throws -> Int {
        let lines = try await self.shell("grep ^TcpExt: /proc/net/netstat", on: host).split(separator: "\n")
        let columns = lines.map { $0.split(separator: " ") }
        let index = try #require(columns.first?.firstIndex(of: "TCPSynRetrans"))
        return try #require(Int(columns[1][index]))
    }

    /// The row of a service in `edgemesh status`.
    func row(_ service: String) async throws -> Document? {
        try await self.status()["services"]?.array?.first { $0["name"]?.string == service }
    }

    func waitForRow(_ service: String, _ what: String, _ condition: (Document?) -> Bool) async throws {
        try await self.lab.wait(for: "\(service): \(what)") { condition(try await self.row(service)) }
    }
}
