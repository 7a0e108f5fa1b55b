public import Documents
import Glibc
import MeshCore
import Synchronization

extension World {
    var pskFile: String { "\(self.lab.directory)/psk" }

    private func configurationFile(of node: String) -> String { "\(self.lab.directory)/\(node)-agent.yaml" }

    /// The agent's configuration as a user would write it.
    func agentConfiguration(of node: String) -> String {
        """
        apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
        kind: EdgeMeshAgent
        commonConfig:
          bridgeDeviceName: edgemesh0
          bridgeDeviceIP: \(WorldPlan.resolver)
          stateDir: \(self.lab.directory)/\(node).state
        \(self.options.apiServer.map { "kubeAPIConfig: {master: \"\($0)\"}" } ?? "")
        modules:
          edgeDNS:
            enable: true
          edgeProxy:
            enable: true
            socks5Proxy: {enable: true}
          edgeTunnel:
            enable: true
            listenPort: \(WorldPlan.tunnelPort)
        \(self.sharedTunnelSettings)\(self.ownTunnelSettings(of: node))\(self.podNetworkSettings)\(self.ownModules(of: node))
        """
    }

    /// Gives the agent of a node lines of its own below `modules.edgeTunnel`, from its next start on.
    public func setTunnelSettings(_ lines: [String], of node: String) {
        self.state.withLock { $0.tunnelSettings[node] = lines }
    }

    private func ownTunnelSettings(of node: String) -> String {
        self.state.withLock { $0.tunnelSettings[node] ?? [] }.map { "    \($0)\n" }.joined()
    }

    private var podNetworkSettings: String {
        guard self.scenario.hasPodNetwork else { return "" }
        return """
              edgeCNI:
                enable: true
                meshCIDRConfig: {cloudCIDR: [10.244.0.0/16], edgeCIDR: ["fd00:244::/32"]}

            """
    }

    /// Lines below `modules` that a single agent has.
    private func ownModules(of node: String) -> String {
        (self.options.agentModules[node] ?? []).map { "  \($0)\n" }.joined()
    }

    /// Lines that all agents and gateways have below `modules.edgeTunnel`.
    var sharedTunnelSettings: String {
        let relays = self.relayItems.map { "  \($0)" }
        let lines =
            [
                "transport: \(self.scenario.transport.rawValue)", "psk: {enable: true, path: \(self.pskFile)}",
            ] + self.options.tunnelSettings + ["relayNodes:\(relays.isEmpty ? " []" : "")"] + relays
        return lines.map { "    \($0)\n" }.joined()
    }

    /// The items of `relayNodes`.
    var relayItems: [String] {
        self.relays.map { relay in
            "- {nodeName: \(relay.node), advertiseAddress: [\(relay.addresses.map { "\($0)" }.joined(separator: ", "))]}"
        }
    }

    /// The command that starts the agent of a node.
    func agentCommand(of node: String) -> [String] {
        (self.options.agentCommand ?? ["edgemesh-agent"]) + [
            "--config-file=\(self.configurationFile(of: node))", "-v=\(self.options.agentVerbosity)",
        ] + (self.options.apiServer == nil ? ["--manifests=\(self.manifestsDirectory)"] : [])
    }

    /// The agent's process that was started last; nil if it runs no more.
    public func agent(of node: String) throws(LabError) -> LabProcess? {
        let name = try self.node(node).name
        return self.state.withLock { $0.agents[name] }.flatMap { $0.isRunning ? $0 : nil }
    }

    /// The end of its agent's log, for people.
    func agentLogTail(of node: String) throws(LabError) -> String {
        let name = try self.node(node).name
        return self.state.withLock { $0.agents[name] }?.logTail() ?? ""
    }

