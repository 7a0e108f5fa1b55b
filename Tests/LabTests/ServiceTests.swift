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
