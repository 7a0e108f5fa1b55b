import MeshCore
import Testing

@testable import NetLab

private func parse(_ text: String) throws -> Scenario { try Scenario.parse(Array(text.utf8), file: "lab.yaml") }

@Suite struct ScenarioTests {
    @Test func aWholeFileIsRead() throws {
        let scenario = try parse(
            """
            name: all
            summary: Everything that a file can say.
            transport: ws
            podNetwork: true
            lans:
              - name: cloud
                nat: public
                nodes: [{name: relay, relay: true, pods: 0}]
              - name: home
                nat: cgn
                link: {delay: 20ms, jitter: 2ms, loss: 0.1%, bandwidth: 5mbit}
                nodes:
                  - {name: edge-1, gateway: true, pods: 2, link: {delay: 1ms}}
                  - name: edge-2
            services:
              - {name: shop, nodes: [edge-1, edge-2], balancing: RANDOM}
            """
        )
        var expected = Scenario(
            name: "all",
            lans: [
                .init(name: "cloud", nat: .open, nodes: [.init(name: "relay", isRelay: true, pods: 0)]),
                .init(
                    name: "home",
                    nat: .carrier,
                    link: LinkConditions(
                        delay: .milliseconds(20),
                        jitter: .milliseconds(2),
                        loss: 0.001,
                        bandwidth: 5_000_000
                    ),
                    nodes: [
                        .init(name: "edge-1", isGateway: true, pods: 2, link: LinkConditions(delay: .milliseconds(1))),
                        .init(name: "edge-2"),
                    ]
                ),
            ],
            services: [.init(name: "shop", nodes: ["edge-1", "edge-2"], balancing: .random)]
        )
        expected.summary = "Everything that a file can say."
        expected.transport = .ws
        expected.hasPodNetwork = true
        #expect(scenario == expected)
    }

