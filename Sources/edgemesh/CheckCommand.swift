import Admin
import ArgumentParser
import Configuration
import Documents
import MeshApp

struct CheckCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Find out whether this node can carry the mesh, and what to mend if not.",
        discussion: "Reads only, and works without a running agent. Exit code 1 if a check failed."
    )

    @Option(help: "The configuration file of the agent, or of the gateway with --gateway.")
    var configFile: String?

    @Option(help: "The folder of manifests, if the agent is run with one.")
    var manifests: String?

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func run() async throws {
        let role: AgentConfiguration.Role = self.socket.gateway ? .gateway : .agent
        let report = await NodeCheck.run(
            AgentOptions(
                role: role,
                configFile: self.configFile ?? AgentFlags(role: role).configFile,
                isConfigFileRequired: self.manifests == nil,
                manifestFolder: self.manifests
            ),
            socket: self.socket.socket
        )
        switch self.output.output {
        case .text: print(report.text, terminator: "")
        case .json: print(report.document.jsonText(pretty: true))
        }
        if report.hasFailed { throw ExitCode(ExitStatus.failure) }
    }
}

struct CleanupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cleanup",
        abstract: "Remove what an agent left in the kernel: rules, chains and the bridge device.",
        discussion: """
            Removes also the chains of the Go implementation. Refuses while an agent runs, whose services would be gone \
            until it programs them again, unless --force is given.
            """
    )

    @Flag(help: "Clean up even if an agent runs.")
    var force = false

    @Option(help: "The agent's configuration file: names the bridge device.")
    var configFile = AgentFlags.defaultConfigFile

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func run() async throws {
        if !self.force, NodeCleanup.isAgentRunning(configFile: self.configFile, socket: self.socket.socket) {
            printError("edgemesh cleanup: an agent runs; stop it first, or use --force")
            throw ExitCode(ExitStatus.failure)
        }
        let outcome = await NodeCleanup.run(configFile: self.configFile)
        switch self.output.output {
        case .json:
            print(outcome.document.jsonText(pretty: true))
        case .text:
            for line in outcome.removed { print("removed \(line)") }
            for line in outcome.kept { print(line) }
            for line in outcome.failures { printError("failed: \(line)") }
            if outcome.removed.isEmpty, outcome.kept.isEmpty, outcome.failures.isEmpty { print("nothing to remove") }
        }
        if !outcome.failures.isEmpty { throw ExitCode(ExitStatus.failure) }
    }
}
