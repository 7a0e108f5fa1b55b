import Documents
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    @Suite(.serialized, .timeLimit(.minutes(4))) struct EarlyClientTests {
        /// The kernel remembers a connection that was begun while no agent ran as one that nobody translates, and its SYNs go astray
        /// for as long as they are sent.
        @Test func connectionsThatWereBegunBeforeTheAgentArriveOnceItServes() async throws {
            let lan = Scenario.LAN(name: "lan", nat: .open, nodes: [.init(name: "a")])
            let scenario = Scenario(name: "early", lans: [lan])
            try await withWorld(scenario, name: "early") { world in
                let (client, service) = (try world.node("a").client.name, try world.node("a").clusterIP)
                // Whoever routes the addresses of services elsewhere says nothing, so that the caller goes on trying.
                try await world.lab.output(
                    on: Internet.core,
                    ["nft", "add table ip early; add chain ip early in { type filter hook prerouting priority 0; }"]
                )
                try await world.lab.output(
                    on: Internet.core,
                    ["nft", "add rule ip early in ip daddr 10.96.0.0/16 counter drop"]
                )
                async let answer = world.lab.output(
                    on: client,
                    ["curl", "-sS", "--max-time", "60", "http://\(service)/"],
                    deadline: .seconds(70)
                )
                try await world.lab.wait(for: "the first SYN to go astray") {
                    try await world.lab.output(on: Internet.core, ["nft", "list table ip early"])
                        .contains("packets 1 ")
                }
                try await world.startAgents()
                #expect(try await answer == "a-app\n")
            }
        }
    }
}
