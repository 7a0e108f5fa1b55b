import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

/// A world that exists while `body` runs.
func withWorld(
    _ scenario: Scenario,
    name: String,
    configure: (inout World.Options) -> Void = { _ in },
    _ body: (World) async throws -> Void
) async throws {
    try #require(geteuid() == 0, "labs are made of network namespaces: run these tests as root")
    var options = World.Options()
    options.name = "w\(getpid())-\(name)"
    options.program = try EdgemeshBinary.path()
    configure(&options)
    let world = try await World.create(scenario, options)
    defer { try? world.remove() }
    try await body(world)
}

/// A scenario file of the repository.
func example(_ name: String, of file: String = #filePath) throws -> (path: String, scenario: Scenario) {
    let root = file.split(separator: "/").dropLast(3).joined(separator: "/")
    let path = "/\(root)/examples/lab/\(name).yaml"
    return (path, try Scenario.read(from: path))
}

extension EndToEnd {
    /// The world itself: networks, NATs, links and faults, with agents that serve their own nodes.
    @Suite(.serialized, .timeLimit(.minutes(3))) struct WorldTests {
        /// One LAN behind each kind of NAT, and a cloud.
        @Test func natsBehaveAsTheirKinds() async throws {
            let kinds = Scenario.natKinds.filter { $0 != .open }
            var scenario = Scenario(
                name: "nats",
                lans: [.init(name: "cloud", nat: .open, nodes: [.init(name: "c", pods: 0)])]
            )
            for kind in kinds {
                scenario.lans.append(
                    .init(name: "l-\(kind.rawValue)", nat: kind, nodes: [.init(name: "n-\(kind.rawValue)", pods: 0)])
                )
            }
            try await withWorld(scenario, name: "nats") { world in
                let cloud = try world.node("c").address
                let lab = world.lab
                // Tells everybody as whom it sees them.
                let mirror = try lab.start(
                    on: "c",
                    ["socat", "TCP-LISTEN:80,fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR $SOCAT_PEERPORT"]
                )
                try await lab.waitForListener(mirror, .tcp, port: 80)
                for kind in kinds {
                    let node = try world.node("n-\(kind.rawValue)")
                    let site = try #require(world.sites[node.lan])
                    var ports: [Int] = []
                    for port in 40_001...40_004 {
                        let said = try await lab.output(
                            on: node.name,
                            ["socat", "-", "TCP:\(cloud):80,sourceport=\(port)"]
                        )
                        let seen = said.split(whereSeparator: \.isWhitespace).map(String.init)
                        try #require(seen.count == 2, "\(kind): \(said)")
                        #expect(seen[0] == "\(site.maskedBy.first ?? node.address)", "\(kind)")
                        ports.append(Int(seen[1]) ?? 0)
                    }
                    #expect((ports == [40_001, 40_002, 40_003, 40_004]) == !kind.isSymmetric, "\(kind): \(ports)")
                    // A pod is seen as its node.
                    let pod = try await lab.output(on: node.client.name, ["socat", "-", "TCP:\(cloud):80"])
                    #expect(pod.hasPrefix("\(site.maskedBy.first ?? node.address) "), "\(kind): \(pod)")

                    // From outside: the router forwards everything, or nothing and says nothing.
                    let inside = try lab.start(
                        on: node.name,
                        ["socat", "TCP-LISTEN:81,fork,reuseaddr", "SYSTEM:echo reached"],
                        log: "inside-\(kind.rawValue)"
                    )
                    try await lab.waitForListener(inside, .tcp, port: 81)
                    let dialled = site.maskedBy.first ?? node.address
                    let answer = try await lab.run(
                        on: "c",
                        ["socat", "-", "TCP:\(dialled):81,connect-timeout=\(kind.letsAnyoneIn ? 8 : 0.5)"]
                    )
                    #expect((answer.standardOutput == "reached\n") == kind.letsAnyoneIn, "\(kind): \(answer)")
                    let reachable = try site.reachableAddresses(of: node.index)
                    #expect(reachable.isEmpty == !kind.isReachable)
                }
            }
        }

        @Test func nodesAndPodsOfOtherLANsAreReachedByNobodyWithoutTheMesh() async throws {
            try await withWorld(try example("three-lans").scenario, name: "apart") { world in
                let (north, south) = (try world.node("north-1"), try world.node("south-1"))
                let cloud = try world.node("cloud-1")
                func connects(_ host: String, _ target: String, within seconds: Double = 0.5) async throws -> Bool {
                    try await world.lab.run(
                        on: host,
                        ["socat", "-u", "/dev/null", "TCP:\(target),connect-timeout=\(seconds)"]
                    )
                    .status.isSuccess
                }
                // What a pod's neighbours reach.
                #expect(try await connects(north.client.name, "\(north.apps[0].address):9376", within: 8))
                #expect(try await connects(north.name, "\(north.apps[1].address):9376", within: 8))
                let mirror = try world.lab.start(
                    on: south.name,
                    ["socat", "TCP-LISTEN:80,fork,reuseaddr", "/dev/null"]
                )
                try await world.lab.waitForListener(mirror, .tcp, port: 80)
                for host in [north.name, north.client.name, cloud.name] {
                    #expect(try await !connects(host, "\(south.address):80"), "\(host)")
                    #expect(try await !connects(host, "1.1.3.2:80"), "\(host)")
                    #expect(try await !connects(host, "\(south.apps[0].address):9376"), "\(host)")
                }
                // Nor in the same LAN: pods' networks are not routed.
                let neighbour = try world.node("north-2")
                #expect(try await !connects(north.client.name, "\(neighbour.apps[0].address):9376"))
                #expect(try await !connects(north.name, "\(neighbour.apps[0].address):9376"))
            }
        }

        @Test(arguments: ["three-lans", "two-relays", "bad-line", "gateway"])
        func everyExampleServesOnEveryNode(name: String) async throws {
            let scenario = try example(name).scenario
            #expect(scenario.name == name && !scenario.summary.isEmpty)
            try await withWorld(scenario, name: name) { world in
                try await world.startAgents(within: .seconds(90))
                for node in world.nodes {
                    let target = "\(node.clusterIP)"
                    let modes = [
                        ("http", 80), ("https", 443), ("tcp", 2701), ("websocket", 8080), ("udp", 9376),
                    ]
                    for (mode, port) in modes {
                        let report = try await world.runClient(
                            on: node.name,
                            [mode, "--target", "\(target):\(port)", "--requests", "4", "--timeout", "20000"]
                        )
                        #expect(report["succeeded"]?.integer == 4, "\(node.name) \(mode): \(report.jsonText())")
                    }
                    // Each has a socket of its own where tools look for it.
                    #expect(try await world.status(of: node.name)["agent"]?["node"]?.string == node.name)
                }
                let picture = world.picture()
                for part in scenario.lans.map(\.name) + scenario.nodes.map(\.name) + ["relay", "agent "] {
                    #expect(picture.contains(part), "\(part):\n\(picture)")
                }
            }
        }

        @Test func nodesChangeTheirAddressAndTheirLAN() async throws {
            try await withWorld(try example("three-lans").scenario, name: "moves") { world in
                let cloud = try world.node("cloud-1").address
                let mirror = try world.lab.start(
                    on: "cloud-1",
                    ["socat", "TCP-LISTEN:80,fork,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR"]
                )
                try await world.lab.waitForListener(mirror, .tcp, port: 80)
                func seenAs() async throws -> String {
                    try await world.lab.output(on: "north-2", ["socat", "-", "TCP:\(cloud):80,retry=3"])
                }
                #expect(try await seenAs() == "1.1.2.2\n")
                #expect(try await world.renumber("north-2") == .v4(IPv4Address(10, 0, 2, 12)))
                #expect(try await seenAs() == "1.1.2.2\n")
                let object = try Files.readText("\(world.manifestsDirectory)/node-north-2.yaml")
                #expect(object.contains("10.0.2.12"))
                let address = try await world.move("north-2", to: "south")
                #expect(address == .v4(IPv4Address(10, 0, 3, 11)))
                #expect(try await seenAs() == "1.1.3.2\n")
                #expect(
                    try await world.move("north-2", to: "cloud", isPublished: false) == .v4(IPv4Address(1, 1, 1, 3))
                )
                #expect(try await seenAs() == "1.1.1.3\n")
                #expect(try Files.readText("\(world.manifestsDirectory)/node-north-2.yaml").contains("10.0.3.11"))
                #expect(try world.node("north-2").lan == "cloud")
                await #expect { try await world.move("north-2", to: "west") } throws: {
                    "\($0)".contains("cloud, north")
                }
                await #expect { try await world.move("nobody", to: "north") } throws: { "\($0)".contains("north-1") }
            }
        }

        @Test func linksAndAgentsFailAndComeBack() async throws {
            try await withWorld(try example("three-lans").scenario, name: "faults") { world in
                let cloud = try world.node("cloud-1").address
                let mirror = try world.lab.start(on: "cloud-1", ["socat", "TCP-LISTEN:80,fork,reuseaddr", "/dev/null"])
                try await world.lab.waitForListener(mirror, .tcp, port: 80)
                func reachesCloud(_ node: String) async throws -> Bool {
                    try await world.lab.run(
                        on: node,
                        ["socat", "-u", "/dev/null", "TCP:\(cloud):80,connect-timeout=0.5"]
                    ).status.isSuccess
                }
                // The cloud is cut off: every LAN for itself.
                try await world.changeLink("cloud", ["down"])
                #expect(try await !reachesCloud("north-1"))
                try await world.changeLink("cloud", ["up"])
                try await world.lab.wait(for: "the cloud to come back") { try await reachesCloud("north-1") }
                // One node alone, and nobody notices.
                try await world.changeLink("north-1", ["loss=100%"])
                #expect(try await !reachesCloud("north-1"))
                try await world.lab.wait(for: "the other node to be fine") { try await reachesCloud("north-2") }
                #expect(world.picture().contains("[loss 100 %]"))
                try await world.changeLink("north-1", ["clear"])
                try await world.lab.wait(for: "the node to come back") { try await reachesCloud("north-1") }
                await #expect { try await world.changeLink("west", ["up"]) } throws: {
                    "\($0)".contains("cloud, north")
                }

                try world.startAgent(of: "north-1")
                try await world.waitUntilServing("north-1", within: .seconds(60))
                let first = try #require(try world.agent(of: "north-1"))
                try world.pauseAgent(of: "north-1")
                #expect(world.picture().contains("stands still"))
                let question = ["dig", "+short", "+tries=1", "+timeout=1", "north-1.default.svc.cluster.local"]
                #expect(try await !world.lab.run(on: "north-1-client", question).status.isSuccess)
                try world.resumeAgent(of: "north-1")
                try await world.waitUntilServing("north-1", within: .seconds(60))
                try await world.killAgent(of: "north-1")
                #expect(first.exitStatus == .signalled(SIGKILL))
                #expect(throws: LabError.self) { try world.pauseAgent(of: "north-1") }
                try world.startAgent(of: "north-1")
                try await world.waitUntilServing("north-1", within: .seconds(60))
                #expect(try await world.stopAgent(of: "north-1") == .exited(0))
            }
        }

        /// In a debug build, beside whatever else runs: a forwarder that is worth its name carries much more.
        @Test func aDelayedLinkCarriesALot() async throws {
            let scenario = Scenario(
                name: "fast",
                lans: [
                    .init(name: "cloud", nat: .open, nodes: [.init(name: "c", pods: 0)]),
                    .init(
                        name: "home",
                        link: LinkConditions(delay: .milliseconds(1)),
                        nodes: [.init(name: "h", pods: 0)]
                    ),
                ]
            )
            try await withWorld(scenario, name: "fast") { world in
                let bulk = try world.lab.startApplication(["bulk"], on: "c", program: world.program, log: "bulk")
                try await world.lab.waitForListener(bulk, .tcp, port: 5201)
                let report = try await world.runClient(
                    on: "h",
                    ["throughput", "--target", "\(try world.node("c").address):5201", "--seconds", "3"]
                )
                let bytes = report["bytes"]?.integer ?? 0
                print("a link with 1 ms of delay carries \(bytes * 8 / 3_000_000) Mbit/s")
                #expect(bytes > 15_000_000)
            }
        }

        /// As a user does it: `lab up` in one shell, the others in another, and what is left after kill -9 goes.
        @Test func shellsCommandAWorldAndCleanUpAfterIt() async throws {
            let name = "s\(getpid())"
            let owner = try ShellWorld.up([try example("bad-line").path, "--without-agents"], name: name)
            defer { owner.signal(SIGKILL) }
            func lab(_ command: String, _ arguments: [String] = []) async throws -> CommandOutput {
                try await EdgemeshBinary.run(["lab", command, "--lab", name] + arguments, deadline: .seconds(60))
            }
            let status = try await lab("status")
            #expect(status.standardOutput.contains("cgn") && status.standardOutput.contains("delay 60 ms"), "\(status)")
            #expect(try await lab("link", ["mill-1", "delay=5ms", "loss=2%"]).standardOutput.contains("loss 2 %"))
            #expect(try await lab("link", ["mill-1"]).standardOutput == "link mill-1: delay 5 ms, loss 2 %\n")
            let wrong = try await lab("link", ["mill-1", "delay=soon"])
            #expect(wrong.status == .exited(1) && wrong.standardError.contains("such as 50ms"))
            #expect(try await lab("start", ["mill-1"]).standardOutput == "the agent of mill-1 serves\n")
            let called = try await lab("exec", ["mill-1-client", "--", "curl", "-sS", "http://mill-1/"])
            #expect(called.standardOutput == "mill-1-app\n", "\(called)")
            #expect(try await lab("kill", ["mill-1"]).standardOutput == "the agent of mill-1 is killed\n")
            #expect(try await lab("kill", ["mill-1"]).standardError.contains("does not run"))
            #expect(try await lab("move", ["mill-2", "depot"]).standardOutput.contains("10.0.3.11"))

            try await owner.kill()
            #expect(try await lab("status").standardError.contains("no lab '\(name)' runs"))
            let cleaned = try await EdgemeshBinary.run(["lab", "clean"], deadline: .seconds(20))
            #expect(cleaned.status == .exited(0))
            #expect(ShellWorld.traces(of: name) == [])
        }

        @Test func downEndsAWorld() async throws {
            let name = "d\(getpid())"
            let owner = try ShellWorld.up([try example("two-relays").path, "--without-agents"], name: name)
            defer { owner.signal(SIGKILL) }
            let down = try await EdgemeshBinary.run(["lab", "down", "--lab", name], deadline: .seconds(30))
            #expect(down.standardOutput == "lab '\(name)' is gone\n", "\(down)")
            #expect(ShellWorld.traces(of: name) == [])
            _ = try await owner.exit(within: .seconds(10))
        }

        @Test func aWrongFileIsRefusedBeforeAnythingIsBuilt() async throws {
            let file = "/tmp/wrong-\(getpid()).yaml"
            defer { unlink(file) }
            try Files.write("name: wrong\nlans:\n  - {name: home, nat: conical, nodes: []}\n", to: file)
            let output = try await EdgemeshBinary.run(["lab", "up", file], deadline: .seconds(10))
            #expect(output.status == .exited(1))
            let told = "\(file):3:23: \"conical\" is no value of 'nat'; choose one of public"
            #expect(output.standardError.contains(told))
        }
    }
}

