import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

/// What calls to a service have come to.
struct CallReport: CustomStringConvertible {
    let document: Document

    var succeeded: Int { Int(self.document["succeeded"]?.integer ?? 0) }
    var lost: Int { Int(self.document["failed"]?.integer ?? .max) }
    var late: Int { Int(self.document["late"]?.integer ?? .max) }
    var answers: Set<String> { Set((self.document["spread"]?.members ?? []).map(\.key)) }
    var longestGap: Duration { .microseconds(Int64(self.document["longestGapMicroseconds"]?.number ?? 0)) }
    var description: String { self.document.jsonText() }
}

extension Document {
    fileprivate var number: Double? {
        switch self.content {
        case .integer(let number): Double(number)
        case .number(let number): number
        default: nil
        }
    }
}

/// What calls may lose by a fault, and how long a caller may go without an answer.
///
/// The theory: as long as the fault lasts and until there is a way again, every call fails. It waits, for its timeout at most, while a
/// way is looked for; once the node counts as unreachable it is refused at once, and the next one follows after the interval. So of
/// each caller the calls of the refusing time are lost, one that was under way, and one that has waited. The times are those of the
/// tunnel's defaults, which `RecoveryTests` proves on virtual time; the fault's own is measured, as machines differ.
struct CallBound {
    static let interval = 0.1
    static let timeout = 5.0
    /// From the last sign of life until a node to which no other way is found counts as unreachable.
    static let silent = 3.5
    /// The same when its connection ends with a word: the time that is left to another way.
    static let told = 2.0

    /// How long the fault lasted, in seconds.
    let fault: Double
    /// After its end until there is a way again.
    let recovery: Double
    /// From its begin until calls are refused.
    let patience: Double
    let callers: Int

    /// However long a fault took to make: more than this of a thousand calls may be lost to none.
    static let mostLost = 400

    var lost: Int {
        let refusing = max(0, self.fault + self.recovery - self.patience)
        return min(Self.mostLost, self.callers * (Int((refusing / Self.interval).rounded(.up)) + 2))
    }

    var gap: Duration { .seconds(self.fault + self.recovery + Self.timeout + Self.interval) }

    func expect(_ calls: CallReport, _ what: String) {
        print(
            "\(what), \(self.fault) s: \(calls.lost) of 1,000 calls lost (\(self.lost) by theory), \(calls.late) late, "
                + "gap \(calls.longestGap) (\(self.gap))"
        )
        #expect(calls.succeeded + calls.lost == 1000, "\(what): \(calls)")
        #expect(calls.lost <= self.lost && calls.longestGap <= self.gap, "\(what): \(calls)")
    }
}

extension World {
    static let protocols = [("http", 80), ("https", 443), ("tcp", 2701), ("websocket", 8080), ("udp", 9376)]

    /// Calls a node's service from another node's client pod, each call on a connection of its own.
    func call(
        from node: String,
        to other: String,
        over mode: String = "http",
        _ options: [String]
    ) async throws -> CallReport {
        let port = Self.protocols.first { $0.0 == mode }?.1 ?? 80
        let target = "\(try self.node(other).clusterIP):\(port)"
        return CallReport(document: try await self.runClient(on: node, [mode, "--target", target] + options))
    }

    /// A thousand short connections, some at a time, while `fault` happens in their midst.
    func callThroughout(
        from node: String,
        to other: String,
        atOnce connections: Int = 10,
        _ fault: () async throws -> Void
    ) async throws -> CallReport {
        async let calls = self.call(
            from: node,
            to: other,
            [
                "--requests", "1000", "--connections", "\(connections)", "--timeout",
                "\(Int(CallBound.timeout * 1000))", "--interval", "\(Int(CallBound.interval * 1000))",
            ]
        )
        try await Task.sleep(for: .seconds(1))
        try await fault()
        return try await calls
    }
}

