import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension World {
    /// Waits until packets from a node to another go by `datagrams`, or by the stream for a reason: `stream noWay`.
    func waitForCarrier(from node: String, to other: String, _ wanted: String) async throws {
        try await self.lab.wait(for: "packets from \(node) to \(other) by \(wanted)", within: .seconds(90)) {
            let packets = try await self.path(from: node, to: other)?["packets"]
            let carrier = [packets?["by"]?.string, packets?["reason"]?.string].compactMap { $0 }
            return carrier.joined(separator: " ") == wanted
        }
    }

    fileprivate func tunnelCounter(_ name: String, of node: String) async throws -> Int64 {
        try await self.status(of: node)["edgeTunnel"]?["counters"]?[name]?.integer ?? 0
    }

    /// A connection to the echo of a pod, whose first line is read.
    fileprivate func connectToEcho(of pod: NodeLab.Pod, from client: NodeLab.Pod) throws -> LabSocket {
        let connection = try LabSocket(self.lab, on: client.name, .tcp)
        try connection.connect("\(pod.address)", 2701)
        _ = try connection.receive()
        return connection
    }

    /// Sends a line and waits until it is back.
    fileprivate func waitForEcho(of line: String, on connection: LabSocket) async throws {
        try connection.send("\(line)\n".utf8)
        var echo = ""
        try await self.lab.wait(for: "the echo of '\(line)'", within: .seconds(90)) {
            if let bytes = try? connection.receive() { echo += String(decoding: bytes, as: UTF8.self) }
            return echo.hasSuffix("\(line)\n")
        }
    }
}

extension EndToEnd {
    /// Packets of pods by datagrams beside the stream of two agents.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct PodDatagramTests {
        @Test func holesForDatagramsArePunchedThroughTwoNATs() async throws {
            try await withPodNetwork(name: "podudp") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                for (from, to) in [("north-1", "south-1"), ("south-1", "north-1")] {
                    try await world.waitForCarrier(from: from, to: to, "datagrams")
                }
                let before = try await world.tunnelCounter("packetDatagramBytesSent", of: "north-1")
                let bytes = 8 << 20
                #expect(try await world.carry(bytes, from: client, to: app) == bytes)
                #expect(try await world.carry(bytes, from: app, to: client) == bytes)
                // All of it went so, unless a machine that is too busy to answer has let the way be lost.
                let sent = try await world.tunnelCounter("packetDatagramBytesSent", of: "north-1") - before
                let lost = try await world.tunnelCounter("packetDatagramWaysLost", of: "north-1")
                #expect(lost > 0 || sent > bytes, "\(sent) bytes, \(lost) ways lost")
                let text = try await world.runTool(on: "north-1", ["edgemesh", "status", "--peers"])
                #expect(text.contains("PACKETS") && text.contains(" datagrams "), "\(text)")
                // What does not fit into a datagram takes the stream: no sender has to be told.
                for size in [1400, 1472, 9000] {
                    try await world.waitForPing(from: client.name, "\(app.address)", size: size)
                }
            }
        }

        @Test func withinALANDatagramsTakeTheShortestWay() async throws {
            func change(_ scenario: inout Scenario) {
                scenario.lans[1].nodes.append(Scenario.Node(name: "north-2"))
            }
            try await withPodNetwork(name: "podlan", datagrams: "always", change: change) { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "north-2"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                try await world.waitForCarrier(from: "north-1", to: "north-2", "datagrams")
                let way = try await world.path(from: "north-1", to: "north-2")?["packets"]
                let address = try world.node("north-2").address
                #expect(way?["address"]?.string == "\(address):\(WorldPlan.tunnelPort)", "\(way?.jsonText() ?? "")")
                #expect(try await world.carry(8 << 20, from: client, to: app) == 8 << 20)
            }
        }

        @Test func whatDoesNotPassByDatagramsGoesByTheStream() async throws {
            try await withPodNetwork(name: "podblock") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                try await world.waitForCarrier(from: "north-1", to: "south-1", "datagrams")
                let connection = try world.connectToEcho(of: app, from: client)
                try await world.waitForEcho(of: "before", on: connection)
                for command in [
                    ["add", "table", "inet", "block"],
                    ["add", "chain", "inet", "block", "passing", "{ type filter hook forward priority filter; }"],
                    ["add", "rule", "inet", "block", "passing", "meta", "l4proto", "udp", "drop"],
                ] {
                    try await world.lab.output(on: Internet.core, ["nft"] + command)
                }
                try await world.waitForEcho(of: "blocked", on: connection)
                try await world.waitForCarrier(from: "north-1", to: "south-1", "stream noWay")
                try await world.lab.output(on: Internet.core, ["nft", "delete", "table", "inet", "block"])
                try await world.waitForCarrier(from: "north-1", to: "south-1", "datagrams")
                try await world.waitForEcho(of: "after", on: connection)
            }
        }

        /// A node whose address changes has other ports at its NAT, as the old ones are taken for as long as that remembers them: nobody can
        /// tell them to the other side, which sees them where it is reached itself.
        @Test func aNodeThatRoamsIsFollowed() async throws {
            try await withPodNetwork(name: "podmove") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "cloud-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                let connection = try world.connectToEcho(of: app, from: client)
                for line in ["before", "after", "again"] {
                    if line != "before" { try await world.renumber("north-1") }
                    try await world.waitForEcho(of: line, on: connection)
                    for (from, to) in [("north-1", "cloud-1"), ("cloud-1", "north-1")] {
                        try await world.waitForCarrier(from: from, to: to, "datagrams")
                    }
                }
                try await world.waitForEcho(of: "at the end", on: connection)
            }
        }

        /// A stream would bring all that was sent, and each only behind those before it. By datagrams what is lost is lost, and holds
        /// nothing back: of 400 that cross a link twice, which loses one of twenty, all come back in one of 10^17 tries.
        @Test func whatIsLostHoldsNothingBack() async throws {
            try await withPodNetwork(name: "podloss", datagrams: "always") { world in
                try await world.startAgents(within: .seconds(90))
                let (client, app) = (try world.node("north-1").client, try world.app(of: "south-1"))
                try await world.waitForPing(from: client.name, "\(app.address)")
                for (from, to) in [("north-1", "south-1"), ("south-1", "north-1")] {
                    try await world.waitForCarrier(from: from, to: to, "datagrams")
                }
                try await world.changeLink("north-1", ["loss=5%"])
                let socket = try LabSocket(world.lab, on: client.name, .udp)
                try socket.connect("\(app.address)", 2702)
                for number in 0..<400 {
                    try socket.send("\(number)".utf8)
                    try await Task.sleep(for: .milliseconds(2))
                }
                var back: [Int] = []
                while let bytes = try? socket.receive() { back += [Int(String(decoding: bytes, as: UTF8.self)) ?? -1] }
                let missing = Set(0..<400).subtracting(back)
                #expect(back.allSatisfy { (0..<400).contains($0) } && Set(back).count == back.count)
                #expect(back.count > 200 && missing.contains { $0 < back.max() ?? 0 }, "\(missing.sorted())")
                // Load that heeds loss gets through, too.
                #expect(try await world.carry(1 << 20, from: client, to: app) == 1 << 20)
            }
        }
    }
}