/// A lab in a process of its own.
enum ShellWorld {
    /// Starts it and returns once it runs.
    static func up(_ options: [String] = [], name: String) throws -> LabProcess {
        let log = "/tmp/\(name).log"
        defer { unlink(log) }
        let descriptor = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        defer { close(descriptor) }
        var request = EdgemeshBinary.request(
            [try EdgemeshBinary.path(), "lab", "up", "--name", name] + options
        )
        request.standardOutput = descriptor
        request.standardError = descriptor
        let owner = LabProcess(processID: try request.start(), host: "", arguments: request.arguments, logFile: log)
        let end = MonotonicTime.now() + .seconds(60)
        while !owner.logTail().contains("try:"), owner.isRunning, MonotonicTime.now() < end { usleep(10_000) }
        try #require(owner.logTail().contains("try:"), "\(owner.log)")
        return owner
    }

    static func traces(of name: String) -> [String] {
        let processes = Files.names(in: "/proc").compactMap { Int32($0) }.filter { process in
            ((try? Files.readText("/proc/\(process)/environ")) ?? "").contains("EDGEMESH_LAB=\(name)\0")
        }
        return processes.map { "process \($0)" }
            + Files.names(in: "/run/netns").filter { $0.hasPrefix("emlab-\(name)-") }
            + Files.names(in: LabState.root).filter { $0.hasPrefix(name) }
    }
}
