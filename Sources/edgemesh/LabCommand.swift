import ArgumentParser
import NetLab

/// `edgemesh lab`: hosts, LANs and routers out of network namespaces.
struct LabCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab",
        abstract: "Networks of namespaces for trials, tests and benchmarks, and small programs to run in them.",
        subcommands: [App.self, Clean.self]
    )

    struct App: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "app", abstract: "Run a small server, or the client that measures."
        )

        @Argument(parsing: .captureForPassthrough, help: "The program's name and its options; none lists them.")
        var arguments: [String] = []

        func run() async throws {
            guard let name = self.arguments.first, name != "--help", name != "-h" else {
                print(LabApplications.usage)
                return
            }
            do {
                try await LabApplications.run(name: name, arguments: Array(self.arguments.dropFirst()))
            } catch {
                printError("edgemesh lab app \(name): \(error)")
                throw ExitCode(ExitStatus.failure)
            }
        }
    }

    struct Clean: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "clean", abstract: "Remove the labs whose process is gone, also after kill -9."
        )

        func run() throws {
            do {
                let names = try LabCleaner.cleanAbandoned()
                print(names.isEmpty ? "no abandoned lab" : names.map { "removed \($0)" }.joined(separator: "\n"))
            } catch {
                printError("edgemesh lab clean: \(error)")
                throw ExitCode(ExitStatus.failure)
            }
        }
    }
}
