import Glibc
import MeshCore

/// What people do with labs from a shell.
public enum LabSession {
    /// Builds the one-node lab with its agent and keeps it until SIGINT or SIGTERM.
    public static func up(_ options: NodeLab.Options) async throws {
        let (failures, report) = AsyncStream<any Error>.makeStream(bufferingPolicy: .bufferingNewest(1))
        _ = try await LabSignals.run { guardian in
            do {
                let started = MonotonicTime.now()
                let node = try await NodeLab.create(options)
                guardian.protect(node.lab)
                let agent = try node.startAgent()
                try await node.waitUntilServing(agent)
                writeToStandardOutput(
                    """
                    lab '\(options.name)' runs after \(milliseconds(since: started)); manifests: \(node.manifestsDirectory)
                    hosts: \(node.lab.plan.hosts.map(\.name).joined(separator: " "))
                    try:   edgemesh lab exec \(options.name) client curl http://hostname-svc:12345/
                           edgemesh lab exec \(options.name) node-a edgemesh status --socket \(node.adminSocket)
                    end:   Ctrl-C

                    """
                )
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
    /// - Returns: Its exit code, or 128 and the number of the signal that ended it.
    public static func execute(lab: String, host: String, command: [String]) throws -> Int32 {
        guard let state = LabState.load(lab) else {
            throw LabError(.usage, "there is no lab '\(lab)'; there are: \(LabState.names.joined(separator: ", "))")
        }
        let name = "emlab-\(lab)-\(host)"
        guard state.namespaces.contains(name) else {
            let hosts = state.namespaces.map { $0.dropFirst("emlab-\(lab)-".count) }.joined(separator: ", ")
            throw LabError(.usage, "lab '\(lab)' has no host '\(host)'; it has: \(hosts)")
        }
        let namespace = try NamespaceHandle(named: name)
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
