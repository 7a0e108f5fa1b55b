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
        public var part = Part.all
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
            let stage = DemoStage(options: options, journal: journal, console: console, guardian: guardian)
            if options.part != .lans { await stage.runNode() }
            if options.part != .node, journal.isPassed { await stage.runLANs() }
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
}

/// Builds the labs of the demo's parts, and takes them away.
private struct DemoStage {
    let options: DemoRunner.Options
    let journal: DemoJournal
    let console: DemoConsole
    let guardian: LabSignals.Guardian

    func runNode() async {
        self.console.plain(Self.picture(of: NodeLab.Layout(backends: self.options.lab.backends)) + "\n")
        var created: NodeLab?
        await self.journal.step("Build the lab", "ip netns add …") {
            let started = MonotonicTime.now()
            let node = try await NodeLab.create(self.options.lab)
            self.guardian.protect(node.lab)
            created = node
            let summary =
                "\(node.lab.plan.hosts.count) hosts with their applications in \(milliseconds(since: started))"
            self.journal.numbers(summary)
            self.journal.check(true, summary)
        }
        guard let node = created else { return }
        await DemoScript(node: node, journal: self.journal).run()
        if !self.journal.isPassed, self.options.showsLogOnFailure, let log = try? Files.readText(node.agentLog) {
            let lines = log.split(separator: "\n").suffix(40).joined(separator: "\n")
            self.console.plain("\nThe agent's log ends with:\n\(lines)")
        }
        do {
            try node.remove()
        } catch {
            self.console.failure("\(error)")
        }
    }

    func runLANs() async {
        var created: World?
        await self.journal.step("Build three LANs", "edgemesh lab up FILE") {
            let started = MonotonicTime.now()
            var worldOptions = World.Options()
            worldOptions.name = "\(self.options.lab.name)-lans"
            worldOptions.program = self.options.lab.program
            worldOptions.agentCommand = self.options.lab.agentCommand
            let world = try await World.create(WorldDemo.scenario, worldOptions)
            self.guardian.protect(world.lab)
            created = world
            let summary =
                "\(world.lab.plan.hosts.count) hosts, of them \(world.nodes.count) nodes, in \(milliseconds(since: started))"
            self.journal.numbers(summary)
            self.journal.check(true, summary)
        }
        guard let world = created else { return }
        self.console.plain("\n" + world.picture())
        await WorldDemo(world: world, journal: self.journal).run()
        if !self.journal.isPassed, self.options.showsLogOnFailure {
            for node in world.nodes {
                let log = (try? world.agentLogTail(of: node.name)) ?? ""
                self.console.plain("\nThe log of \(node.name)'s agent ends with:\n\(log)")
                if let log = world.gatewayLogTail(of: node.name) {
                    self.console.plain("\nThat of its gateway ends with:\n\(log)")
                }
            }
        }
        do {
            try world.remove()
        } catch {
            self.console.failure("\(error)")
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
