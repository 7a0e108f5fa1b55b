import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// Starts, stops and crashes of the agent.
    @Suite(.serialized, .timeLimit(.minutes(1))) struct AgentLifeTests {
        @Test func aStopRemovesEveryRule() async throws {
            try await RunningLab.provide([:]) {
                let node = try RunningLab.node
                let rules = "nft list ruleset; iptables-save; ip6tables-save"
                #expect(try await node.shell(rules, on: "node-a").contains("table ip edgemesh"))
                let status = try await RunningLab.agent.stop(grace: .seconds(10))
                #expect(status == .exited(0))
                let left = try await node.shell(rules, on: "node-a")
                #expect(!left.lowercased().contains("edgemesh"), "\(left.prefix(500))")
                #expect(access(node.adminSocket, F_OK) != 0)
            }
        }

        @Test func aCrashLosesNoCallOnTheKernelsPath() async throws {
            try await RunningLab.provide([:]) {
                let node = try RunningLab.node
                let repeated = try await node.repeatedSYNs(on: "client")
                async let load = node.runClient(
                    [
                        "http", "--target", "10.96.0.10:12345", "--seconds", "3", "--connections", "4", "--interval",
                        "2",
                    ],
                    on: "client"
                )
                try await Task.sleep(for: .milliseconds(300))
                try await RunningLab.agent.kill()
                // The load takes turns, too, so which are left for these calls is chance: one in 10^10 runs misses a backend.
                #expect(Set(try await node.curl("http://10.96.0.10:12345/", times: 60)).count == 3)
                let second = try node.startAgent()
                try await node.waitUntilServing(second)
                #expect(Set(try await node.curl("http://10.96.0.10:12345/", times: 60)).count == 3)
                let tables = try await node.shell("nft list tables", on: "node-a")
                #expect(tables.split(separator: "\n").count { $0.contains("table ip edgemesh") } == 1, "\(tables)")
                let report = try await load
                #expect(report["failed"]?.integer == 0, "\(report.jsonText())")
                #expect(report["succeeded"]?.integer ?? 0 > 200)
                #expect(try await node.repeatedSYNs(on: "client") == repeated, "no first packet is lost")
            }
        }

        /// The state on disk against a folder that changed, went and came back while the agent was away.
        @Test func theNextStartServesFromDiskAndBelievesTheFolder() async throws {
            try await RunningLab.provide([:]) {
                let node = try RunningLab.node
                try await node.waitUntilStored { $0.contains("\"hostname-udp-svc\"") }

                try await RunningLab.agent.kill()
                try node.deleteManifest("hostname-udp.yaml")
                let second = try node.startAgent()
                try await node.waitUntilServing(second)
                try await node.lab.wait(for: "the deleted service to go") {
                    try await node.row("hostname-udp-svc") == nil
                }
                #expect(try await node.dig(["hostname-udp-svc.default.svc.cluster.local"]) == [])
                #expect(try await node.status()["agent"]?["state"]?.string == "synced")

                try await second.kill()
                let hidden = node.manifestsDirectory + "-away"
                #expect(rename(node.manifestsDirectory, hidden) == 0)
                let third = try node.startAgent()
                try await node.waitUntilServing(third)
                let status = try await node.status()["agent"]
                #expect(status?["state"]?.string == "stale")
                let folder = status?["sources"]?.array?.first { $0["source"]?.string == "manifests" }
                #expect(
                    folder?["message"]?.string?.contains("cannot read the folder") == true,
                    "\(status?.jsonText() ?? "")"
                )
                #expect(Set(try await node.curl("http://hostname-svc:12345/", times: 9)).count == 3)

                #expect(rename(hidden, node.manifestsDirectory) == 0)
                try await node.lab.wait(for: "the folder to be read") {
                    try await node.status()["agent"]?["state"]?.string == "synced"
                }
                #expect(try await node.row("hostname-svc") != nil)
            }
        }
    }
}
