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

/// A command that does something to one node.
protocol LabNodeCommand: AsyncParsableCommand {
    var lab: LabOption { get }
    var command: WorldCommand { get }
}

extension LabNodeCommand {
    func run() async throws {
        try await self.lab.perform(self.command, as: Self._commandName)
    }
}

/// What can be done to a lab of LANs while it runs.
extension LabCommand {
    struct Status: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "status",
            abstract: "The LANs, nodes, links and agents of a lab, as they are now."
        )

        @OptionGroup var lab: LabOption

        var command: WorldCommand { .status }
    }

    struct Link: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "link",
            abstract: "Change the line of a LAN to the internet, or the cable of a node.",
            discussion: """
                Changes: down, up, clear (no delay, no loss, no limit), delay=50ms (one way), jitter=5ms, loss=1%, \\
                bandwidth=10mbit. They hold for both directions, and others stay as they are.
                """
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The LAN or the node.")
        var name: String

        @Argument(help: "What changes; nothing shows the link.")
        var changes: [String] = []

        var command: WorldCommand { .link(self.name, self.changes) }
    }

    struct Kill: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "kill",
            abstract: "Kill the agent of a node (SIGKILL)."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        var command: WorldCommand { .kill(self.node) }
    }

    struct Start: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "start",
            abstract: "Start the agent of a node, and wait until it serves."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        var command: WorldCommand { .start(self.node) }
    }

    struct Pause: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "pause",
            abstract: "Let the agent of a node stand still, as when its machine sleeps."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        var command: WorldCommand { .pause(self.node) }
    }

    struct Resume: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "resume",
            abstract: "Let it go on; to it the clock has jumped."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        var command: WorldCommand { .resume(self.node) }
    }

    struct Renumber: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "renumber",
            abstract: "Give a node another address in its LAN."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        var command: WorldCommand { .renumber(self.node) }
    }

    struct Move: LabNodeCommand {
        static let configuration = CommandConfiguration(
            commandName: "move",
            abstract: "Plug a node into another LAN, where it gets another address."
        )

        @OptionGroup var lab: LabOption

        @Argument(help: "The node.")
        var node: String

        @Argument(help: "The LAN.")
        var lan: String

        var command: WorldCommand { .move(self.node, self.lan) }
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