    /// The line that is wrong, what is wrong with it, and what to write.
    @Test(arguments: [
        ("name: a\nlans: [", "lab.yaml:", ": "),
        ("lans: []", "lab.yaml:1:1: a scenario needs a name", "write 'name: scenario-1'"),
        ("name: a", "lab.yaml:1:1: a scenario needs 'lans'", "write 'lans:' with a list, such as '- name: home'"),
        ("name: a\nlans: home", "lab.yaml:2:7: 'lans' is a list", "- name: home"),
        ("name: a\nlans: []", "lab.yaml:1:1: a scenario needs a node", "nodes: [{name: edge-1}]"),
        ("name: A", "lab.yaml:1:7: 'A' is no name", "lower-case letters"),
        ("name: a\nlan: []", "lab.yaml:2:1: a scenario has no key 'lan'", "name, summary, transport, podNetwork, lans"),
        ("name: a\ntransport: quic", "lab.yaml:2:12:", "choose one of tcp, ws"),
        ("name: a\nlans:\n  - {name: x, nat: half-cone}", "lab.yaml:3:", "full-cone, cone, masquerade"),
        ("name: a\nlans:\n  - {name: x, nat: firewall-v6}", "lab.yaml:3:", "choose one of public"),
        ("name: a\nlans:\n  - {name: x}", "lab.yaml:3:", "a LAN needs 'nodes'"),
        ("name: a\nlans:\n  - {name: x, link: {delay: 5}, nodes: []}", "lab.yaml:3:29: '5' is no delay", "50ms"),
        ("name: a\nlans:\n  - {name: x, link: {lag: 5ms}, nodes: []}", "lab.yaml:3:", "delay, jitter, loss, bandwidth"),
        ("name: a\nlans:\n  - {name: x, nodes: [{name: x}]}", "lab.yaml:3:", "in line 3 already"),
        ("name: a\nlans:\n  - {name: internet, nodes: []}", "lab.yaml:3:", "is the lab's own"),
        (
            "name: a\nlans:\n  - name: x\n    nodes:\n      - {name: n, relay: true}", "lab.yaml:5:",
            "put 'n' into a LAN with 'nat: public'"
        ),
        ("name: a\nlans:\n  - {name: x, nodes: [{name: n, relay: maybe}]}", "lab.yaml:3:", "true or false"),
        ("name: a\nlans:\n  - {name: x, nodes: [{name: n, gateway: 1}]}", "lab.yaml:3:", "'gateway' is true or false"),
        ("name: a\nlans:\n  - {name: x, nodes: [{name: outside}]}", "lab.yaml:3:", "is the lab's own"),
        ("name: a\nlans:\n  - {name: x, nodes: [{name: n, pods: 21}]}", "lab.yaml:3:", "a number from 0 to 20"),
        (
            "name: a\nlans:\n  - {name: x, nodes: [{name: n}]}\nservices: [{name: s, nodes: [m]}]", "lab.yaml:4:",
            "one of n"
        ),
        ("name: a\n---\nname: b\n", "lab.yaml:1: a scenario is one YAML document", "here are 2"),
    ])
    func mistakesAreNamedWithTheirPlaceAndMend(text: String, place: String, mend: String) {
        #expect {
            try parse(text)
        } throws: { error in
            let said = "\(error)"
            let isNamed = said.hasPrefix(place) && said.contains(mend) && (error as? LabError)?.code == .invalidPlan
            if !isNamed { print(said) }
            return isNamed
        }
    }

    @Test func aMissingFileIsNamed() {
        #expect { try Scenario.read(from: "/nowhere/lab.yaml") } throws: { "\($0)".contains("/nowhere/lab.yaml") }
    }

    @Test func podsAreBehindTheirNodesAndNodesBehindTheirRouters() throws {
        let scenario = try parse(
            """
            name: plan
            lans:
              - {name: cloud, nat: public, nodes: [{name: relay, relay: true}]}
              - {name: home, nodes: [{name: a, pods: 2}, {name: b}]}
            """
        )
        let plan = try WorldPlan(scenario, name: "plan")
        try plan.lab.validate()
        #expect(
            Set(plan.lab.hosts.map(\.name)) == [
                "relay", "relay-client", "relay-app", "home-router", "a", "a-client", "a-app", "a-app-2", "b",
                "b-client",
                "b-app", "internet",
            ]
        )
        #expect(plan.relays.map(\.node) == ["relay"])
        #expect(plan.relays[0].addresses == [.v4(IPv4Address(1, 1, 1, 2))])
        #expect(
            plan.nodes.map { "\($0.name) \($0.address) \($0.podNetwork)" } == [
                "relay 1.1.1.2 10.244.1.0/24", "a 10.0.2.10 10.244.2.0/24", "b 10.0.2.11 10.244.3.0/24",
            ]
        )
    }

    @Test func gatewaysHaveACardOnTheLANOfThoseOutside() throws {
        let scenario = try parse(
            "name: plan\nlans: [{name: home, nodes: [{name: a}, {name: b, gateway: true}, {name: c, gateway: true}]}]"
        )
        let plan = try WorldPlan(scenario, name: "plan")
        try plan.lab.validate()
        #expect(
            plan.nodes.map { node in node.outsideAddresses.map { "\($0)" } } == [
                [], ["203.0.113.2", "2001:db8:113::2"], ["203.0.113.3", "2001:db8:113::3"],
            ]
        )
        let outside = try #require(plan.lab.hosts.first { $0.name == WorldPlan.outside })
        #expect(outside.routes.isEmpty && outside.interfaces.map(\.attachment) == [.lan(WorldPlan.outside)])
        let gateway = try #require(plan.lab.hosts.first { $0.name == "b" })
        #expect(Set(gateway.interfaces.map(\.name)) == ["eth0", WorldPlan.outsideInterface])
    }

    @Test func everyNodeAndEveryServiceHasItsObjects() throws {
        let scenario = try parse(
            """
            name: plan
            lans: [{name: home, nodes: [{name: a, pods: 2}, {name: b}]}]
            services: [{name: shop, nodes: [b, a], balancing: ROUND_ROBIN}]
            """
        )
        let files = Dictionary(uniqueKeysWithValues: WorldManifests.files(for: try WorldPlan(scenario, name: "plan")))
        #expect(
            Set(files.keys) == [
                "node-a.yaml", "node-b.yaml", "service-a.yaml", "service-b.yaml", "service-shop.yaml",
            ]
        )
        let shop = try #require(files["service-shop.yaml"])
        for part in ["clusterIP: 10.96.2.1", "10.244.1.10", "10.244.1.11", "10.244.2.10", "simple: ROUND_ROBIN"] {
            #expect(shop.contains(part), "\(part)")
        }
        #expect(files["node-a.yaml"]?.contains("topology.kubernetes.io/zone: home") == true)
    }
}
