import Admin
import ArgumentParser
import Documents
import Glibc

struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show services, endpoints, policies and paths, and how the agent is doing."
    )

    @Argument(help: "One service in detail: NAME or NAMESPACE/NAME.")
    var service: String?

    @Flag(help: "The other nodes instead: state, path, round trip, loss, flows and what is wrong.")
    var peers = false

    @Option(help: "The most services to list.")
    var limit = ServiceRows.defaultLimit

    @Flag(name: .shortAndLong, help: "Show it again every two seconds.")
    var watch = false

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func validate() throws {
        guard self.limit > 0 else { throw ValidationError("--limit is a number from 1.") }
        guard !self.peers || self.service == nil else {
            throw ValidationError("--peers shows nodes: leave the service out, or ask `edgemesh routes`.")
        }
    }

    func run() async throws {
        repeat {
            do {
                let text = try self.text()
                // Home and clear, so that the table stays in place.
                print(self.watch ? "\u{1B}[H\u{1B}[2J" + text : text, terminator: "")
                fflush(nil)
            } catch {
                printError("edgemesh status: \(error)")
                if !self.watch { throw ExitCode(ExitStatus.failure) }
            }
            if self.watch { try await Task.sleep(for: .seconds(2)) }
        } while self.watch
    }

    private func text() throws -> String {
        if self.peers {
            let report = try self.socket.client.json(.get, "/tunnel")
            return self.output.text(of: ["peers": report["peers"] ?? [:]], TunnelText.peers)
        }
        let target = self.service.map { "/status?service=\($0.inQuery)" } ?? "/status?limit=\(self.limit)"
        let status = try self.socket.client.json(.get, target)
        return self.output.text(of: status, self.service == nil ? StatusText.overview : StatusText.service)
    }
}

extension String {
    /// For a query: names need no escaping; anything else must not change the request.
    var inQuery: String {
        self.utf8.map { byte in
            let isPlain =
                (0x61...0x7A).contains(byte) || (0x41...0x5A).contains(byte) || (0x2D...0x39).contains(byte)
            return isPlain ? String(UnicodeScalar(byte)) : "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined()
    }
}

struct ReloadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload",
        abstract: "Make the agent read its configuration again, and say what changed."
    )

    @OptionGroup var output: OutputOptions
    @OptionGroup var socket: SocketOptions

    func run() throws {
        do {
            let outcome = try self.socket.client.json(.post, "/reload")
            switch self.output.output {
            case .json: print(outcome.jsonText(pretty: true))
            case .text:
                let lists = [("applied", "applied"), ("restartNeeded", "needs a restart")].map { key, words in
                    (outcome[key]?.array ?? []).compactMap(\.string).map { "\(words): \($0)" }
                }
                let lines = lists.flatMap { $0 }
                print(lines.isEmpty ? "nothing changed" : lines.joined(separator: "\n"))
            }
        } catch {
            printError("edgemesh reload: \(error)")
            throw ExitCode(ExitStatus.failure)
        }
    }
}