    /// Starts the agent of a node, if it does not run, and returns at once.
    @discardableResult
    public func startAgent(of node: String) throws(LabError) -> LabProcess {
        if let running = try self.agent(of: node) { return running }
        try Files.makeDirectory("\(self.lab.directory)/\(node).state")
        try Files.write(self.agentConfiguration(of: node), to: self.configurationFile(of: node))
        let process = try self.lab.start(
            on: node,
            self.agentCommand(of: node),
            program: self.options.agentCommand == nil ? self.program : nil,
            environment: ["NODE_NAME": node, "NAMESPACE": "kubeedge"],
            log: "\(node)-agent"
        )
        self.state.withLock {
            $0.agents[node] = process
            $0.paused.remove(node)
        }
        return process
    }

    /// Starts all agents and waits until each serves its own node.
    public func startAgents(within deadline: Duration = .seconds(60)) async throws {
        for node in self.scenario.nodes { try self.startAgent(of: node.name) }
        let end = MonotonicTime.now() + deadline
        for node in self.scenario.nodes {
            try await self.waitUntilServing(node.name, within: max(end - .now(), .seconds(1)))
        }
    }

    /// Waits until the agent of a node answers for the name of the node's own service, and a call by it is answered.
    public func waitUntilServing(_ node: String, within deadline: Duration = .seconds(30)) async throws {
        let node = try self.node(node)
        guard let agent = try self.agent(of: node.name) else {
            throw LabError(.usage, "the agent of '\(node.name)' does not run; start it first")
        }
        try await self.lab.wait(for: "the agent of \(node.name) to serve", within: deadline) {
            guard agent.isRunning else {
                throw LabError(.commandFailed, "the agent of \(node.name) ended", cause: agent.logTail())
            }
            guard agent.isListening(.udp, port: 53) else { return false }
            let name = "\(node.name).default.svc.cluster.local"
            if node.apps.isEmpty {
                return try await self.run(on: node.name, ["dig", "+short", "+tries=1", "+timeout=1", name]) != nil
            }
            return try await self.run(on: node.name, ["curl", "-sS", "--max-time", "1", "http://\(name)/"]) != nil
        }
    }

    /// Waits until a call from a node's client pod to a service is answered, and returns the answer.
    @discardableResult
    public func waitForCall(
        from node: String,
        to service: String,
        within deadline: Duration = .seconds(60)
    ) async throws -> String {
        var answer: String?
        try await self.lab.wait(for: "a call from \(node) to \(service)", within: deadline) {
            answer = try await self.run(on: node, ["curl", "-sS", "--max-time", "3", "http://\(service)/"])
            return answer != nil
        }
        return answer ?? ""
    }

    /// What a command says in the client pod of a node; nil if it fails or says nothing.
    private func run(on node: String, _ command: [String]) async throws -> String? {
        let output = try await self.lab.run(on: self.node(node).client.name, command)
        let said = output.standardOutput.trimmed
        return output.status.isSuccess && !said.isEmpty ? said : nil
    }

    /// What `edgemesh status -o json` says on a node.
    func status(of node: String, _ arguments: [String] = []) async throws -> Document {
        let text = try await self.runTool(on: node, ["edgemesh", "status"] + arguments + ["-o", "json"])
        return try Document.parseJSON(Array(text.utf8), limits: .default)
    }

    /// How the agent of a node reaches another, of its status: `kind`, `relay`, `rttMilliseconds`; nil if it does not tell.
    public func path(from node: String, to other: String) async throws -> Document? {
        try await self.status(of: node)["edgeTunnel"]?["peers"]?[other]
    }

    /// Waits until a node reaches another by a path of one of these kinds: `direct`, `punched`, `relayed`.
    @discardableResult
    func waitForPath(
        from node: String,
        to other: String,
        _ kinds: Set<String>,
        within deadline: Duration = .seconds(60)
    ) async throws -> String {
        var kind: String?
        let wanted = kinds.sorted().joined(separator: " or ")
        try await self.lab.wait(for: "a path from \(node) to \(other) that is \(wanted)", within: deadline) {
            kind = try await self.path(from: node, to: other)?["kind"]?.string
            return kind.map(kinds.contains) ?? false
        }
        return kind ?? ""
    }
}
