import Documents
import Glibc

/// The plugin `edgemesh-cni`: attaches pods by handing on to another plugin (`bridge` with `spiderpool` unless the configuration says
/// otherwise), whose addresses the agent's tunnel carries between nodes. CNI specification 1.1 and those before it.
public struct CNIPlugin: Sendable {
    /// What a runtime gets back.
    public struct Outcome: Sendable, Hashable {
        /// Zero if the operation succeeded.
        public var status: Int32
        public var standardOutput: [UInt8]
        /// What the plugin behind this one had to say beside its result.
        public var standardError: String
    }

    private static let inputLimit = 1 << 20
    private let delegates: any DelegateRunning

    public init(delegates: any DelegateRunning) {
        self.delegates = delegates
    }

    /// Serves one call of a runtime: the environment and the standard input of this process.
    /// - Returns: the exit code.
    public static func main() -> Int32 {
        let input = Descriptor.read(STDIN_FILENO, limit: Self.inputLimit + 1)
        let variables = Descriptor.readFile("/proc/self/environ", limit: Self.inputLimit) ?? []
        let outcome = CNIPlugin(delegates: DelegatePrograms())
            .run(environment: Self.environment(variables), input: input)
        Descriptor.write(STDERR_FILENO, Array(outcome.standardError.utf8))
        return Descriptor.write(STDOUT_FILENO, outcome.standardOutput) ? outcome.status : 1
    }

    /// `NAME=VALUE`, each ended by a zero.
    static func environment(_ bytes: [UInt8]) -> [String: String] {
        var environment: [String: String] = [:]
        for entry in bytes.split(separator: 0) {
            guard let sign = entry.firstIndex(of: UInt8(ascii: "=")) else { continue }
            let name = String(decoding: entry[..<sign], as: UTF8.self)
            environment[name] = String(decoding: entry[entry.index(after: sign)...], as: UTF8.self)
        }
        return environment
    }

    /// Serves one call.
    public func run(environment: [String: String], input: [UInt8]) -> Outcome {
        var version = CNIVersion.latest
        var complaints = ""
        do throws(CNIError) {
            let invocation = try CNIInvocation(environment)
            if invocation.command == .version { return Self.outcome(try Self.versions(input)) }
            let configuration = try NetworkConfiguration(input)
            version = configuration.version
            return Self.outcome(try self.perform(invocation, configuration, &complaints), complaints)
        } catch {
            return Outcome(
                status: 1,
                standardOutput: Array(error.document(version).jsonText(pretty: true).utf8) + [0x0A],
                standardError: complaints
            )
        }
    }

    private static func outcome(_ document: Document?, _ complaints: String = "") -> Outcome {
        Outcome(
            status: 0,
            standardOutput: document.map { Array($0.jsonText(pretty: true).utf8) + [0x0A] } ?? [],
            standardError: complaints
        )
    }

    private static func versions(_ input: [UInt8]) throws(CNIError) -> Document {
        let asked = try NetworkConfiguration.read(input)["cniVersion"]?.string ?? CNIVersion.latest.rawValue
        return [
            "cniVersion": .string(asked),
            "supportedVersions": .array(CNIVersion.allCases.map { .string($0.rawValue) }),
        ]
    }

    /// - Returns: what is printed; nil for nothing.
    private func perform(
        _ invocation: CNIInvocation,
        _ configuration: NetworkConfiguration,
        _ complaints: inout String
    ) throws(CNIError) -> Document? {
        let command = invocation.command
        guard configuration.version >= command.since else {
            throw CNIError(
                .incompatibleVersion,
                "\(command.rawValue) is not in version \(configuration.version.rawValue), which the network has"
            )
        }
        if command == .check, !configuration.hasPreviousResult {
            throw CNIError(.invalidConfiguration, "CHECK without \"prevResult\": there is nothing to compare with")
        }
        let delegate = try configuration.delegate()
        guard let program = self.delegates.find(delegate.type, in: invocation.path) else {
            throw CNIError(
                command == .status ? .unavailable : .delegate,
                "the plugin \"\(delegate.type)\" is not installed",
                details: "looked for in \(invocation.path.joined(separator: ", "))"
            )
        }
        // A delegate of an older version has no such command, and so nothing to do.
        guard delegate.version >= command.since else { return nil }
        let input = delegate.document.jsonBytes()
        do {
            let output = try self.run(program, delegate.type, invocation.environment, input, &complaints)
            guard command == .add else { return nil }
            return try Self.result(output, of: delegate, for: configuration)
        } catch {
            guard command == .add else { throw error }
            // What the plugin did before it failed is undone (section 4); its first word is what counts.
            var environment = invocation.environment
            environment["CNI_COMMAND"] = CNIInvocation.Command.delete.rawValue
            _ = try? self.run(program, delegate.type, environment, input, &complaints)
            throw error
        }
    }

    private func run(
        _ program: String,
        _ type: String,
        _ environment: [String: String],
        _ input: [UInt8],
        _ complaints: inout String
    ) throws(CNIError) -> [UInt8] {
        let output = try self.delegates.run(program, environment: environment, input: input)
        complaints += output.standardError
        guard output.status != 0 else { return output.standardOutput }
        throw CNIError(printed: output.standardOutput)
            ?? CNIError(
                .delegate,
                "the plugin \"\(type)\" failed with exit code \(output.status)",
                details: String(decoding: output.standardOutput.prefix(4096), as: UTF8.self)
            )
    }

    private static func result(
        _ output: [UInt8],
        of delegate: NetworkConfiguration.Delegate,
        for configuration: NetworkConfiguration
    ) throws(CNIError) -> Document {
        let document: Document
        do {
            document = try Document.parseJSON(output, limits: NetworkConfiguration.limits)
        } catch {
            throw CNIError(
                .undecodable,
                "the result of the plugin \"\(delegate.type)\" is no JSON",
                details: "\(error)"
            )
        }
        return try AttachmentResult.converted(document, to: configuration.version)
    }
}
