import Admin
import Configuration
public import Documents
import LinuxNetwork

/// `edgemesh cleanup`: takes out of the kernel what an agent, or the Go implementation, left there.
public struct NodeCleanup: Sendable {
    /// What was found and removed, one line each.
    public var removed: [String] = []
    public var failures: [String] = []

    public var document: Document {
        ["removed": .array(self.removed.map { .string($0) }), "failures": .array(self.failures.map { .string($0) })]
    }

    /// An unreadable configuration does not stop it: the default device name serves.
    public static func run(configFile: String) async -> NodeCleanup {
        let source = ConfigSource(
            options: AgentOptions(configFile: configFile, isConfigFileRequired: false, manifestFolder: "")
        )
        let defaults = AgentConfiguration.defaults(source.environment)
        let device = ((try? source.read())?.configuration ?? defaults).commonConfig.bridgeDeviceName
        var outcome = NodeCleanup()
        do {
            let tables = await LiveHost().run("nft", ["list", "tables"], input: "")?.output
            // Without the nft program nobody can say what is there; removing nothing is no error.
            if tables?.contains(" edgemesh") ?? true {
                try await NFTablesProgram().remove()
                outcome.removed.append("nftables tables edgemesh")
            }
        } catch {
            outcome.failures.append("nftables tables edgemesh: \(error)")
        }
        do {
            if try RouteNetlink.links().contains(where: { $0.name == device && $0.kind == "bridge" }) {
                try RouteNetlink.removeLink(device)
                outcome.removed.append("bridge device \(device)")
            }
        } catch {
            outcome.failures.append("bridge device \(device): \(error)")
        }
        return outcome
    }
}
