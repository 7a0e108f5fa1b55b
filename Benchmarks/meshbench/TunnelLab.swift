import Documents
import FakeKube
import Glibc
import MeshCore
import NetLab

/// Two nodes whose pods reach each other by the tunnel alone, with agents of ours or of v1.17.
///
///     direct:   west-client ─ west ─── LAN ─── east ─ east-app
///     relayed:  west-client ─ west ─ NAT ─ internet ─ NAT ─ east ─ east-app, by way of relay-1 or relay-2
struct TunnelLab {
    enum Path: String, CaseIterable { case direct, relayed }

    static let httpPort = 80
    static let bulkPort = 5201
    /// On the node itself, for the kernel's own path to it.
    static let nodeHTTPPort = 9376
    private static let serverPort = 8080

    let path: Path
    let world: World
    /// The agents of v1.17; empty for ours, which the world has.
    private let originals: [String: LabProcess]

    /// Builds the networks, starts all agents, and waits until a call by the tunnel is answered.
    ///
    /// - Parameters:
    ///   - original: The agent of v1.17; nil for ours.
    ///   - congestionControl: of all nodes and pods; nil for this machine's.
    static func start(
        _ path: Path,
        program: String,
        original: String? = nil,
        congestionControl: String? = nil
    ) async throws -> TunnelLab {
        var options = World.Options()
        options.program = program
        if let congestionControl { options.sysctls["ipv4/tcp_congestion_control"] = congestionControl }
        let world = try await World.create(Self.scenario(path), options)
        do {
            for (application, port) in [("bulk", Self.bulkPort), ("hostname", Self.nodeHTTPPort)] {
                let name = application == "bulk" ? [] : ["--name", "east"]
                let server = try world.lab.start(
                    on: "east",
                    ["edgemesh", "lab", "app", application, "--listen", "0.0.0.0:\(port)"] + name,
                    program: program,
                    log: "east-\(application)"
                )
                try await world.lab.waitForListener(server, .tcp, port: UInt16(port))
            }
            var originals: [String: LabProcess] = [:]
            if let original {
                originals = try await Self.startOriginals(original, in: world)
            } else {
                try await world.startAgents()
            }
            let lab = TunnelLab(path: path, world: world, originals: originals)
            _ = try await lab.timeUntilAnswer(from: "west", to: "east", within: .seconds(90))
            for agent in originals.values { try Self.endTrace(of: agent.processID) }
            return lab
        } catch {
            try? world.remove()
            throw error
        }
    }

    private static func scenario(_ path: Path) -> Scenario {
        let (west, east) = (Scenario.Node(name: "west"), Scenario.Node(name: "east"))
        switch path {
        case .direct:
            return Scenario(name: "bench-direct", lans: [.init(name: "lan", nat: .open, nodes: [west, east])])
        case .relayed:
            let relays = ["relay-1", "relay-2"].map { relay in
                Scenario.LAN(name: "\(relay)-lan", nat: .open, nodes: [.init(name: relay, isRelay: true, pods: 0)])
            }
            // No hole can be punched through two of these.
            let sites = [west, east].map { Scenario.LAN(name: "\($0.name)-lan", nat: .fullyRandom, nodes: [$0]) }
            return Scenario(name: "bench-relayed", lans: relays + sites)
        }
    }

    // MARK: Parts

    var isOurs: Bool { self.originals.isEmpty }

    func agent(of node: String) throws -> LabProcess {
        guard let agent = try self.originals[node] ?? self.world.agent(of: node) else {
            throw BenchmarkError("the agent of \(node) has ended")
        }
        return agent
    }

    /// The process IDs of all agents.
    func agents() throws -> [Int32] { try self.world.nodes.map { try self.agent(of: $0.name).processID } }

    /// The service of a node.
    func service(_ node: String, _ port: Int) throws -> String { "\(try self.world.node(node).clusterIP):\(port)" }

    /// Runs the load client in west's pod, and throws if anything failed.
    func client(_ arguments: [String], deadline: Duration = .seconds(90)) async throws -> Document {
        let report = try await self.world.runClient(on: "west", arguments, deadline: deadline)
        guard try report.number("failed") == 0 else {
            throw BenchmarkError("failures of 'client \(arguments.joined(separator: " "))': \(report.jsonText())")
        }
        return report
    }

