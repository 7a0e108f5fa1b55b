import Documents
import Glibc
import MeshCore
import Synchronization

/// Gateways for clients that are not in the mesh: the host `outside`, on a LAN of its own with the second cards of the
/// gateways' nodes.
extension World {
    /// The gateway's socket beside that of its node's agent.
    static let gatewaySocket = "/run/edgemesh/gateway.sock"

    private func gatewayFile(of node: String) -> String { "\(self.lab.directory)/\(node)-gateway.yaml" }

    /// The gateway's configuration as a user would write it.
    ///
    /// - Parameter settings: Lines below `modules.edgeGateway`.
    func gatewayConfiguration(of node: String, _ settings: [String]) -> String {
        """
        apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1
        kind: EdgeMeshGateway
        commonConfig:
          adminSocket: \(Self.gatewaySocket)
          stateDir: \(self.lab.directory)/\(node)-gateway.state
        modules:
          edgeGateway:
            enable: true
        \(settings.map { "    \($0)\n" }.joined())  edgeTunnel:
            enable: true
            listenPort: \(WorldPlan.tunnelPort)
        \(self.sharedTunnelSettings)
        """
    }

    /// The command that starts the gateway of a node.
    func gatewayCommand(of node: String) -> [String] {
        [
            "edgemesh-gateway", "--config-file=\(self.gatewayFile(of: node))", "-v=\(self.options.agentVerbosity)",
            "--manifests=\(self.manifestsDirectory)",
        ]
    }

    /// Writes the configuration of a node's gateway, which a running gateway reads again.
    ///
    /// - Parameter settings: Lines below `modules.edgeGateway`, such as `nic: eth1`.
    public func configureGateway(of node: String, _ settings: [String] = []) throws(LabError) {
        guard try !self.node(node).outsideAddresses.isEmpty else {
            throw LabError(.usage, "'\(node)' has no gateway: write 'gateway: true' in the scenario")
        }
        try Files.write(self.gatewayConfiguration(of: node, settings), to: self.gatewayFile(of: node))
    }

    /// The gateway's process that was started last; nil if it runs no more.
    public func gateway(of node: String) -> LabProcess? {
        self.state.withLock { $0.gateways[node] }.flatMap { $0.isRunning ? $0 : nil }
    }

    /// The end of its gateway's log, for people; nil if there was none.
    func gatewayLogTail(of node: String) -> String? {
        self.state.withLock { $0.gateways[node] }?.logTail()
    }

    /// Starts the gateway of a node, if it does not run, and returns at once.
    @discardableResult
    public func startGateway(of node: String, _ settings: [String] = []) throws(LabError) -> LabProcess {
        if let running = self.gateway(of: node) { return running }
        try self.configureGateway(of: node, settings)
        try Files.makeDirectory("\(self.lab.directory)/\(node)-gateway.state")
        let process = try self.lab.start(
            on: node,
            self.gatewayCommand(of: node),
            program: self.program,
            environment: ["NODE_NAME": node, "NAMESPACE": "kubeedge"],
            log: "\(node)-gateway"
        )
        self.state.withLock { $0.gateways[node] = process }
        return process
    }

    /// What `edgemesh status -o json` says of a node's gateway.
    func gatewayStatus(of node: String) async throws -> Document {
        let text = try await self.runTool(
            on: node,
            ["edgemesh", "status", "--socket", Self.gatewaySocket, "-o", "json"]
        )
        return try Document.parseJSON(Array(text.utf8), limits: .default)["edgeGateway"] ?? .object([])
    }

    /// Runs curl in the host outside.
    ///
    /// - Parameter arguments: Its options and the URL; errors are shown, nothing else but the answer is.
    func curlOutside(_ arguments: [String], maxTime seconds: Int = 10) async throws -> CommandOutput {
        try await self.lab.run(
            on: WorldPlan.outside,
            ["curl", "-sS", "--max-time", "\(seconds)"] + arguments,
            deadline: .seconds(seconds + 10)
        )
    }
}
