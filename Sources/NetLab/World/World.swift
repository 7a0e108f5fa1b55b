public import Documents
import Glibc
import MeshCore
import Synchronization

/// A lab of several LANs that exists: a scenario with its routers, nodes, pods and agents.
///
/// Safe to use from anywhere. `remove()` takes everything away, as for `Lab`.
public final class World: Sendable {
    public struct Options: Sendable {
        /// Nil: the scenario's.
        public var name: String?
        /// The `edgemesh` binary that runs the applications and, if `agentCommand` is nil, the agents. Nil: this program.
        public var program: String?
        /// The agents' command, to which their flags are appended.
        public var agentCommand: [String]?
        public var agentVerbosity = 2
        /// Settings of the kernel in all namespaces, by their paths under `/proc/sys/net`.
        public var sysctls: [String: String] = [:]
        /// More lines below `modules.edgeTunnel` of the agents' configuration.
        public var tunnelSettings: [String] = []
        /// The API server that all agents follow; nil: they read the folder of objects.
        public var apiServer: String?
        /// More lines below `modules` of the configuration of single agents, by their nodes.
        public var agentModules: [String: [String]] = [:]

        public init() {}
    }

    public let scenario: Scenario
    public let lab: Lab
    let sites: [String: Internet.Site]
    let relays: [(node: String, addresses: [IPAddress])]
    let options: Options
    let program: String
    let state: Mutex<State>

    struct State: Sendable {
        var nodes: [String: WorldNode] = [:]
        var agents: [String: LabProcess] = [:]
        var gateways: [String: LabProcess] = [:]
        /// Those that stand still.
        var paused: Set<String> = []
        /// More lines below `modules.edgeTunnel` of single agents.
        var tunnelSettings: [String: [String]] = [:]
        /// The next free index of a LAN's addresses.
        var nextIndex: [String: Int] = [:]
    }

    private init(_ plan: WorldPlan, lab: Lab, options: Options, program: String) {
        self.scenario = plan.scenario
        self.lab = lab
        self.sites = plan.sites
        self.relays = plan.relays
        self.options = options
        self.program = program
        var state = State()
        for node in plan.nodes { state.nodes[node.name] = node }
        for lan in plan.scenario.lans { state.nextIndex[lan.name] = lan.nodes.count }
        self.state = Mutex(state)
    }

    /// Builds the networks and starts the pods' applications; the agents wait for `startAgents`.
    public static func create(_ scenario: Scenario, _ options: Options = Options()) async throws -> World {
        let plan = try WorldPlan(scenario, name: options.name ?? scenario.name)
        var networks = plan.lab
        networks.setOnAllHosts(options.sysctls)
        let program = try options.program ?? LabPrivileges.executable()
        if scenario.hasPodNetwork { LabPrivileges.makeTunnelFile() }
        let lab = try await Lab.create(networks)
        let world = World(plan, lab: lab, options: options, program: program)
        do {
            try world.writeFiles(plan)
            try await world.startApplications()
            for lan in scenario.lans {
                if lan.link != .init() { try await world.setLink(lan.name, to: lan.link) }
                for node in lan.nodes where node.link != .init() { try await world.setLink(node.name, to: node.link) }
            }
        } catch {
            try? lab.remove()
            throw error
        }
        return world
    }

    /// The nodes in the order of the scenario.
    public var nodes: [WorldNode] {
        let nodes = self.state.withLock { $0.nodes }
        return self.scenario.nodes.compactMap { nodes[$0.name] }
    }

    /// - Throws: `LabError` with the names that there are.
    public func node(_ name: String) throws(LabError) -> WorldNode {
        guard let node = self.state.withLock({ $0.nodes[name] }) else {
            let names = self.scenario.nodes.map(\.name).joined(separator: ", ")
            throw LabError(.usage, "there is no node '\(name)'; there are: \(names)")
        }
        return node
    }

    /// The folder of Kubernetes objects, shared by all agents.
    public var manifestsDirectory: String { "\(self.lab.directory)/manifests" }

    public func remove() throws {
        try self.lab.remove()
    }

    // MARK: Building

    private func writeFiles(_ plan: WorldPlan) throws(LabError) {
        try Files.makeDirectory(self.manifestsDirectory)
        for (name, text) in WorldManifests.files(for: plan) { try self.apply(name, text) }
        var random = SystemRandomNumberGenerator()
        let key = (0..<4).map { _ in String(random.next(), radix: 16) }.joined()
        try Files.write(key, to: self.pskFile, mode: 0o600)
    }

    private func startApplications() async throws {
        let tls = try await self.makeCertificate()
        let processes = try self.nodes.flatMap(\.apps).map { pod in
            try self.lab.startApplication(
                ["pod", "--name", pod.name] + tls,
                on: pod.name,
                program: self.program,
                log: pod.name
            )
        }
        for process in processes {
            // The last that it opens.
            try await self.lab.waitForListener(
                process,
                .tcp,
                port: tls.isEmpty ? 5201 : 443,
                within: .seconds(30)
            )
        }
    }

    /// A key and a certificate that nobody checks; nothing where there is no openssl.
    private func makeCertificate() async throws -> [String] {
        let (certificate, key) = ("\(self.lab.directory)/tls.crt", "\(self.lab.directory)/tls.key")
        do {
            try await Command.runLocal(
                [
                    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "30", "-subj", "/CN=lab", "-out", certificate, "-keyout", key,
                ]
            )
        } catch let error as LabError where error.code == .spawnFailed {
            return []
        }
        return ["--certificate", certificate, "--key", key]
    }
}

// MARK: - Calls

extension World {
    /// Writes or replaces a file in the folder of Kubernetes objects.
    public func apply(_ file: String, _ text: String) throws(LabError) {
        try Files.write(text, to: "\(self.manifestsDirectory)/\(file)")
    }

    /// Runs the load client in the client pod of a node, and returns its report as JSON.
    public func runClient(
        on node: String,
        _ arguments: [String],
        deadline: Duration = .seconds(90)
    ) async throws -> Document {
        try await self.lab.runClient(
            arguments,
            on: self.node(node).client.name,
            program: self.program,
            deadline: deadline
        )
    }

    /// Runs a command on a node, `edgemesh` being this program; throws if its exit code is not 0.
    public func runTool(on node: String, _ arguments: [String]) async throws -> String {
        try await self.lab.output(on: self.node(node).name, arguments, program: self.program)
    }
}
