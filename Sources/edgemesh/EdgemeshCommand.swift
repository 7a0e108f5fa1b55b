import Admin
import ArgumentParser
import Configuration
import Documents
import MeshApp

/// `edgemesh`, for people.
struct EdgemeshCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "edgemesh",
        abstract: "Service discovery, proxy and load balancing for the nodes of a cluster.",
        discussion: """
            `edgemesh status` shows what the agent of this node serves and how; `edgemesh check` finds out why it does \
            not. Both speak to the agent over a Unix socket, so run them as the agent's user (root).

            Exit codes: 0 all is well; 1 a check failed or the agent does not answer; 2 or 64 wrong usage.
            """,
        version: Version.line,
        subcommands: [
            AgentCommand.self, GatewayCommand.self, StatusCommand.self, RoutesCommand.self, PingCommand.self,
            NetcheckCommand.self,
            CheckCommand.self, AnalyzeCommand.self, ProbeCommand.self, CleanupCommand.self, ReloadCommand.self,
            LabCommand.self,
            VersionCommand.self,
        ]
    )
}

/// Shared by the commands that speak to the agent.
struct SocketOptions: ParsableArguments {
    @Option(help: "The admin socket of the agent or the gateway.")
    var socket: String?

    @Flag(help: "Ask the gateway of this node, not its agent.")
    var gateway = false

    var client: AdminClient {
        let usual = AgentConfiguration(role: self.gateway ? .gateway : .agent).commonConfig.adminSocket
        return AdminClient(socketPath: self.socket ?? usual)
    }
}

enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case text
    case json
}

/// Shared by the commands that can print for programs.
struct OutputOptions: ParsableArguments {
    @Option(name: .shortAndLong, help: "The form of the output.")
    var output = OutputFormat.text

    /// The document itself, or what it says for people.
    func text(of document: Document, _ words: (Document) -> String) -> String {
        switch self.output {
        case .json: document.jsonText(pretty: true) + "\n"
        case .text: words(document)
        }
    }
}

/// Present so that help lists it; `Main` dispatches it before the parser is reached.
struct AgentCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "agent",
        abstract: "Run the agent of this node (also as edgemesh-agent)."
    )

    @Argument(parsing: .captureForPassthrough, help: "See `edgemesh agent --help`.")
    var flags: [String] = []

    func run() async throws {
        throw ExitCode(await AgentCommandLine.run(self.flags, role: .agent))
    }
}

/// As `AgentCommand`.
struct GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway",
        abstract: "Run the gateway at the edge of the mesh (also as edgemesh-gateway)."
    )

    @Argument(parsing: .captureForPassthrough, help: "See `edgemesh gateway --help`.")
    var flags: [String] = []

    func run() async throws {
        throw ExitCode(await AgentCommandLine.run(self.flags, role: .gateway))
    }
}

struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Print the version.")

    func run() {
        print(Version.line)
    }
}
