import Documents
import MeshCore
import Testing

@testable import NetLab

extension LabProcess {
    /// Leaves it so many descriptors beside those that it has open.
    /// - Returns: how many it may have in all.
    fileprivate func limitDescriptors(toSpare spare: Int) async throws -> Int {
        let limit = Files.names(in: "/proc/\(self.processID)/fd").count + spare
        try await Command.runLocal(["prlimit", "--pid", "\(self.processID)", "--nofile=\(limit):\(limit)"])
        return limit
    }
}

extension EndToEnd {
    /// An agent without descriptors refuses what it cannot serve, says so, keeps its listeners, and goes on by itself.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct DescriptorTests {
        @Test func anAgentWithoutDescriptorsRefusesFlowsAndGoesOn() async throws {
            let nodes = ["caller", "called"].map { Scenario.Node(name: $0) }
            let scenario = Scenario(name: "few", lans: [.init(name: "lan", nat: .open, nodes: nodes)])
            try await withWorld(scenario, name: "few") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "caller", to: "called")
                let agent = try #require(try world.agent(of: "called"))
                let limit = try await agent.limitDescriptors(toSpare: 64)

                let target = "\(try world.node("called").clusterIP):2701"
                let held = try await world.runClient(
                    on: "caller",
                    ["idle", "--target", target, "--connections", "1000", "--seconds", "3", "--timeout", "5000"]
                )
                let report = CallReport(document: held)
                // Each takes a descriptor there, and those that are refused are reset.
                #expect(report.succeeded + report.lost == 1000, "\(held.jsonText())")
                #expect(report.succeeded < limit, "\(held.jsonText())")

                // With as few descriptors as before, and no connection that takes them any more.
                try await world.waitForCall(from: "caller", to: "called")
                let calls = try await world.call(from: "caller", to: "called", ["--requests", "200"])
                #expect(calls.succeeded == 200 && calls.lost == 0, "\(calls)")
                #expect(agent.isRunning && agent.log.contains("flows of other nodes are refused"), "\(agent.logTail())")
                let status = try await world.status(of: "called")
                let refused = status["edgeTunnel"]?["counters"]?["flowsRefused"]?.integer
                #expect(refused ?? 0 > 0, "\(status["edgeTunnel"]?["counters"]?.jsonText() ?? "")")
                #expect(status["edgeProxy"]?["counters"]?["listenersRestarted"]?.integer == 0)
            }
        }
    }
}
