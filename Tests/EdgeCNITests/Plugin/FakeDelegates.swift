import Documents
import Synchronization

@testable import CNIPlugin

/// Plugins that note how they are called and answer as they are told.
final class FakeDelegates: DelegateRunning {
    struct Call: Sendable {
        var program: String
        var environment: [String: String]
        var input: [UInt8]

        var command: String { self.environment["CNI_COMMAND"] ?? "" }
        var document: Document {
            get throws { try Document.parseJSON(self.input).withoutPositions }
        }
    }

    static let result = #"""
        {"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/pod"}],
         "ips":[{"address":"10.244.1.2/24","gateway":"10.244.1.1","interface":0},{"address":"fd00::2/64"}],"dns":{}}
        """#

    private let state = Mutex<[Call]>([])
    private let installed: Set<String>
    private let answer: @Sendable (Call) throws(CNIError) -> DelegateOutput

    init(
        installed: Set<String> = ["bridge"],
        answer: @escaping @Sendable (Call) throws(CNIError) -> DelegateOutput = { _ in
            DelegateOutput(status: 0, standardOutput: Array(FakeDelegates.result.utf8))
        }
    ) {
        self.installed = installed
        self.answer = answer
    }

    var calls: [Call] { self.state.withLock { $0 } }

    func find(_ type: String, in directories: [String]) -> String? {
        self.installed.contains(type) ? directories.first.map { "\($0)/\(type)" } : nil
    }

    func run(_ program: String, environment: [String: String], input: [UInt8]) throws(CNIError) -> DelegateOutput {
        let call = Call(program: program, environment: environment, input: input)
        self.state.withLock { $0.append(call) }
        return try self.answer(call)
    }

    static let environment = [
        "CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/run/netns/pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/plugins:/more",
        "CNI_ARGS": "K8S_POD_NAME=web", "PATH": "/bin",
    ]

    /// Calls the plugin.
    func call(
        _ command: String,
        _ configuration: String,
        changing changes: [String: String?] = [:]
    ) throws -> (outcome: CNIPlugin.Outcome, document: Document?) {
        var environment = Self.environment
        environment["CNI_COMMAND"] = command
        for (name, value) in changes { environment[name] = value }
        let outcome = CNIPlugin(delegates: self).run(environment: environment, input: Array(configuration.utf8))
        let printed = outcome.standardOutput
        return (outcome, printed.isEmpty ? nil : try Document.parseJSON(printed).withoutPositions)
    }
}
