import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension World {
    /// What a command says in its form for programs.
    fileprivate func tool(on node: String, _ arguments: [String]) async throws -> Document {
        let text = try await self.runTool(on: node, ["edgemesh"] + arguments + ["-o", "json"])
        return try Document.parseJSON(Array(text.utf8), limits: .default)
    }

    /// The lines of `edgemesh ping`.
    fileprivate func ping(from node: String, to other: String, _ options: [String]) async throws -> [Document] {
        let output = try await self.lab.output(
            on: node,
            ["edgemesh", "ping", other, "-o", "json"] + options,
            program: self.program,
            deadline: .seconds(60)
        )
        return try output.split(separator: "\n").map { try Document.parseJSON(Array($0.utf8), limits: .default) }
    }

    /// Waits until it says what is expected, and returns that.
    fileprivate func wait(
        for what: String,
        on node: String,
        _ arguments: [String],
        _ condition: (Document) -> Bool
    ) async throws -> Document {
        var said: Document = [:]
        do {
            try await self.lab.wait(for: "\(node): \(what)", within: .seconds(60)) {
                said = try await self.tool(on: node, arguments)
                return condition(said)
            }
        } catch {
            Issue.record("\(node): \(what): \(said.jsonText())")
            throw error
        }
        return said
    }
}

extension EndToEnd {
    /// The commands for people who look at paths, on live NATs of several kinds.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct OperatorTests {
        @Test func netcheckNamesEachNATTheRelaysAndWhatIsInTheWay() async throws {
            try await withWorld(try example("many-nats").scenario, name: "netcheck") { world in
                try await world.startAgents(within: .seconds(90))
                let kinds = [
                    ("cloud-1", "none", "none seen"), ("home-1", "endpointIndependent", "endpoint-independent mapping"),
                    ("office-1", "none", "none seen"),
                    ("van-1", "endpointDependent", "address- and port-dependent mapping"),
                ]
                for (node, kind, words) in kinds {
                    _ = try await world.wait(for: "the NAT is \(kind)", on: node, ["netcheck"]) {
                        $0["nat"]?.string == kind && $0["publicIPv6"]?.bool != nil
                    }
                    let text = try await world.runTool(on: node, ["edgemesh", "netcheck"])
                    #expect(text.contains("NAT       \(words)"), "\(text)")
                    #expect(text.contains("IPv6      ") && text.contains("Transport tcp"), "\(text)")
                }
                // Both relays, with how far they are, from a node that needs them.
                let relays = try await world.wait(for: "both relays are measured", on: "home-1", ["netcheck"]) {
                    check in
                    let known = check["relays"]?.array ?? []
                    return known.count == 2 && known.allSatisfy { $0["rttMilliseconds"]?.isNull == false }
                        && known.contains { $0["state"]?.string == "reserved" }
                }
                #expect(relays["findings"]?.array?.isEmpty == true)
                // A path that no punch makes direct, and why: the side with the difficult NAT knows it, at once.
                let pinged = try await world.ping(from: "home-1", to: "van-1", ["-c", "3", "-i", "0.1"])
                #expect(pinged.map { $0["event"]?.string } == ["reply", "reply", "reply", "summary"])
                #expect(pinged.dropLast().allSatisfy { $0["kind"]?.string == "relayed" }, "\(pinged)")
                _ = try await world.wait(for: "home-1 is relayed", on: "van-1", ["netcheck"]) {
                    $0["relayed"]?.array?.contains { $0["node"]?.string == "home-1" } == true
                }
                let blocked = try await world.runTool(on: "van-1", ["edgemesh", "netcheck"])
                for words in [
                    "home-1, via ", "  ! the NAT of this node takes another port for each destination", "portMapping",
                ] {
                    #expect(blocked.contains(words), "\(words) is missing in:\n\(blocked)")
                }
                // `status --peers` tells the same of the path.
                let peers = try await world.tool(on: "van-1", ["status", "--peers"])["peers"]
                #expect(peers?["home-1"]?["kind"]?.string == "relayed" && peers?["home-1"]?["relay"]?.string != nil)
                let table = try await world.runTool(on: "van-1", ["edgemesh", "status", "--peers"])
                #expect(table.contains("relayed via "), "\(table)")
            }
        }

