import Documents
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// What the fields of a Service mean, on the kernel's path and in user space.
    @Suite(
        .lab([
            "port-kernel.yaml": Manifest.service(
                "port-kernel",
                "10.96.3.1",
                port: "80:9376:30001/tcp",
                endpoints: [31, 32],
                on: "node-a"
            ),
            "port-user.yaml": Manifest.service(
                "port-user",
                "10.96.3.2",
                port: "80:9376:30002/tcp",
                endpoints: [31, 32]
            ),
            "sticky-kernel.yaml": Manifest.service(
                "sticky-kernel",
                "10.96.3.3",
                port: "80:9376/tcp",
                endpoints: [31, 32, 33],
                on: "node-a",
                spec: ["sessionAffinity: ClientIP"]
            ),
            "sticky-user.yaml": Manifest.service(
                "sticky-user",
                "10.96.3.4",
                port: "80:9376/tcp",
                endpoints: [31, 32, 33],
                spec: ["sessionAffinity: ClientIP"]
            ),
            "local.yaml": Manifest.service(
                "local",
                "10.96.3.5",
                port: "80:9376:30005/tcp",
                endpoints: [31],
                on: "node-a",
                spec: ["externalTrafficPolicy: Local"]
            ) + Manifest.slice("local-2", of: "local", port: "80:9376/tcp", endpoints: [32, 33], on: "node-b"),
            "away.yaml": Manifest.service(
                "away",
                "10.96.3.6",
                port: "80:9376:30006/tcp",
                endpoints: [32],
                on: "node-b",
                spec: ["externalTrafficPolicy: Local"]
            ),
            "self-kernel.yaml": Manifest.service(
                "self-kernel",
                "10.96.3.7",
                port: "80:9376/tcp",
                endpoints: [31],
                on: "node-a"
            ),
            "counted-kernel.yaml": Manifest.service(
                "counted-kernel",
                "10.96.3.9",
                port: "80:9376/tcp",
                endpoints: [31],
                on: "node-a"
            ),
            "counted-user.yaml": Manifest.service("counted-user", "10.96.3.10", port: "80:9376/tcp", endpoints: [31]),
            "self-user.yaml": Manifest.service("self-user", "10.96.3.8", port: "80:9376/tcp", endpoints: [31]),
        ]),
        .timeLimit(.minutes(1))
    )
    struct ServiceTests {
        private let node: NodeLab

        init() throws { self.node = try RunningLab.node }

        @Test func pathsAreAsMeant() async throws {
            let status = try await self.node.status()
            for row in status["services"]?.array ?? [] {
                guard let name = row["name"]?.string, let path = ["kernel", "user"].first(where: name.hasSuffix) else {
                    continue
                }
                #expect(row["path"]?.string == path, "\(name): \(row["reason"]?.string ?? "")")
            }
        }

        @Test(arguments: [30001, 30002], ["outside", "client", "node-a"])
        func aNodePortAnswersOnTheNodesAddress(port: Int, host: String) async throws {
            let answers = try await self.node.curl("http://192.168.10.11:\(port)/", times: 10, on: host)
            #expect(Set(answers) == ["backend-1", "backend-2"])
        }

        @Test(arguments: [30001, 30002]) func aNodePortAnswersOnLoopback(port: Int) async throws {
            let answers = try await self.node.curl("http://127.0.0.1:\(port)/", times: 10, on: "node-a")
            #expect(Set(answers) == ["backend-1", "backend-2"])
        }

        @Test(arguments: [1, 2]) func theNodeItselfCallsAClusterIP(number: Int) async throws {
            let answers = try await self.node.curl("http://10.96.3.\(number)/", times: 10, on: "node-a")
            #expect(Set(answers) == ["backend-1", "backend-2"])
        }

        @Test(arguments: [3, 4]) func affinityKeepsAClientAtItsBackend(number: Int) async throws {
            var reached: Set<String> = []
            for client in self.node.layout.clientSources {
                let answers = try await self.node.curl(
                    "http://10.96.3.\(number)/",
                    times: 5,
                    options: ["--interface", client]
                )
                #expect(Set(answers).count == 1, "\(client)")
                reached.formUnion(answers)
            }
            #expect(reached.count > 1)
        }

        @Test func externalTrafficStaysOnTheNode() async throws {
            let answers = try await self.node.curl("http://192.168.10.11:30005/", times: 9, on: "outside")
            #expect(Set(answers) == ["backend-1"])
            let inside = try await self.node.curl("http://10.96.3.5/", times: 9)
            #expect(Set(inside) == ["backend-1", "backend-2", "backend-3"])
        }

        @Test func externalTrafficWithoutALocalEndpointIsDropped() async throws {
            let output = try await self.node.lab.run(
                on: "outside",
                ["curl", "-sS", "--max-time", "0.5", "http://192.168.10.11:30006/"]
            )
            // curl's 28: no answer in time. A refusal would keep an outside balancer from trying another node.
            #expect(output.status == .exited(28), "\(output.standardError)")
        }

        @Test func callsAreShownInStatusAndMetrics() async throws {
            func calls(_ service: String, _ path: String) async throws -> Int64 {
                try await self.node.row(service)?["calls"]?[path]?.integer ?? 0
            }
            _ = try await self.node.curl("http://10.96.3.9/", times: 7)
            _ = try await self.node.curl("http://10.96.3.10/", times: 5)
            try await self.node.lab.wait(for: "the calls to be counted") {
                let (kernel, user) = (
                    try await calls("counted-kernel", "kernel"), try await calls("counted-user", "user")
                )
                return kernel == 7 && user == 5
            }
            #expect(try await calls("counted-kernel", "user") == 0)
            let socket = self.node.adminSocket
            let program = try EdgemeshBinary.path()
            let table = try await self.node.shell("\(program) status --socket \(socket)", on: "node-a")
            let header = try #require(table.split(separator: "\n").first { $0.hasPrefix("NAMESPACE") })
            let before = try #require(header.firstRange(of: "CALLS")?.lowerBound)
            let column = header.distance(from: header.startIndex, to: before)
            let row = try #require(table.split(separator: "\n").first { $0.contains(" counted-kernel ") })
            #expect(row.dropFirst(column).hasPrefix("7 "), "\(header)\n\(row)")
            let metrics = try await self.node.shell(
                "curl -sS --unix-socket \(socket) http://agent/metrics",
                on: "node-a"
            )
            for path in ["kernel", "user"] {
                let line = metrics.split(separator: "\n").first { $0.hasPrefix("edgemesh_proxy_\(path)_calls ") }
                #expect((line?.split(separator: " ").last.flatMap { Double($0) } ?? 0) >= 5, "\(metrics)")
            }
            #expect(metrics.contains("# TYPE edgemesh_proxy_kernel_calls gauge"))
        }

        @Test(arguments: [7, 8]) func aPodReachesItselfThroughItsService(number: Int) async throws {
            let answers = try await self.node.curl("http://10.96.3.\(number)/", times: 5, on: "backend-1")
            #expect(Set(answers) == ["backend-1"])
        }
    }
}

extension NodeLab.Layout {
    /// All addresses of the client pod.
    var clientSources: [String] {
        (0..<UInt32(self.clientAddresses)).map { "\(IPv4Address(rawValue: self.client.address.rawValue + $0))" }
    }
}
