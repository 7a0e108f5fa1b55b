import Admin
import Configuration
public import Documents
import LinuxNetwork
import MeshCore

/// `edgemesh cleanup`: takes out of the kernel what an agent, or the Go implementation, left there.
public struct NodeCleanup: Sendable {
    /// What was found and removed, one line each.
    public var removed: [String] = []
    /// Looks like an agent's, but may be another program's: left alone, with the reason.
    public var kept: [String] = []
    public var failures: [String] = []

    public var document: Document {
        [
            "removed": .array(self.removed.map { .string($0) }), "kept": .array(self.kept.map { .string($0) }),
            "failures": .array(self.failures.map { .string($0) }),
        ]
    }

    /// Whether an agent answers on `socket`, or where the configuration has it listen if that is nil.
    public static func isAgentRunning(configFile: String, socket: String?) -> Bool {
        AdminClient(socketPath: socket ?? Self.common(of: configFile).adminSocket).isAnswered
    }

    public static func run(configFile: String) async -> NodeCleanup {
        let common = Self.common(of: configFile)
        let report = await Leftovers(
            bridgeName: common.bridgeDeviceName,
            bridgeAddress: .v4(common.bridgeDeviceIP)
        ).remove()
        return NodeCleanup(removed: report.found, kept: report.kept, failures: report.failures)
    }

    /// An unreadable configuration does not stop a cleanup: the usual names serve.
    private static func common(of configFile: String) -> AgentConfiguration.Common {
        let source = ConfigSource(
            options: AgentOptions(configFile: configFile, isConfigFileRequired: false, manifestFolder: "")
        )
        return ((try? source.read())?.configuration ?? .defaults(source.environment)).commonConfig
    }
}