        @Test func pingTellsAMistypedNameAtOnceAndTheMomentThatThePathTurnsDirect() async throws {
            try await withWorld(try example("many-nats").scenario, name: "ping") { world in
                try await world.startAgents(within: .seconds(90))
                for (name, words) in [
                    ("hmoe-1", "did you mean 'home-1'?"),
                    ("nothing-like-it", "known are cloud-1, home-1, office-1, overseas-1"),
                ] {
                    let wrong = try await world.lab.run(
                        on: "home-1",
                        ["edgemesh", "ping", name, "-c", "1"],
                        program: world.program
                    )
                    #expect(wrong.status == .exited(1) && wrong.standardOutput.isEmpty, "\(wrong)")
                    #expect(wrong.standardError.contains("no node '\(name)' is known"), "\(wrong)")
                    #expect(wrong.standardError.contains(words), "\(wrong)")
                }
                // Relayed while the van is in a network that cannot be crossed; then it comes to the office.
                let ping = try world.lab.start(
                    on: "home-1",
                    ["edgemesh", "ping", "van-1", "-i", "0.2"],
                    program: world.program,
                    log: "ping"
                )
                try await world.lab.wait(for: "relayed replies", within: .seconds(60)) {
                    ping.log.contains("van-1: reply") && ping.log.contains("relayed via ")
                }
                // What is tried there is over, and in vain.
                try await world.lab.wait(for: "the last try of a punch", within: .seconds(60)) {
                    let counters = try await world.status(of: "van-1")["edgeTunnel"]?["counters"]
                    return counters?["holesFailed"]?.integer ?? 0 > 0
                }
                try await world.move("van-1", to: "office")
                try await world.lab.wait(for: "the path to turn direct", within: .seconds(120)) {
                    ping.log.contains("van-1: the path turned direct (punched) after ")
                }
                ping.signal(SIGINT)
                #expect(try await ping.exit(within: .seconds(30)) == .exited(0))
                #expect(ping.log.contains("; by path: relayed via ") && ping.log.contains("punched "), "\(ping.log)")
            }
        }

        @Test func routesShowNearnessBesideEachEndpointAndPath() async throws {
            try await withWorld(try example("many-nats").scenario, name: "routes") { world in
                try await world.startAgents(within: .seconds(90))
                // Paths are made by flows.
                for node in ["plant-2", "home-1", "office-1", "van-1"] {
                    try await world.waitForCall(from: "plant-1", to: node)
                }
                try await world.waitForPath(from: "plant-1", to: "plant-2", ["direct"])
                let near = [
                    "plant-1": "sameNode", "plant-2": "sameLAN", "home-1": "elsewhere", "office-1": "elsewhere",
                    "van-1": "elsewhere",
                ]
                let routes = try await world.wait(for: "all five", on: "plant-1", ["routes", "everywhere"]) { routes in
                    let rows = routes["endpoints"]?.array ?? []
                    let measured = rows.filter { $0["rttMilliseconds"]?.isNull == false }
                    return rows.count == near.count * WorldManifests.ports.count
                        && measured.count == rows.count - WorldManifests.ports.count
                }
                for row in routes["endpoints"]?.array ?? [] {
                    let node = try #require(row["node"]?.string)
                    #expect(row["near"]?.string == near[node] && row["leftOut"]?.string == nil, "\(row)")
                    #expect(
                        row["zone"]?.string
                            == node.split(separator: "-").first.map { $0 == "van" ? "mobile" : String($0) }
                    )
                    #expect(row["served"]?.string == (node == "plant-1" ? "socket" : "tunnel"), "\(row)")
                    #expect((row["rttMilliseconds"]?.isNull == false) == (node != "plant-1"))
                }
                // Whoever asks for what is near is shown what is left out for it.
                let file = "service-everywhere.yaml"
                let text = try Files.readText("\(world.manifestsDirectory)/\(file)")
                    .replacing(
                        "  type: ClusterIP\n",
                        with: "  type: ClusterIP\n  trafficDistribution: PreferClose\n",
                        maxReplacements: 1
                    )
                try world.apply(file, text)
                let preferred = try await world.wait(for: "PreferClose", on: "plant-1", ["routes", "everywhere"]) {
                    $0["trafficDistribution"]?.string == "PreferClose"
                        && $0["endpoints"]?.array?.contains { $0["leftOut"]?.string != nil } == true
                }
                for row in preferred["endpoints"]?.array ?? [] {
                    let isNear = row["node"]?.string?.hasPrefix("plant-") == true
                    #expect(row["leftOut"]?.string == (isNear ? nil : "nearer ones are preferred"), "\(row)")
                }
                let table = try await world.runTool(on: "plant-1", ["edgemesh", "routes", "everywhere"])
                for words in [
                    "Prefers   PreferClose, from zone plant", "this node", "same LAN, zone plant", "zone office",
                ] {
                    #expect(table.contains(words), "\(words) is missing in:\n\(table)")
                }
            }
        }
    }
}
