import ArgumentParser
import NetLab

/// Which of the labs that run.
struct LabOption: ParsableArguments {
    @Option(help: "The name of the lab, if several run.")
    var lab: String?

    /// Does something to the lab and prints what has become of it.
    func perform(_ command: WorldCommand, as name: String) async throws {
        let text = try await reportingErrors("edgemesh lab \(name)") {
            try await LabSession.command(command, lab: self.lab)
        }
        print(text, terminator: "")
    }
}

/// What can be done to a node of a lab by its name alone.
protocol LabNodeAction: Sendable {
    static var name: String { get }
    static var abstract: String { get }
    static func command(_ node: String) -> WorldCommand
}

/// What can be done to a lab of LANs while it runs.
extension LabCommand {
    struct OnNode<Action: LabNodeAction>: AsyncParsableCommand {
        static var configuration: CommandConfiguration {
            CommandConfiguration(commandName: Action.name, abstract: Action.abstract)
        }

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        func run() async throws {
            try await self.lab.perform(Action.command(self.node), as: Action.name)
        }
    }

    enum Kill: LabNodeAction {
        static let name = "kill"
        static let abstract = "Kill the agent of a node (SIGKILL)."
        static func command(_ node: String) -> WorldCommand { .kill(node) }
    }

    enum Start: LabNodeAction {
        static let name = "start"
        static let abstract = "Start the agent of a node, and wait until it serves."
        static func command(_ node: String) -> WorldCommand { .start(node) }
    }

    enum Pause: LabNodeAction {
        static let name = "pause"
        static let abstract = "Let the agent of a node stand still, as when its machine sleeps."
        static func command(_ node: String) -> WorldCommand { .pause(node) }
    }

    enum Resume: LabNodeAction {
        static let name = "resume"
        static let abstract = "Let it go on; to it the clock has jumped."
        static func command(_ node: String) -> WorldCommand { .resume(node) }
    }

    enum Renumber: LabNodeAction {
        static let name = "renumber"
        static let abstract = "Give a node another address in its LAN."
        static func command(_ node: String) -> WorldCommand { .renumber(node) }
    }

    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "status",
            abstract: "The LANs, nodes, links and agents of a lab, as they are now."
        )

        @OptionGroup var lab: LabOption

        func run() async throws {
            try await self.lab.perform(.status, as: "status")
        }
    }

    struct Link: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "link",
            abstract: "Change the line of a LAN to the internet, or the cable of a node.",
            discussion: """
                Changes: down, up, clear (no delay, no loss, no limit), delay=50ms (one way), jitter=5ms, loss=1%, \
                bandwidth=10mbit. They hold for both directions, and others stay as they are.
                """
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The LAN or the node.")
        var name: String

        @Argument(help: "What changes; nothing shows the link.")
        var changes: [String] = []

        func run() async throws {
            try await self.lab.perform(.link(self.name, self.changes), as: "link")
        }
    }

    struct Move: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "move",
            abstract: "Plug a node into another LAN, where it gets another address."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        @Argument(help: "The LAN.")
        var lan: String

        func run() async throws {
            try await self.lab.perform(.move(self.node, self.lan), as: "move")
        }
    }

    struct Down: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "down",
            abstract: "End a lab that 'lab up' keeps elsewhere."
        )

        @OptionGroup var lab: LabOption

        func run() async throws {
            let name = try await reportingErrors("edgemesh lab down") { try await LabSession.down(lab: self.lab.lab) }
            print("lab '\(name)' is gone")
        }
    }
}