    /// Calls twenty times a second, without waiting for answers, until there is one.
    /// - Returns: how long that took.
    func timeUntilAnswer(from node: String, to other: String, within deadline: Duration) async throws -> Duration {
        let answered = "\(self.world.lab.directory)/answered"
        let url = "http://\(try self.service(other, Self.httpPort))/"
        let calls = """
            rm -f \(answered)
            while [ ! -e \(answered) ]; do
                (curl -s -m 3 -o /dev/null \(url) && touch \(answered)) &
                sleep 0.05
            done
            """
        let begin = MonotonicTime.now()
        let client = try self.world.node(node).client.name
        _ = try await self.world.lab.output(on: client, ["sh", "-c", calls], deadline: deadline)
        return MonotonicTime.now() - begin
    }

    // MARK: The original

    private static func startOriginals(_ program: String, in world: World) async throws -> [String: LabProcess] {
        let directory = world.lab.directory
        let objects = "\(directory)/objects.json"
        try writeText(Document.array(world.nodes.flatMap(Self.objects)).jsonText(), to: objects)
        // All nodes reach the router in the middle.
        let core = "1.1.1.1"
        let server = try world.lab.start(
            on: "internet",
            ["/proc/self/exe", "serve-objects", core, "\(Self.serverPort)", objects],
            log: "api-server"
        )
        try await world.lab.waitForListener(server, .tcp, port: UInt16(Self.serverPort))
        try writeText("a key for benchmarks", to: "\(directory)/original-psk")
        let relays = world.nodes.filter(\.isRelay).map {
            "      - {nodeName: \($0.name), advertiseAddress: [\($0.address)]}\n"
        }
        let configuration = "\(directory)/original.yaml"
        try writeText(
            """
            kubeAPIConfig: {master: "http://\(core):\(Self.serverPort)", contentType: application/json}
            modules:
              edgeDNS: {enable: false}
              edgeProxy: {enable: true}
              edgeTunnel:
                enable: true
                psk: {enable: true, path: \(directory)/original-psk}
                relayNodes:\(relays.isEmpty ? " []" : "")
            \(relays.joined())
            """,
            to: configuration
        )
        // It wants to raise a limit further than most machines let it, and ends otherwise; told that it has, it starts.
        let trace = [
            "strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=prlimit64,setrlimit", "-e",
            "inject=prlimit64,setrlimit:retval=0",
        ]
        var agents: [String: LabProcess] = [:]
        for node in world.nodes {
            agents[node.name] = try world.lab.start(
                on: node.name,
                trace + [program, "--config-file=\(configuration)"],
                environment: ["NODE_NAME": node.name, "NAMESPACE": "kubeedge"],
                log: "\(node.name)-agent"
            )
        }
        return agents
    }

    /// Its start is over: the trace would slow down every signal that it sends itself.
    private static func endTrace(of processID: Int32) throws {
        let status = try readText("/proc/\(processID)/status")
        let line = status.split(separator: "\n").first { $0.hasPrefix("TracerPid:") }
        if let tracer = line?.split(separator: "\t").last.flatMap({ Int32($0) }), tracer > 0 { kill(tracer, SIGKILL) }
    }

    /// What v1.17 reads of a node's pod: a service with its endpoints.
    private static func objects(of node: WorldNode) -> [Document] {
        guard let pod = node.apps.first else { return [] }
        let metadata: Document = ["name": .string(node.name), "namespace": "default"]
        let ports = [("http", Self.httpPort, 9376), ("bulk", Self.bulkPort, Self.bulkPort)]
        return [
            [
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": [
                    "type": "ClusterIP", "clusterIP": .string("\(node.clusterIP)"),
                    "ports": .array(
                        ports.map { name, port, target in
                            [
                                "name": .string(name), "protocol": "TCP", "port": .integer(port),
                                "targetPort": .integer(target),
                            ]
                        }
                    ),
                ],
            ],
            [
                "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
                "subsets": [
                    [
                        "addresses": [["ip": .string("\(pod.address)"), "nodeName": .string(node.name)]],
                        "ports": .array(
                            ports.map { name, _, target in
                                ["name": .string(name), "protocol": "TCP", "port": .integer(target)]
                            }
                        ),
                    ]
                ],
            ],
        ]
    }

    /// The part that runs in the middle of the internet: an API server with the objects of a file.
    static func serveObjects(host: String, port: Int, file: String) async throws {
        var options = FakeKube.Options()
        options.host = host
        options.port = port
        let server = FakeKube(options: options)
        for object in try Document.parseJSON(Array(try readText(file).utf8)).array ?? [] { server.apply(object) }
        try await server.start()
        while true { try await Task.sleep(for: .seconds(3600)) }
    }
}
