import ArgumentParser
import Configuration
import Documents
import MeshApp

struct AnalyzeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "analyze",
        abstract: "Tell what is wrong with Gateways and routes, or other than it looks, without serving them.",
        discussion: """
            Reads a folder of manifests, or the cluster of the gateway's configuration: objects that are refused, hosts and ports \
            that conflict, Secrets that are missing, backends that lead nowhere, and what is served otherwise than by EdgeMesh \
            1.17. Exit code 1 if there are errors; warnings and notes are none.
            """
    )

    @Option(help: "The gateway's configuration file.")
    var configFile: String?

    @Option(help: "The folder of manifests to read, instead of the cluster.")
    var manifests: String?

    @OptionGroup var output: OutputOptions

    func run() async throws {
        let flags = AgentFlags(role: .gateway)
        let options = AgentOptions(
            role: .gateway,
            configFile: self.configFile ?? flags.configFile,
            isConfigFileRequired: self.configFile != nil || self.manifests == nil,
            manifestFolder: self.manifests
        )
        do {
            let analysis = try await GatewayAnalysis.run(options)
            print(self.output.text(of: analysis.document) { _ in analysis.text }, terminator: "")
            if analysis.hasErrors { throw ExitCode(ExitStatus.failure) }
        } catch let code as ExitCode {
            throw code
        } catch {
            printError("edgemesh analyze: \(error)")
            throw ExitCode(ExitStatus.failure)
        }
    }
}
