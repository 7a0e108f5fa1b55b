import Documents
import FakeKube
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
            for agent in originals.values { try World.endTrace(ofOriginal: agent) }
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
        // Not the pod that is measured: what was begun before there were rules stays in the kernel's table of flows for two minutes, and
        // a later call from the same port would go astray with it. Agents of v1.17 leave that as it is.
        guard let pod = try self.world.node(node).apps.first else {
            throw BenchmarkError("\(node) has no pod to call from")
        }
        _ = try await self.world.lab.output(on: pod.name, ["sh", "-c", calls], deadline: deadline)
        return MonotonicTime.now() - begin
    }

    // MARK: The original

    private static func startOriginals(_ program: String, in world: World) async throws -> [String: LabProcess] {
        let objects = "\(world.lab.directory)/objects.json"
        try writeText(Document.array(world.objects()).jsonText(), to: objects)
        let server = try world.lab.start(
            on: World.apiServerHost,
            ["/proc/self/exe", "serve-objects", "\(World.apiServerAddress)", "\(World.apiServerPort)", objects],
            log: "api-server"
        )
        try await world.lab.waitForListener(server, .tcp, port: World.apiServerPort)
        var agents: [String: LabProcess] = [:]
        for node in world.nodes { agents[node.name] = try world.startOriginal(program, on: node.name) }
        return agents
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
