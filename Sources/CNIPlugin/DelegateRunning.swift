import Glibc
import LinuxNetwork

/// Runs other plugins.
public protocol DelegateRunning: Sendable {
    /// The program of a plugin; nil if none of the directories has it.
    func find(_ type: String, in directories: [String]) -> String?

    /// Runs a program to its end.
    func run(_ program: String, environment: [String: String], input: [UInt8]) throws(CNIError) -> DelegateOutput
}

/// What a plugin left behind.
public struct DelegateOutput: Sendable, Hashable {
    public var status: Int32
    public var standardOutput: [UInt8]
    /// The end of it.
    public var standardError: String

    public init(status: Int32, standardOutput: [UInt8], standardError: String = "") {
        self.status = status
        self.standardOutput = standardOutput
        self.standardError = standardError
    }
}

/// Plugins as programs of this machine.
struct DelegatePrograms: DelegateRunning {
    /// Longer than a server of addresses that is asked over the network may take; the kubelet gives up earlier or later by itself.
    private static let timeLimit = Duration.seconds(180)

    func find(_ type: String, in directories: [String]) -> String? {
        directories.lazy.map { "\($0)/\(type)" }.first { access($0, X_OK) == 0 }
    }

    func run(_ program: String, environment: [String: String], input: [UInt8]) throws(CNIError) -> DelegateOutput {
        let process = ChildProcess(
            program: program,
            environment: environment,
            input: input,
            timeLimit: Self.timeLimit
        )
        do {
            let output = try process.runBlocking()
            return DelegateOutput(
                status: output.status,
                standardOutput: output.standardOutput,
                standardError: output.standardError
            )
        } catch {
            throw CNIError(.delegate, "\(program) cannot be run", details: "\(error)")
        }
    }
}
