import Admin
import ArgumentParser

/// For the probes of a pod: the agent listens on a Unix socket, which the kubelet cannot ask itself.
struct ProbeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "probe",
        abstract: "Exit with code 0 if the agent serves, or with --live if it answers at all; for probes of pods."
    )

    @Flag(help: "Ask only whether the agent answers.")
    var live = false

    @OptionGroup var socket: SocketOptions

    func run() throws {
        do {
            let (status, body) = try self.socket.client.request(.get, self.live ? "/healthz" : "/readyz")
            guard status == 200 else {
                throw AdminError(code: .badAnswer, message: AdminClient.words(of: body))
            }
        } catch {
            printError("edgemesh probe: \(error)")
            throw ExitCode(ExitStatus.failure)
        }
    }
}
