import Documents
import MeshCore
import NetLab

/// The lab of the traffic and DNS benchmarks: one node with the agent on it, a backend pod and a client pod.
///
///     client pod 10.244.1.20 ─┐
///                             cni0 ─ node 10.244.1.1 (agent, peers)
///     backend pod 10.244.1.11 ┘
struct BenchmarkLab {
    static let nodeAddress = "10.244.1.1"
    static let backendAddress = "10.244.1.11"
    static let dnsAddress = "169.254.96.16"
    /// Its endpoint is on this node: the kernel carries its traffic.
    static let kernelService = "10.96.10.1"
    /// Its endpoint is said to be on another node: the proxy of the agent carries its traffic.
    static let userService = "10.96.10.2"
    static let bulkPort = 5201
    static let httpPort = 9376

    let lab: Lab
    let program: String
    let agent: LabProcess

    /// Builds the lab and starts the backends and the agent.
    ///
    /// - Parameters:
    ///   - program: The `edgemesh` executable to measure.
    ///   - processors: The processors that the agent may use, as `taskset` has them; nil for all.
    ///   - upstream: The upstream DNS server of the agent.
    static func start(
        _ name: String,
        program: String,
        processors: String? = nil,
        upstream: String? = nil
    ) async throws
        -> BenchmarkLab
    {
        var plan = LabPlan(name: name)
        let prefix = 24
        plan.addLAN("lan")
        plan.addNode(
            "node",
            on: "lan",
            address: InterfaceAddress(IPv4Address(192, 168, 50, 2), prefixLength: prefix),
            podBridge: InterfaceAddress(IPv4Address(10, 244, 1, 1), prefixLength: prefix)
        )
        plan.addPod("backend", on: "node", address: InterfaceAddress(IPv4Address(10, 244, 1, 11), prefixLength: prefix))
        plan.addPod("client", on: "node", address: InterfaceAddress(IPv4Address(10, 244, 1, 20), prefixLength: prefix))
        let lab = try await Lab.create(plan)
        do {
            for (application, port) in [("bulk", Self.bulkPort), ("hostname", Self.httpPort)] {
                var arguments = ["edgemesh", "lab", "app", application, "--listen", "0.0.0.0:\(port)"]
                if application == "hostname" { arguments += ["--name", "backend"] }
                let server = try lab.start(on: "backend", arguments, program: program, log: application)
                try await lab.waitForListener(server, .tcp, port: UInt16(port))
            }
            let agent = try await Self.startAgent(in: lab, program: program, processors: processors, upstream: upstream)
            return BenchmarkLab(lab: lab, program: program, agent: agent)
        } catch {
            try? lab.remove()
            throw error
        }
    }

    private static func startAgent(
        in lab: Lab,
        program: String,
        processors: String?,
        upstream: String?
    ) async throws
        -> LabProcess
    {
        let manifests = "\(lab.directory)/manifests"
        try await lab.output(on: "node", ["mkdir", "-p", manifests])
        try writeText(Self.manifests, to: "\(manifests)/services.yaml")
        let configuration = "\(lab.directory)/agent.yaml"
        try writeText(Self.agentConfiguration(directory: lab.directory, upstream: upstream), to: configuration)
        var arguments = ["edgemesh-agent", "--config-file=\(configuration)", "--manifests=\(manifests)"]
        var executable = program
        if let processors {
            // taskset replaces itself by the program; argv[0] must still name the agent's role.
            arguments = ["taskset", "-c", processors, program, "agent"] + arguments.dropFirst()
            executable = "/usr/bin/taskset"
        }
        let agent = try lab.start(
            on: "node",
            arguments,
            program: executable,
            environment: ["NODE_NAME": "node-a", "NAMESPACE": "kubeedge"],
            log: "agent"
        )
        try await lab.waitForListener(agent, .udp, port: 53)
        try await lab.wait(for: "the kernel service to answer") {
            let url = "http://\(Self.kernelService):\(Self.httpPort)/"
            return try await lab.run(on: "client", ["curl", "-s", "-m", "1", url]).standardOutput == "backend\n"
        }
        return agent
    }

    static func agentConfiguration(directory: String, upstream: String?) -> String {
        """
        apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
        kind: EdgeMeshAgent
        commonConfig:
          stateDir: \(directory)/state
          adminSocket: \(directory)/admin.sock
        modules:
          edgeDNS:
            enable: true
            queriesPerSecondPerSource: 0
            upstreamServers: [\(upstream.map { "\"\($0)\"" } ?? "")]
          edgeProxy:
            enable: true

        """
    }

    /// Two services with the same backend, one for each path, and a hundred more names for DNS.
    private static var manifests: String {
        var text = Self.manifest("bench-kernel", clusterIP: Self.kernelService, node: "node-a")
        text += Self.manifest("bench-user", clusterIP: Self.userService, node: "node-b")
        for number in 0..<100 {
            text += Self.manifest("name-\(number)", clusterIP: "10.96.20.\(number + 1)", node: "node-a")
        }
        return text
    }

    private static func manifest(_ name: String, clusterIP: String, node: String) -> String {
        """
        apiVersion: v1
        kind: Service
        metadata: {name: \(name), namespace: bench}
        spec:
          clusterIP: \(clusterIP)
          ports:
          - {name: bulk, port: \(Self.bulkPort)}
          - {name: http, port: \(Self.httpPort)}
        ---
        apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata:
          name: \(name)-1
          namespace: bench
          labels: {kubernetes.io/service-name: \(name)}
        addressType: IPv4
        ports:
        - {name: bulk, port: \(Self.bulkPort)}
        - {name: http, port: \(Self.httpPort)}
        endpoints:
        - {addresses: [\(Self.backendAddress)], nodeName: \(node), conditions: {ready: true}}
        ---

        """
    }

    /// Runs the load client in the client pod and returns its report.
    func client(_ arguments: [String], deadline: Duration = .seconds(60)) async throws -> Document {
        let output = try await self.lab.output(
            on: "client",
            [self.program, "lab", "app", "client"] + arguments + ["-o", "json"],
            deadline: deadline
        )
        let report = try Document.parseJSON(Array(output.utf8))
        if let failed = report["failed"]?.integer, failed > 0 {
            throw BenchmarkError("\(failed) failures of 'client \(arguments.joined(separator: " "))': \(output)")
        }
        return report
    }
}

extension Document {
    /// The number at a path of keys.
    func number(_ path: String...) throws -> Double {
        var node: Document? = self
        for key in path { node = node?[key] }
        switch node?.content {
        case .integer(let number): return Double(number)
        case .number(let number): return number
        default: throw BenchmarkError("a report lacks '\(path.joined(separator: "."))'")
        }
    }
}
