import Documents
import Glibc
public import MeshCore
import Synchronization

/// One node with its agent, pods with backends, a client pod, and a host beside the node on its LAN.
///
/// ```
///   outside ── LAN 192.168.10.0/24 ── node-a (agent) ── cni0 10.244.1.0/24 ── client, backend-1…, echo
/// ```
public final class NodeLab: Sendable {
    public struct Pod: Sendable, Hashable {
        public var name: String
        public var address: IPv4Address
        /// Nil if it has IPv4 alone.
        public var address6: IPAddress?

        init(name: String, address: IPv4Address) {
            self.name = name
            self.address = address
        }
    }

    /// Who is where.
    public struct Layout: Sendable, Hashable {
        public let node = "node-a"
        public let nodeAddress = IPv4Address(192, 168, 10, 11)
        public let outside = "outside"
        public let outsideAddress = IPv4Address(192, 168, 10, 100)
        /// Calls the services. Has `clientAddresses` addresses, to be several clients.
        public let client = Pod(name: "client", address: IPv4Address(10, 244, 1, 100))
        public let clientAddresses: UInt8 = 8
        public var backends: [Pod]
        /// Runs tcp-echo (2701), udp-echo (2702), websocket-echo (8080) and bulk (5201).
        public let echo = Pod(name: "echo", address: IPv4Address(10, 244, 1, 30))
        /// Where the agent answers DNS.
        public let resolver = IPv4Address(169, 254, 96, 16)
        /// An address of the LAN that nobody has: an API server there does not answer.
        public let silentAPI = "http://192.168.10.250:6443"

        init(backends: Int) {
            self.backends = (1...max(1, min(backends, 60))).map {
                Pod(name: "backend-\($0)", address: IPv4Address(10, 244, 1, UInt8(30 + $0)))
            }
        }

        func plan(named name: String) -> LabPlan {
            let resolverConfiguration = Self.podResolverConfiguration(self.resolver)
            var plan = LabPlan(name: name)
            plan.addLAN("lan")
            plan.addNode(
                self.node,
                on: "lan",
                address: InterfaceAddress(self.nodeAddress, prefixLength: 24),
                podBridge: InterfaceAddress(IPv4Address(10, 244, 1, 1), prefixLength: 24),
                // Without a default route, the node's own calls to cluster IPs would end before any rule sees them.
                gateway: .v4(self.outsideAddress),
                resolverConfiguration: "# This lab has no other name server than the agent.\n"
            )
            plan.addHost(
                self.outside,
                on: "lan",
                address: InterfaceAddress(self.outsideAddress, prefixLength: 24)
            )
            for pod in [self.client, self.echo] + self.backends {
                let isClient = pod == self.client
                plan.addPod(
                    pod.name,
                    on: self.node,
                    address: InterfaceAddress(pod.address, prefixLength: 24),
                    furtherAddresses: isClient ? self.furtherClientAddresses : [],
                    resolverConfiguration: resolverConfiguration
                )
            }
            return plan
        }

        static func podResolverConfiguration(_ resolver: IPv4Address) -> String {
            """
            nameserver \(resolver)
            search default.svc.cluster.local svc.cluster.local cluster.local
            options ndots:5

            """
        }

        var furtherClientAddresses: [InterfaceAddress] {
            (1..<UInt32(self.clientAddresses)).map {
                InterfaceAddress(IPv4Address(rawValue: self.client.address.rawValue + $0), prefixLength: 24)
            }
        }
    }

    public struct Options: Sendable {
        public var name = "node"
        public var backends = 3
        /// The `edgemesh` binary that runs the applications and, if `agentCommand` is nil, the agent. Nil: this program.
        public var program: String?
        /// The agent's command, to which its flags are appended.
        public var agentCommand: [String]?
        /// Further files for the folder of manifests.
        public var manifests: [String: String] = [:]
        /// Lines for the agent's configuration, below `commonConfig` and `modules`.
        public var agentVerbosity = 2

        public init() {}
    }

    public let lab: Lab
    public let layout: Layout
    private let options: Options
    private let program: String
    private let backendProcesses = Mutex<[String: LabProcess]>([:])

    private init(lab: Lab, layout: Layout, options: Options, program: String) {
        self.lab = lab
        self.layout = layout
        self.options = options
        self.program = program
    }

