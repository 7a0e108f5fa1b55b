import Documents
import Glibc
import MeshCore

/// `edgemesh lab demo`: builds labs and shows, with stock tools, what the agent does in them. Each step is checked.
public enum DemoRunner {
    public enum Part: String, Sendable, CaseIterable {
        /// One node with its agent.
        case node
        /// Three LANs whose nodes reach each other.
        case lans
        case all
    }

    public struct Options: Sendable {
        public var part = Part.node
        public var lab = NodeLab.Options()
        public var printsJSON = false
        /// Show every command and what it said.
        public var isVerbose = false
        /// Print the agent's log at the end if a step failed.
        public var showsLogOnFailure = true

        public init() {
            self.lab.name = "demo"
        }
    }

    /// Runs the demo and removes its lab.
    ///
    /// - Returns: The exit code: 0 if every step passed, 1 if not, 130 if interrupted.
    public static func run(_ options: Options) async throws -> Int32 {
        let console = DemoConsole(isSilent: options.printsJSON, isVerbose: options.isVerbose)
        let journal = DemoJournal(console: console)
        let isFinished = try await LabSignals.run { guardian in
            if options.part != .lans { await Self.runNode(options, journal, console, guardian) }
            if options.part != .node, journal.isPassed { await Self.runLANs(options, journal, console, guardian) }
        }
        guard isFinished else { return 130 }
        if options.printsJSON {
            let document: Document = [
                "passed": .init(.bool(journal.isPassed)), "steps": .array(journal.steps.map(\.document)),
            ]
            writeToStandardOutput(document.jsonText(pretty: true) + "\n")
        } else {
            journal.summary()
        }
        return journal.isPassed ? 0 : 1
    }

    private static func runNode(
        _ options: Options,
        _ journal: DemoJournal,
        _ console: DemoConsole,
        _ guardian: LabSignals.Guardian
    ) async {
        console.plain(Self.picture(of: NodeLab.Layout(backends: options.lab.backends)) + "\n")
        var created: NodeLab?
        await journal.step("Build the lab", "ip netns add …") {
            let started = MonotonicTime.now()
            let node = try await NodeLab.create(options.lab)
            guardian.protect(node.lab)
            created = node
            let summary =
                "\(node.lab.plan.hosts.count) hosts with their applications in \(milliseconds(since: started))"
            journal.numbers(summary)
            journal.check(true, summary)
        }
        guard let node = created else { return }
        await DemoScript(node: node, journal: journal).run()
        if !journal.isPassed, options.showsLogOnFailure, let log = try? Files.readText(node.agentLog) {
            let lines = log.split(separator: "\n").suffix(40).joined(separator: "\n")
            console.plain("\nThe agent's log ends with:\n\(lines)")
        }
        do {
            try node.remove()
        } catch {
            console.failure("\(error)")
        }
    }

    private static func runLANs(
        _ options: Options,
        _ journal: DemoJournal,
        _ console: DemoConsole,
        _ guardian: LabSignals.Guardian
    ) async {
        var created: World?
        await journal.step("Build three LANs", "edgemesh lab up FILE") {
            let started = MonotonicTime.now()
            var worldOptions = World.Options()
            worldOptions.name = "\(options.lab.name)-lans"
            worldOptions.program = options.lab.program
            worldOptions.agentCommand = options.lab.agentCommand
            let world = try await World.create(WorldDemo.scenario, worldOptions)
            guardian.protect(world.lab)
            created = world
            let summary =
                "\(world.lab.plan.hosts.count) hosts, of them \(world.nodes.count) nodes, in \(milliseconds(since: started))"
            journal.numbers(summary)
            journal.check(true, summary)
        }
        guard let world = created else { return }
        console.plain("\n" + world.picture())
        await WorldDemo(world: world, journal: journal).run()
        if !journal.isPassed, options.showsLogOnFailure {
            for node in world.nodes {
                let log = (try? world.agentLogTail(of: node.name)) ?? ""
                console.plain("\nThe log of \(node.name)'s agent ends with:\n\(log)")
            }
        }
        do {
            try world.remove()
        } catch {
            console.failure("\(error)")
        }
    }

    /// The lab as a tree.
    private static func picture(of layout: NodeLab.Layout) -> String {
        func line(_ stem: String, _ name: String, _ address: IPv4Address, _ what: String) -> String {
            let padding = String(repeating: " ", count: max(1, 11 - name.count))
            let address = "\(address)"
            return "\(stem)\(name)\(padding)\(address)\(String(repeating: " ", count: 16 - address.count))\(what)"
        }
        var lines = [
            "", "  LAN 192.168.10.0/24", "   |",
            line("   +-- ", layout.outside, layout.outsideAddress, "curl, not part of the cluster"),
            "   |",
            line("   +-- ", layout.node, layout.nodeAddress, "edgemesh-agent; DNS on \(layout.resolver)"),
            "        |  pods 10.244.1.0/24", line("        +-- ", "client", layout.client.address, "dig, curl"),
        ]
        lines += layout.backends.map { line("        +-- ", $0.name, $0.address, "hostname, TCP and UDP 9376") }
        lines.append(line("        +-- ", "echo", layout.echo.address, "TCP, UDP and WebSocket echo"))
        return lines.joined(separator: "\n")
    }
}

func milliseconds(since start: MonotonicTime) -> String {
    "\(LoadReport.fixed((MonotonicTime.now() - start).inSeconds * 1e3, 0)) ms"
}
