import Configuration
import Glibc
import MeshApp

/// `edgemesh-agent [flags]` and `edgemesh-gateway [flags]`.
enum AgentCommandLine {
    /// Runs what the flags ask for and returns the exit code.
    static func run(_ arguments: [String], role: AgentConfiguration.Role) async -> Int32 {
        let flags: AgentFlags
        do {
            flags = try AgentFlags.parse(arguments, role: role)
        } catch {
            printError("\(role.program): \(error)\nSee `\(role.program) --help`.")
            return ExitStatus.usage
        }
        switch flags.action {
        case .help:
            print(AgentFlags.help(of: role))
        case .version(let raw):
            print(raw ? Version.raw : Version.line)
        case .defaultConfig:
            print(AgentConfigurationText.full(role), terminator: "")
        case .minimalConfig:
            print(AgentConfigurationText.minimal(role), terminator: "")
        case .run:
            return await AgentProgram.run(
                AgentOptions(
                    role: role,
                    configFile: flags.configFile,
                    isConfigFileRequired: flags.isConfigFileRequired,
                    manifestFolder: flags.manifestFolder,
                    nodeName: flags.nodeName,
                    verbosity: flags.verbosity
                )
            )
        }
        return ExitStatus.success
    }
}

/// The exit codes of every command.
enum ExitStatus {
    static let success: Int32 = 0
    /// A check failed, the agent did not answer, the configuration is wrong.
    static let failure: Int32 = 1
    /// The command line is wrong.
    static let usage: Int32 = 2
}

/// Writes a line to the error output.
func printError(_ text: String) {
    let bytes = Array((text + "\n").utf8)
    write(STDERR_FILENO, bytes, bytes.count)
}
