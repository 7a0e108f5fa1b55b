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
    /// An agent without descriptors lets callers wait or refuses them, says so, keeps its listeners, and goes on by itself.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct DescriptorTests {
        enum Side: String, CaseIterable {
            case caller, called

            /// What its log has then.
            var words: String {
                switch self {
                case .caller: "the proxy accepts nothing for a while"
                case .called: "flows of other nodes are refused"
                }
            }

            /// What it counts then: the path in its status.
            var counter: (part: String, key: String) {
                switch self {
                case .caller: ("edgeProxy", "acceptsPaused")
                case .called: ("edgeTunnel", "flowsRefused")
                }
            }
        }

        @Test(arguments: Side.allCases)
        func anAgentWithoutDescriptorsGoesOn(side: Side) async throws {
            let nodes = Side.allCases.map { Scenario.Node(name: $0.rawValue) }
            let scenario = Scenario(name: "few", lans: [.init(name: "lan", nat: .open, nodes: nodes)])
            try await withWorld(scenario, name: "few-\(side.rawValue)") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "caller", to: "called")
                let agent = try #require(try world.agent(of: side.rawValue))
                let limit = try await agent.limitDescriptors(toSpare: 64)

                let target = "\(try world.node("called").clusterIP):2701"
                let held = try await world.runClient(
                    on: "caller",
                    ["idle", "--target", target, "--connections", "1000", "--seconds", "3", "--timeout", "5000"]
                )
                let report = CallReport(document: held)
                // The kernel takes connections for an agent that takes none; those that the far agent refuses are reset.
                #expect(report.succeeded + report.lost == 1000, "\(held.jsonText())")
                if side == .called { #expect(report.succeeded < limit, "\(held.jsonText())") }

                // With as few descriptors as before, and no connection that takes them any more.
                try await world.waitForCall(from: "caller", to: "called")
                let calls = try await world.call(from: "caller", to: "called", ["--requests", "200"])
                #expect(calls.succeeded == 200 && calls.lost == 0, "\(calls)")
                #expect(agent.isRunning && agent.log.contains(side.words), "\(agent.logTail())")
                let status = try await world.status(of: side.rawValue)
                let counter = status[side.counter.part]?["counters"]?[side.counter.key]?.integer
                #expect(counter ?? 0 > 0, "\(status[side.counter.part]?["counters"]?.jsonText() ?? "")")
                #expect(status["edgeProxy"]?["counters"]?["listenersRestarted"]?.integer == 0)
            }
        }
    }
}