    /// Builds the lab and starts its applications; the agent waits for `startAgent`.
    public static func create(_ options: Options = Options()) async throws -> NodeLab {
        let layout = Layout(backends: options.backends)
        let program = try options.program ?? LabPrivileges.executable()
        let lab = try await Lab.create(layout.plan(named: options.name))
        let node = NodeLab(lab: lab, layout: layout, options: options, program: program)
        do {
            try node.writeFiles()
            try await node.startApplications()
        } catch {
            try? lab.remove()
            throw error
        }
        return node
    }

    public var manifestsDirectory: String { "\(self.lab.directory)/manifests" }
    public var adminSocket: String { "\(self.lab.directory)/agent.sock" }
    public var agentLog: String { "\(self.lab.directory)/agent.log" }

    private func writeFiles() throws(LabError) {
        try Files.makeDirectory(self.manifestsDirectory)
        try Files.makeDirectory("\(self.lab.directory)/state")
        for (name, text) in NodeLabManifests.files(for: self.layout) { try self.apply(name, text) }
        for (name, text) in self.options.manifests { try self.apply(name, text) }
    }

    private func startApplications() async throws {
        for backend in self.layout.backends { try self.startBackend(backend.name) }
        let echo = try [
            ("tcp-echo", "0.0.0.0:2701", TransportProtocol.tcp, 2701), ("udp-echo", "0.0.0.0:2702", .udp, 2702),
            ("websocket-echo", "0.0.0.0:8080", .tcp, 8080), ("bulk", "0.0.0.0:5201", .tcp, 5201),
        ].map { name, address, transport, port in
            let process = try self.startApplication([name, "--listen", address], on: self.layout.echo.name, log: name)
            return (process, transport, UInt16(port))
        }
        for (process, transport, port) in echo { try await self.lab.waitForListener(process, transport, port: port) }
        for process in self.backendProcesses.withLock({ Array($0.values) }) {
            try await self.lab.waitForListener(process, .tcp, port: 9376)
            try await self.lab.waitForListener(process, .udp, port: 9376)
        }
    }
}

// MARK: - Applications

extension NodeLab {
    /// Starts one of `LabApplications` on a host.
    public func startApplication(_ arguments: [String], on host: String, log: String) throws(LabError) -> LabProcess {
        try self.lab.startApplication(arguments, on: host, program: self.program, log: log)
    }

    /// Runs the load client in a host.
    func runClient(
        _ arguments: [String],
        on host: String,
        deadline: Duration = .seconds(60)
    ) async throws -> Document {
        try await self.lab.runClient(arguments, on: host, program: self.program, deadline: deadline)
    }

    /// Runs this program's own command on the node and returns what it prints; throws if its exit code is not 0.
    public func runTool(_ arguments: [String]) async throws -> String {
        try await self.lab.output(on: self.layout.node, arguments, program: self.program)
    }

    public func startBackend(_ name: String) throws(LabError) {
        let process = try self.startApplication(["hostname", "--name", name], on: name, log: name)
        self.backendProcesses.withLock { $0[name] = process }
    }

    /// The process of a backend; nil if it has been killed.
    func backendProcessID(_ name: String) -> Int32? {
        self.backendProcesses.withLock { $0[name]?.processID }
    }

    /// `kill -9`, as a crash.
    public func killBackend(_ name: String) async throws {
        try await self.backendProcesses.withLock { $0.removeValue(forKey: name) }?.kill()
    }

    /// Writes or replaces a file in the folder of manifests.
    public func apply(_ file: String, _ text: String) throws(LabError) {
        try Files.write(text, to: "\(self.manifestsDirectory)/\(file)")
    }

    public func deleteManifest(_ file: String) throws(LabError) {
        guard unlink("\(self.manifestsDirectory)/\(file)") == 0 else {
            throw Files.error("remove", "\(self.manifestsDirectory)/\(file)")
        }
    }

    /// Takes a backend's pod, and with it its endpoints, out of the manifests.
    public func deletePod(_ name: String) throws(LabError) {
        try self.deleteManifest(NodeLabManifests.podFile(name))
    }

    /// Puts a backend's pod back.
    public func applyPod(_ name: String) throws(LabError) {
        guard let pod = self.layout.backends.first(where: { $0.name == name }) else {
            throw LabError(.usage, "the lab has no backend '\(name)'")
        }
        try self.apply(NodeLabManifests.podFile(name), NodeLabManifests.hostnamePod(pod, node: self.layout.node))
    }

