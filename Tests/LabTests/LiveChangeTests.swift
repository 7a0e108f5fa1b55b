import Documents
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// What changes while the agent serves.
    @Suite(
        .serialized,
        .lab([
            "live.yaml": Manifest.service(
                "live",
                "10.96.4.1",
                port: "80:9376/tcp",
                endpoints: [31, 32, 33],
                on: "node-a"
            )
        ]),
        .timeLimit(.minutes(1))
    )
    struct LiveChangeTests {
        private let node: NodeLab

        init() throws { self.node = try RunningLab.node }

        /// From the kernel's path to user space and back, under load.
        @Test func aDestinationRuleChangesWithoutALostCall() async throws {
            async let load = self.node.runClient(
                ["http", "--target", "10.96.4.1:80", "--seconds", "3", "--connections", "4", "--interval", "2"],
                on: "client"
            )
            #expect(try await self.node.row("live")?["path"]?.string == "kernel")
            for (loadBalancer, policy, path) in [
                ("{simple: LEAST_REQUEST}", "least request", "user"), ("{simple: RANDOM}", "random", "kernel"),
                ("{consistentHash: {httpHeaderName: x-user}}", "hash of header x-user", "user"),
                ("{consistentHash: {useSourceIp: true}}", "hash of source address", "kernel"),
            ] {
                try self.node.apply("live-rule.yaml", Manifest.rule("live", loadBalancer))
                try await self.node.waitForRow("live", policy) {
                    $0?["policy"]?.string == policy && $0?["path"]?.string == path
                }
                _ = try await self.node.curl("http://10.96.4.1/", times: 10)
            }
            #expect(Set(try await self.node.curl("http://10.96.4.1/", times: 10)).count == 1)
            try self.node.deleteManifest("live-rule.yaml")
            try await self.node.waitForRow("live", "the default policy") { $0?["policy"]?.string == "default" }
            #expect(Set(try await self.node.curl("http://10.96.4.1/", times: 10)).count == 3)
            let report = try await load
            #expect(report["failed"]?.integer == 0 && report["succeeded"]?.integer ?? 0 > 200, "\(report.jsonText())")
        }

        @Test func aBrokenManifestIsToldAndItsServiceServesOn() async throws {
            let good = Manifest.service(
                "live",
                "10.96.4.1",
                port: "80:9376/tcp",
                endpoints: [31, 32, 33],
                on: "node-a"
            )
            for (text, kind, name) in [
                ("kind: [", "Manifest", "live.yaml:2"), ("kind: Service: x\n", "Manifest", "live.yaml:1"),
                (good.replacing("port: 80", with: "port: many"), "Service", "default/live"),
            ] {
                try self.node.apply("live.yaml", text)
                var rejected: [Document] = []
                try await self.node.lab.wait(for: "\(name) to be rejected") {
                    rejected = try await self.node.status()["rejected"]?.array ?? []
                    return rejected.contains { $0["kind"]?.string == kind }
                }
                #expect(
                    rejected.count == 1 && rejected[0]["reason"]?.string?.contains("live.yaml") == true,
                    "\(rejected)"
                )
                #expect(Set(try await self.node.curl("http://10.96.4.1/", times: 9)).count == 3)
                try self.node.apply("live.yaml", good)
                try await self.node.lab.wait(for: "the rejection to go") {
                    try await self.node.status()["rejected"]?.array?.isEmpty == true
                }
            }
            #expect(Set(try await self.node.curl("http://10.96.4.1/", times: 9)).count == 3)
        }

        @Test func theConfigurationIsReadAgainWhenItsFileChanges() async throws {
            let good = self.node.agentConfiguration()
            let mode = "serviceFilterMode: FilterIfLabelDoesNotExists"
            try self.node.configureAgent(good.replacing("edgeProxy:\n", with: "edgeProxy:\n    \(mode)\n"))
            try await self.node.waitForRow("live", "filtered out") { $0?["path"]?.string == "not proxied" }
            let refused = try await self.node.lab.run(
                on: "client",
                ["curl", "-sS", "--max-time", "0.3", "http://10.96.4.1/"]
            )
            #expect(!refused.status.isSuccess)

            try self.node.configureAgent(
                good.replacing("edgeProxy:\n", with: "edgeProxy:\n    serviceFilterMode: Wrong\n")
            )
            var error = ""
            try await self.node.lab.wait(for: "the error to be told") {
                error = try await self.node.status()["agent"]?["config"]?["error"]?.string ?? ""
                return !error.isEmpty
            }
            #expect(error.contains("serviceFilterMode"))
            #expect(try await self.node.row("live")?["path"]?.string == "not proxied", "the last good one is in force")

            try self.node.configureAgent(good)
            try await self.node.waitForRow("live", "served again") { $0?["path"]?.string == "kernel" }
            #expect(Set(try await self.node.curl("http://10.96.4.1/", times: 9)).count == 3)
        }
    }
}
