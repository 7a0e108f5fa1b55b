import Glibc
import MeshCore

/// What people do with labs from a shell.
public enum LabSession {
    /// Builds the one-node lab with its agent and keeps it until SIGINT or SIGTERM.
    public static func up(_ options: NodeLab.Options) async throws {
        try await self.keep { guardian in
            let started = MonotonicTime.now()
            let node = try await NodeLab.create(options)
            guardian.protect(node.lab)
            let agent = try node.startAgent()
            try await node.waitUntilServing(agent)
            writeToStandardOutput(
                """
                lab '\(options.name)' runs after \(milliseconds(since: started)); manifests: \(node.manifestsDirectory)
                hosts: \(node.lab.plan.hosts.map(\.name).joined(separator: " "))
                try:   edgemesh lab exec --lab \(options.name) client curl http://hostname-svc:12345/
                       edgemesh lab exec --lab \(options.name) node-a edgemesh status --socket \(node.adminSocket)
                end:   Ctrl-C

                """
            )
        }
    }

    /// Builds the world of a scenario with its agents and keeps it until SIGINT or SIGTERM. Meanwhile shells can command it.
    ///
    /// - Parameter startsAgents: False: they wait for `edgemesh lab start NODE`.
    public static func up(_ scenario: Scenario, _ options: World.Options, startsAgents: Bool = true) async throws {
        try await self.keep { guardian in
            let started = MonotonicTime.now()
            let world = try await World.create(scenario, options)
            guardian.protect(world.lab)
            _ = try await world.serveControl()
            if !scenario.summary.isEmpty { writeToStandardOutput("\(scenario.summary)\n\n") }
            if startsAgents {
                try await world.startAgents()
                for node in world.nodes where !node.outsideAddresses.isEmpty { try world.startGateway(of: node.name) }
            }
            let nodes = world.nodes
            writeToStandardOutput(
                """
                \(world.picture())
                lab '\(world.lab.plan.name)' runs after \(milliseconds(since: started)); manifests: \(world.manifestsDirectory)
                try:   edgemesh lab exec \(nodes[0].client.name) curl http://\(nodes[nodes.count - 1].name)/
                       edgemesh lab link \(scenario.lans[0].name) delay=50ms loss=1%
                       edgemesh lab kill \(nodes[0].name); edgemesh lab status
                end:   edgemesh lab down, or Ctrl-C

                """
            )
        }
    }

    /// Runs `body`, which builds a lab, and keeps that until a signal comes.
    private static func keep(_ body: @escaping @Sendable (LabSignals.Guardian) async throws -> Void) async throws {
        let (failures, report) = AsyncStream<any Error>.makeStream(bufferingPolicy: .bufferingNewest(1))
        _ = try await LabSignals.run { guardian in
            do {
                try await body(guardian)
                try await Task.sleep(for: .seconds(365 * 24 * 3600))
            } catch is CancellationError {
                // The lab has been removed by the signal that cancelled us.
            } catch {
                guardian.remove()
                report.yield(error)
            }
        }
        report.finish()
        for await failure in failures { throw failure }
    }

    /// Does something to a running world, and returns what to print.
    ///
    /// - Parameter lab: Its name; nil if only one lab runs.
    public static func command(_ command: WorldCommand, lab: String?) async throws -> String {
        try await WorldControl.ask(self.running(lab).directory, command)
    }

    /// Ends a lab that another process runs, and waits until it is gone.
    ///
    /// - Returns: Its name.
    public static func down(lab: String?) async throws -> String {
        let state = try self.running(lab)
        kill(state.owner, SIGTERM)
        let end = MonotonicTime.now() + .seconds(15)
        while LabState.load(state.name) != nil {
            guard MonotonicTime.now() < end else {
                throw LabError(
                    .deadlineExceeded,
                    "lab '\(state.name)' is still there; kill -9 \(state.owner) and run: edgemesh lab clean"
                )
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        return state.name
    }

    /// The lab of that name, or the only one.
    private static func running(_ name: String?) throws(LabError) -> LabState {
        let names = LabState.names.filter { name in LabState.load(name).map { kill($0.owner, 0) == 0 } ?? false }
        let all = names.isEmpty ? "none runs" : "there are: \(names.joined(separator: ", "))"
        guard let name = name ?? (names.count == 1 ? names[0] : nil) else {
            throw LabError(.usage, names.isEmpty ? "no lab runs" : "say which lab by --lab NAME; \(all)")
        }
        guard names.contains(name), let state = LabState.load(name) else {
            throw LabError(.usage, "no lab '\(name)' runs; \(all)")
        }
        return state
    }

    /// The labs of this machine with their hosts, running and abandoned.
    public static func list() -> String {
        let labs = LabState.names.compactMap { LabState.load($0) }
        guard !labs.isEmpty else { return "no labs\n" }
        return labs.map { lab in
            let isRunning = kill(lab.owner, 0) == 0
            let state = isRunning ? "run by process \(lab.owner)" : "abandoned: edgemesh lab clean removes it"
            let hosts = lab.namespaces.map { $0.dropFirst("emlab-\(lab.name)-".count) }.joined(separator: " ")
            return "\(lab.name)  (\(state))\n  \(hosts)\n"
        }.joined()
    }

    /// Runs a command in a host of a running lab, on this terminal.
    ///
    /// - Parameter lab: Its name; nil if only one lab runs.
    /// - Returns: Its exit code, or 128 and the number of the signal that ended it.
    public static func execute(lab: String?, host: String, command: [String]) throws -> Int32 {
        let state = try self.running(lab)
        let lab = state.name
        let name = "emlab-\(lab)-\(host)"
        guard state.namespaces.contains(name) else {
            let hosts = state.namespaces.map { $0.dropFirst("emlab-\(lab)-".count) }.joined(separator: ", ")
            throw LabError(.usage, "lab '\(lab)' has no host '\(host)'; it has: \(hosts)")
        }
        let namespace = try NamespaceHandle(named: name, asSeenBy: state.owner)
        let request = SpawnRequest(
            arguments: command,
            program: command.first == "edgemesh" ? try LabPrivileges.executable() : nil,
            environment: labEnvironment(lab: lab, adding: [:]),
            namespace: namespace.descriptor,
            mounts: state.mounts(of: host),
            standardInput: STDIN_FILENO,
            standardOutput: STDOUT_FILENO,
            standardError: STDERR_FILENO,
            newSession: false
        )
        // The terminal's Ctrl-C is for the command.
        signal(SIGINT, SIG_IGN)
        let child = try request.start()
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        switch ExitStatus(waitStatus: status) {
        case .exited(let code): return code
        case .signalled(let number): return 128 + number
        }
    }
}