    public func remove() throws {
        try self.lab.remove()
    }
}

// MARK: - The agent

extension NodeLab {
    /// The flags by which the agent is started, and its configuration file.
    func agentCommand(withManifests: Bool) -> [String] {
        (self.options.agentCommand ?? ["edgemesh-agent"])
            + ["--config-file=\(self.lab.directory)/edgemesh-agent.yaml", "-v=\(self.options.agentVerbosity)"]
            + (withManifests ? ["--manifests=\(self.manifestsDirectory)"] : [])
    }

    /// - Parameter withAPI: It names an API server, which does not answer.
    func agentConfiguration(withAPI: Bool = false) -> String {
        """
        apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
        kind: EdgeMeshAgent
        \(withAPI ? "kubeAPIConfig: {master: \"\(self.layout.silentAPI)\"}" : "# No API server: --manifests says what there is.")
        commonConfig:
          bridgeDeviceName: edgemesh0
          bridgeDeviceIP: \(self.layout.resolver)
          adminSocket: \(self.adminSocket)
          stateDir: \(self.lab.directory)/state
        modules:
          edgeDNS:
            enable: true
          edgeProxy:
            enable: true

        """
    }

    /// Starts the agent on the node and returns at once.
    ///
    /// - Parameter withManifests: False: it gets no manifests and an API server that does not answer.
    public func startAgent(withManifests: Bool = true) throws(LabError) -> LabProcess {
        try self.configureAgent(self.agentConfiguration(withAPI: !withManifests))
        return try self.lab.start(
            on: self.layout.node,
            self.agentCommand(withManifests: withManifests),
            program: self.options.agentCommand == nil ? self.program : nil,
            environment: ["NODE_NAME": self.layout.node, "NAMESPACE": "kubeedge"],
            log: "agent"
        )
    }

    /// Writes the agent's configuration file, which a running agent reads again.
    func configureAgent(_ text: String) throws(LabError) {
        try Files.write(text, to: "\(self.lab.directory)/edgemesh-agent.yaml")
    }

    /// Waits until the agent answers for a service's name and a call by that name is answered.
    public func waitUntilServing(
        _ agent: LabProcess,
        service: String = "hostname-svc",
        within deadline: Duration = .seconds(15)
    ) async throws {
        let name = "\(service).default.svc.cluster.local"
        do {
            try await self.lab.wait(for: "the agent to serve \(name)", within: deadline) {
                if let status = agent.exitStatus { throw LabError(.commandFailed, "the agent ended with \(status)") }
                // A question that comes before its answerer is lost, and dig waits a second for the answer.
                guard agent.isListening(.udp, port: 53) else { return false }
                let answer = try await self.dig([name, "+tries=1", "+timeout=1"])
                guard !answer.isEmpty else { return false }
                let call = try await self.lab.run(
                    on: self.layout.client.name,
                    ["curl", "-sS", "--max-time", "1", "http://\(name):12345/"]
                )
                return call.status.isSuccess
            }
        } catch let error as LabError {
            throw LabError(
                error.code,
                error.message,
                cause: "\(error.cause ?? "")\nits log ends with:\n" + agent.logTail()
            )
        }
    }

    /// What `edgemesh status -o json` says.
    func status(_ arguments: [String] = []) async throws -> Document {
        let text = try await self.runTool(
            ["edgemesh", "status"] + arguments + ["--socket", self.adminSocket, "-o", "json"]
        )
        return try Document.parseJSON(Array(text.utf8), limits: .default)
    }

    /// Waits until the agent has written a state to disk of which `condition` holds.
    func waitUntilStored(within deadline: Duration = .seconds(20), _ condition: (String) -> Bool) async throws {
        let folder = "\(self.lab.directory)/state"
        try await self.lab.wait(for: "the state in \(folder)", within: deadline) {
            let file = Files.names(in: folder).first { $0.hasSuffix(".jsonl") }
            guard let file, let text = try? Files.readText("\(folder)/\(file)") else { return false }
            return condition(text)
        }
    }

    /// `dig +short` from the client pod: the lines of the answer.
    public func dig(_ arguments: [String]) async throws -> [String] {
        let output = try await self.lab.run(on: self.layout.client.name, ["dig", "+short"] + arguments)
        // Exit code 9 and a comment: no server answered.
        return output.lines.filter { !$0.hasPrefix(";") }
    }
}