extension EndToEnd {
    /// Nodes in several LANs that reach each other by the tunnel.
    @Suite(.serialized, .timeLimit(.minutes(4))) struct MeshTests {
        /// The promise of any direction: edge to edge, edge to cloud, cloud to edge, and within a LAN.
        @Test func everyNodeCallsEveryOtherOverEveryProtocol() async throws {
            try await withWorld(try example("three-lans").scenario, name: "any") { world in
                try await world.startAgents(within: .seconds(90))
                let directions = [
                    ("north-1", "south-1"), ("south-1", "north-1"), ("north-1", "cloud-1"), ("cloud-1", "south-1"),
                    ("north-1", "north-2"),
                ]
                for (from, to) in directions {
                    try await world.waitForCall(from: from, to: to)
                    for (mode, _) in World.protocols {
                        let report = try await world.call(
                            from: from,
                            to: to,
                            over: mode,
                            ["--requests", "8", "--timeout", "20000"]
                        )
                        #expect(report.succeeded == 8 && report.lost == 0, "\(from) to \(to), \(mode): \(report)")
                        if ["http", "https", "udp"].contains(mode) {
                            #expect(report.answers.allSatisfy { $0.hasPrefix("\(to)-app") }, "\(report)")
                        }
                    }
                }
                // One service on nodes of all LANs.
                let everywhere = "\(WorldManifests.clusterIP(ofService: 0)):80"
                let spread = try await world.runClient(
                    on: "south-1",
                    ["http", "--target", everywhere, "--requests", "30", "--timeout", "20000"]
                )
                #expect(CallReport(document: spread).answers.count == 5, "\(spread.jsonText())")
            }
        }

        /// The promise of ssh to a node, and what SOCKS5 clients expect beside it: nodes and services by name, refusals by code.
        @Test func socksClientsReachNodesAndServicesByName() async throws {
            try await withWorld(try example("three-lans").scenario, name: "socks") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "north-1", to: "south-1")
                // What an SSH server would be: a listener of the node itself.
                _ = try world.lab.startApplication(
                    ["hostname", "--name", "node-itself", "--listen", "0.0.0.0:2222"],
                    on: "south-1",
                    program: world.program,
                    log: "south-1-listener"
                )
                func get(_ url: String) async throws -> CommandOutput {
                    let proxy = "\(WorldPlan.resolver):10800"
                    return try await world.lab.run(
                        on: "north-1",
                        ["curl", "-sS", "--max-time", "20", "--socks5-hostname", proxy, url],
                        deadline: .seconds(30)
                    )
                }
                try await world.lab.wait(for: "the node behind the SOCKS5 proxy", within: .seconds(30)) {
                    try await get("http://south-1:2222/").standardOutput == "node-itself\n"
                }
                #expect(
                    try await get("http://south-1.default.svc.cluster.local/").standardOutput.hasPrefix("south-1-app")
                )
                #expect(try await get("http://north-1.default/").standardOutput.hasPrefix("north-1-app"))
                // curl's exit code 97: the proxy has refused.
                #expect(try await get("http://127.0.0.1:2222/").status == .exited(97))
                #expect(try await get("http://nowhere.example/").status == .exited(97))
            }
        }

        /// Half-close lost; UDP truncated at 4,096 bytes, a new source port after 250 ms: none of it here.
        @Test func streamsAndDatagramsCrossTheTunnelWhole() async throws {
            try await withWorld(try example("three-lans").scenario, name: "whole") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "north-1", to: "south-1")
                let target = "\(try world.node("south-1").clusterIP)"

                let stream = try LabSocket(world.lab, on: "north-1-client", .tcp)
                try stream.connect(target, 2701)
                try stream.send("half\n".utf8)
                stream.finishWriting()
                #expect(String(decoding: try stream.receiveAll(), as: UTF8.self).hasSuffix("\nhalf\n"))

                for size in [1, 1400, 4097, 9000, 32_000] {
                    let datagrams = try LabSocket(world.lab, on: "north-1-client", .udp)
                    try datagrams.connect(target, 2702)
                    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
                    try datagrams.send(bytes)
                    #expect(try datagrams.receive() == bytes, "\(size) bytes")
                    // Longer than the original's sessions live.
                    usleep(600_000)
                    try datagrams.send([1, 2, 3])
                    #expect(try datagrams.receive() == [1, 2, 3])
                }
            }
        }

        /// More connections to one peer than the 618 at which the original ended.
        @Test func aThousandConnectionsToOneNodeAreHeld() async throws {
            try await withWorld(try example("three-lans").scenario, name: "many") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "north-1", to: "south-1")
                let report = try await world.call(
                    from: "north-1",
                    to: "south-1",
                    ["--requests", "1000", "--connections", "250", "--timeout", "30000"]
                )
                #expect(report.succeeded == 1000, "\(report)")
                let held = try await world.runClient(
                    on: "north-1",
                    [
                        "idle", "--target", "\(try world.node("south-1").clusterIP):2701", "--connections", "1000",
                        "--seconds", "2", "--timeout", "30000",
                    ]
                )
                #expect(CallReport(document: held).succeeded == 1000, "\(held.jsonText())")
            }
        }

        /// First relayed, then punched, and nothing is lost between: hole punching of the original does not work.
        @Test func relayedPathsBecomePunched() async throws {
            try await withWorld(try example("three-lans").scenario, name: "punch") { world in
                try await world.startAgents(within: .seconds(90))
                let calls = try await world.callThroughout(from: "north-1", to: "south-1") {
                    try await world.waitForPath(from: "north-1", to: "south-1", ["punched"])
                }
                #expect(calls.lost == 0, "\(calls)")
                try await world.waitForPath(from: "north-1", to: "cloud-1", ["direct"])
                _ = try await world.call(from: "north-1", to: "north-2", ["--requests", "4"])
                try await world.waitForPath(from: "north-1", to: "north-2", ["direct"])
            }
        }

        /// High availability of relays, and the nearest of them: the original reserves none and takes any.
        @Test func theNearestRelayCarriesUntilItDiesThenTheOther() async throws {
            try await withWorld(try example("two-relays").scenario, name: "relays") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "van-1", to: "desk-1")
                try await world.waitForPath(from: "van-1", to: "desk-1", ["relayed"])
                try await world.lab.wait(for: "the near relay to carry", within: .seconds(60)) {
                    try await world.path(from: "van-1", to: "desk-1")?["relay"]?.string == "near"
                }
                let calls = try await world.callThroughout(from: "van-1", to: "desk-1", atOnce: 25) {
                    try await world.killAgent(of: "near")
                }
                // Its sockets end with it; three seconds are the budget for the next one to carry.
                CallBound(fault: 0, recovery: 3, patience: CallBound.told, callers: 25).expect(calls, "a relay dies")
                #expect(try await world.path(from: "van-1", to: "desk-1")?["relay"]?.string == "far")
                let after = try await world.call(from: "van-1", to: "desk-1", ["--requests", "40"])
                #expect(after.lost == 0, "\(after)")
            }
        }

        /// Autonomy of a LAN without relay and cloud, also for an agent that starts then.
        @Test func aLANServesItselfWithoutTheCloud() async throws {
            try await withWorld(try example("three-lans").scenario, name: "autonomy") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "north-1", to: "north-2")
                try await world.waitForPath(from: "north-1", to: "north-2", ["direct"])
                let calls = try await world.callThroughout(from: "north-1", to: "north-2") {
                    try await world.changeLink("north", ["down"])
                }
                #expect(calls.lost == 0, "\(calls)")
                try await world.killAgent(of: "north-2")
                try world.startAgent(of: "north-2")
                try await world.waitUntilServing("north-2", within: .seconds(60))
                try await world.waitForCall(from: "north-1", to: "north-2")
                try await world.waitForCall(from: "north-2", to: "north-1")
                try await world.changeLink("north", ["up"])
                try await world.waitForCall(from: "north-1", to: "south-1", within: .seconds(90))
            }
        }

        enum Fault: String, CaseIterable {
            case agentKilled, linkFlaps, partition, addressChanges, lanChanges, clockJumps, lossyLine

            /// From the end of the fault until there is a way, in seconds.
            var recovery: Double {
                switch self {
                // A pause of two between dials, or the longest between the SYNs of the first ones, and one for handshakes.
                case .agentKilled, .linkFlaps, .partition: 3
                // The node itself has a new way to its relay in five, as a test on virtual time has it, and one to be found there.
                case .addressChanges, .lanChanges: 6
                // What waited in its sockets is answered, and the first answer ends the suspicion.
                case .clockJumps: 2
                // There is a way all the time.
                case .lossyLine: 0
                }
            }

            var patience: Double {
                // Its port refuses, so that nothing is waited for.
                self == .agentKilled ? 0 : CallBound.silent
            }
        }

        /// A thousand short connections during each fault: what is lost and late is counted and has bounds, and all is
        /// well again at the end.
        @Test(arguments: Fault.allCases)
        func callsGoOnAfter(fault: Fault) async throws {
            try await withWorld(try example("three-lans").scenario, name: "\(fault.rawValue.lowercased())") { world in
                try await world.startAgents(within: .seconds(90))
                try await world.waitForCall(from: "south-1", to: "north-2")
                var lasted = Duration.zero
                let calls = try await world.callThroughout(from: "south-1", to: "north-2") {
                    let began = ContinuousClock.now
                    defer { lasted = ContinuousClock.now - began }
                    switch fault {
                    case .agentKilled:
                        try await world.killAgent(of: "north-2")
                        try world.startAgent(of: "north-2")
                        try await world.waitUntilServing("north-2", within: .seconds(60))
                    case .linkFlaps:
                        for _ in 0..<3 {
                            try await world.changeLink("north-2", ["down"])
                            try await Task.sleep(for: .milliseconds(200))
                            try await world.changeLink("north-2", ["up"])
                            try await Task.sleep(for: .milliseconds(300))
                        }
                    case .partition:
                        try await world.changeLink("south", ["loss=100%"])
                        try await Task.sleep(for: .seconds(3))
                        try await world.changeLink("south", ["loss=0%"])
                    case .addressChanges: try await world.renumber("north-2")
                    case .lanChanges: try await world.move("north-2", to: "south")
                    case .clockJumps:
                        try world.pauseAgent(of: "north-2")
                        try await Task.sleep(for: .seconds(3))
                        try world.resumeAgent(of: "north-2")
                    case .lossyLine: try await world.changeLink("north", ["loss=3%"])
                    }
                }
                CallBound(
                    fault: lasted / .seconds(1),
                    recovery: fault.recovery,
                    patience: fault.patience,
                    callers: 10
                ).expect(calls, fault.rawValue)
                try await world.waitForCall(from: "south-1", to: "north-2", within: .seconds(90))
                let after = try await world.call(from: "south-1", to: "north-2", ["--requests", "40"])
                #expect(after.lost == 0, "\(fault): \(after)")
            }
        }
    }
}
