import ArgumentParser
import NetLab

/// `edgemesh lab`: hosts, LANs and routers out of network namespaces.
struct LabCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab",
        abstract: "Networks of namespaces for trials, tests and benchmarks, and small programs to run in them.",
        subcommands: [
            Demo.self, Up.self, List.self, Status.self, Execute.self, Link.self, OnNode<Kill>.self, OnNode<Start>.self,
            OnNode<Pause>.self, OnNode<Resume>.self, OnNode<Renumber>.self, Move.self, Down.self, Clean.self, App.self,
        ]
    )

    struct App: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "app",
            abstract: "Run a small server, or the client that measures."
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
            commandName: "clean",
            abstract: "Remove the labs whose process is gone, also after kill -9."
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

    struct Demo: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "demo",
            abstract: "Build a node, or three LANs, and show step by step what the agents do for them."
        )

        @Option(help: "The name of the lab.")
        var name = "demo"

        @Option(
            help: "What to show: 'node', 'lans' (three LANs whose nodes reach each other by tunnels) or 'all'.",
            transform: { text in
                guard let part = DemoRunner.Part(rawValue: text) else {
                    throw ValidationError("choose one of node, lans, all")
                }
                return part
            }
        )
        var part = DemoRunner.Part.all

        @Option(help: "How many backends the services of the one node have, from 2.")
        var backends = 3

        @Flag(name: .shortAndLong, help: "Show every command and what it said.")
        var verbose = false

        @OptionGroup var output: OutputOptions

        func validate() throws {
            guard (2...20).contains(self.backends) else {
                throw ValidationError("--backends is a number from 2 to 20.")
            }
        }

        func run() async throws {
            var options = DemoRunner.Options()
            options.part = self.part
            options.lab.name = self.name
            options.lab.backends = self.backends
            options.printsJSON = self.output.output == .json
            options.isVerbose = self.verbose
            let code = try await reportingErrors("edgemesh lab demo") {
                try await LabPrivileges.enterUserNamespaceIfNeeded(arguments: CommandLine.arguments)
                return try await DemoRunner.run(options)
            }
            throw ExitCode(code)
        }
    }

    struct Up: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "up",
            abstract: "Build a lab with its agents, and keep it until Ctrl-C.",
            discussion: """
                With a file: the LANs, nodes, relays, links and services that it describes (examples/lab has some). Without: \
                one node.
                """
        )

        @Argument(help: "A scenario file.")
        var file: String?

        @Option(help: "The name of the lab; the scenario's, or 'node'.")
        var name: String?

        @Option(help: "How many backends the services of the one node have.")
        var backends = 3

        @Flag(help: "Build the networks and their pods, but leave the agents to 'lab start'.")
        var withoutAgents = false

        func validate() throws {
            guard (1...60).contains(self.backends) else {
                throw ValidationError("--backends is a number from 1 to 60.")
            }
        }

        func run() async throws {
            try await reportingErrors("edgemesh lab up") {
                // Before the world is built: what is wrong with the file is said at once.
                let scenario = try self.file.map { try Scenario.read(from: $0) }
                try await LabPrivileges.enterUserNamespaceIfNeeded(arguments: CommandLine.arguments)
                if let scenario {
                    var options = World.Options()
                    options.name = self.name
                    try await LabSession.up(scenario, options, startsAgents: !self.withoutAgents)
                } else {
                    var options = NodeLab.Options()
                    options.name = self.name ?? "node"
                    options.backends = self.backends
                    try await LabSession.up(options)
                }
            }
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "list", abstract: "The labs of this machine.")

        func run() {
            print(LabSession.list(), terminator: "")
        }
    }

    struct Execute: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "exec",
            abstract: "Run a command in a host of a running lab."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The host: a node, a pod or a router.")
        var host: String

        @Argument(parsing: .captureForPassthrough, help: "The command; a shell by default.")
        var command: [String] = []

        func run() async throws {
            let given = self.command.first == "--" ? Array(self.command.dropFirst()) : self.command
            let command = given.isEmpty ? ["sh"] : given
            let code = try await reportingErrors("edgemesh lab exec") {
                try LabSession.execute(lab: self.lab.lab, host: self.host, command: command)
            }
            throw ExitCode(code)
        }
    }
}

/// Runs `body`; what it throws is printed behind `name`, and ends the command with exit code 1.
func reportingErrors<Result>(_ name: String, _ body: () async throws -> Result) async throws -> Result {
    do {
        return try await body()
    } catch {
        printError("\(name): \(error)")
        throw ExitCode(ExitStatus.failure)
    }
}
