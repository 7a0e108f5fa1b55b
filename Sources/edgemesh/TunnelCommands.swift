import Admin
import ArgumentParser
import Documents
import Glibc
import Synchronization

struct RoutesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "routes",
        abstract: "Show who answers for a service, and by which way this node reaches each."
    )

    @Argument(help: "NAMESPACE/NAME, NAME.NAMESPACE or its DNS name; NAME alone if it is the only one.")
    var service: String

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func run() throws {
        try self.socket.show("/routes?service=\(self.service.inQuery)", by: "routes") {
            self.output.text(of: $0, RouteRows.text)
        }
    }
}

struct NetcheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "netcheck",
        abstract: "Show how this node is reached, by which relays, and what keeps paths from being direct."
    )

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func run() throws {
        try self.socket.show("/tunnel", by: "netcheck") { report in
            self.output.text(of: Netcheck.document(report), Netcheck.text)
        }
    }
}

extension SocketOptions {
    /// Prints what the agent answers, or why it does not.
    fileprivate func show(_ target: String, by command: String, _ text: (Document) -> String) throws {
        do {
            print(text(try self.client.json(.get, target)), terminator: "")
        } catch {
            printError("edgemesh \(command): \(error)")
            throw ExitCode(ExitStatus.failure)
        }
    }
}

struct PingCommand: AsyncParsableCommand {
    /// Longer than the agent waits for a reply.
    private static let patience = 15
    private static let isInterrupted = Atomic(false)

    static let configuration = CommandConfiguration(
        commandName: "ping",
        abstract: "Measure the way to another node through the tunnel, and tell when it turns direct.",
        discussion: "Goes on until it is interrupted, if no count is given. Exit code 1 if nothing answered."
    )

    @Argument(help: "The name of the node.")
    var node: String

    @Option(name: .shortAndLong, help: "Stop after this many.")
    var count: Int?

    @Option(name: .shortAndLong, help: "Seconds from one to the next.")
    var interval = 1.0

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func validate() throws {
        guard self.count ?? 1 > 0 else { throw ValidationError("--count is a number from 1.") }
        guard (0.05...3600).contains(self.interval) else {
            throw ValidationError("--interval is a number of seconds from 0.05 to 3600.")
        }
    }

    func run() async throws {
        // The second one ends the program, whatever it waits for.
        signal(SIGINT) { _ in
            signal(SIGINT, SIG_DFL)
            PingCommand.isInterrupted.store(true, ordering: .relaxed)
        }
        var client = self.socket.client
        client.timeoutSeconds = Self.patience
        var report = PingReport(node: self.node)
        let clock = ContinuousClock()
        let start = clock.now
        while !Self.isInterrupted.load(ordering: .relaxed) {
            let next = clock.now + .seconds(self.interval)
            do {
                let reply = try Self.reply(client, self.node)
                let elapsed = (clock.now - start) / .seconds(1)
                switch reply {
                case .document(let reply): report.answered(reply, after: elapsed).forEach(self.show)
                case .none(let reason): self.show(report.unanswered(reason))
                }
            } catch {
                printError("edgemesh ping: \(error)")
                throw ExitCode(ExitStatus.failure)
            }
            if let count, report.sent >= count { break }
            // In slices, so that an interrupt is heard.
            while !Self.isInterrupted.load(ordering: .relaxed), clock.now < next {
                try await Task.sleep(for: min(.milliseconds(100), next - clock.now))
            }
        }
        self.show(report.summary)
        if report.answered == 0 { throw ExitCode(ExitStatus.failure) }
    }

    private enum Reply {
        case document(Document)
        case none(String)
    }

    /// Throws if another try would fare no better.
    private static func reply(_ client: AdminClient, _ node: String) throws(AdminError) -> Reply {
        let (status, body) = try client.request(.post, "/ping?node=\(node.inQuery)")
        if status == 504 { return .none(AdminClient.words(of: body)) }
        guard status == 200, let reply = try? Document.parseJSON(body) else {
            throw AdminError(code: .badAnswer, message: AdminClient.words(of: body))
        }
        return .document(reply)
    }

    private func show(_ line: PingReport.Line) {
        switch self.output.output {
        case .text: print(line.text)
        case .json: print(line.document.jsonText(pretty: false))
        }
        fflush(nil)
    }
}
