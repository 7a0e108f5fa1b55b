import ArgumentParser
import CNIPlugin
import Configuration
import Glibc
import MeshApp

/// One binary under several names: `edgemesh-agent` takes the original's flags, `edgemesh` is for people.
@main
enum Main {
    static func main() {
        Task.detached { await Self.run() }  // this thread never serves the main actor, which `main` belongs to
        // An asynchronous main would do the same, but end the main thread by unwinding it, and the release build has no
        // unwind tables (scripts/release.ld).
        var none = sigset_t()
        sigemptyset(&none)
        while true { sigsuspend(&none) }
    }

    private static func run() async {
        let arguments = CommandLine.arguments
        let name = arguments.first?.split(separator: "/").last ?? "edgemesh"
        let rest = arguments.dropFirst()
        // The runtime of containers says all by variables and its input.
        if name == "edgemesh-cni" { exit(CNIPlugin.main()) }
        // What stays goes past the command parser of the people's commands, whose tables would stay in its memory.
        for role in AgentConfiguration.Role.allCases {
            if name == role.program { exit(await AgentCommandLine.run(Array(rest), role: role)) }
            if rest.first == role.rawValue { exit(await AgentCommandLine.run(Array(rest.dropFirst()), role: role)) }
        }
        await EdgemeshCommand.main(Array(rest))
        exit(ExitStatus.success)
    }
}
