import Documents
import MeshCore

/// The part of the demo with three LANs: every node reaches every other, whatever breaks.
struct WorldDemo {
    let world: World
    let journal: DemoJournal

    /// Two relays in a cloud, and two LANs behind NATs.
    static var scenario: Scenario {
        let line = LinkConditions(delay: .milliseconds(10), jitter: .milliseconds(1))
        var scenario = Scenario(
            name: "demo-lans",
            lans: [
                .init(
                    name: "cloud",
                    nat: .open,
                    nodes: [.init(name: "cloud-1", isRelay: true), .init(name: "cloud-2", isRelay: true)]
                ),
                .init(
                    name: "factory",
                    link: line,
                    nodes: [.init(name: "edge-1", isGateway: true), .init(name: "edge-2")]
                ),
                .init(name: "shop", link: line, nodes: [.init(name: "edge-3")]),
            ]
        )
        scenario.services = [
            .init(name: "everywhere", nodes: ["cloud-1", "edge-1", "edge-3"], balancing: .roundRobin)
        ]
        return scenario
    }

    func run() async {
        let isServing = await self.journal.step("Start the agents", "edgemesh-agent on 5 nodes") {
            try await self.startAgents()
        }
        guard isServing else { return }
        for (title, from, to) in [
            ("Edge to edge", "edge-1", "edge-3"), ("Edge to cloud", "edge-3", "cloud-1"),
            ("Cloud to edge", "cloud-2", "edge-2"),
        ] {
            await self.journal.step(title, "curl http://\(to)/  and four protocols more") {
                try await self.call(from: from, to: to)
            }
        }
        await self.journal.step("Relayed, then punched", "edgemesh status") { try await self.punch() }
        await self.journal.step("One service, three LANs", "curl http://everywhere/  30 times") {
            try await self.spread()
        }
        await self.journal.step("Kill a relay", "edgemesh lab kill RELAY, under load") { try await self.killRelay() }
        await self.journal.step("Cut the cloud", "edgemesh lab link cloud down, under load") {
            try await self.cutCloud()
        }
        await self.journal.step("From outside, by HTTPS", "curl https://shop.example/") {
            try await self.callFromOutside()
        }
    }

    // MARK: Steps

    private func startAgents() async throws {
        let started = MonotonicTime.now()
        for node in self.world.nodes {
            self.journal.command(self.world.agentCommand(of: node.name).joined(separator: " "), on: node.name)
        }
        try await self.world.startAgents()
        let elapsed = milliseconds(since: started)
        self.journal.numbers("\(self.world.nodes.count) agents serve their nodes after \(elapsed)")
        self.journal.check(true, "each answers for its own node's service after \(elapsed)")
    }

    private func call(from: String, to: String) async throws {
        let started = MonotonicTime.now()
        let client = try self.world.node(from).client.name
        self.journal.command("curl http://\(to)/", on: client)
        let answer = try await self.world.waitForCall(from: from, to: to)
        let elapsed = milliseconds(since: started)
        self.journal.check(answer.hasPrefix(to), "\(answer) answers after \(elapsed)")
        let address = "\(try self.world.node(to).clusterIP)"
        for (mode, port) in [("http", 80), ("https", 443), ("tcp", 2701), ("websocket", 8080), ("udp", 9376)] {
            let report = try await self.load(
                from: from,
                [mode, "--target", "\(address):\(port)", "--requests", "20", "--connections", "5"]
            )
            self.journal.check(report["failed"]?.integer == 0, "\(mode): none of 20 calls is lost")
        }
        let path = try await self.path(from: from, to: to)
        self.journal.numbers("HTTP, HTTPS, TCP, WebSocket, UDP; first after \(elapsed), \(path)")
    }

    private func punch() async throws {
        let kind = try await self.world.waitForPath(from: "edge-1", to: "edge-3", ["punched", "direct"])
        self.journal.check(kind == "punched", "edge-1 reaches edge-3 directly, through both NATs")
        let neighbour = try await self.world.waitForCall(from: "edge-1", to: "edge-2")
        self.journal.fact("\(neighbour) is in the same LAN")
        try await self.world.waitForPath(from: "edge-1", to: "edge-2", ["direct"])
        self.journal.numbers(
            "edge-3: \(try await self.path(from: "edge-1", to: "edge-3")); edge-2: \(try await self.path(from: "edge-1", to: "edge-2"))"
        )
    }

    private func spread() async throws {
        let address = WorldManifests.clusterIP(ofService: 0)
        let report = try await self.load(from: "edge-2", ["http", "--target", "\(address):80", "--requests", "30"])
        let spread = (report["spread"]?.members ?? []).map { "\($0.key) \($0.value.integer ?? 0)" }.sorted()
        self.journal.numbers(spread.joined(separator: ", "))
        self.journal.check(
            spread.count == 3 && report["failed"]?.integer == 0,
            "30 calls go to the pods of three LANs in turn"
        )
    }

    private func killRelay() async throws {
        let calls = try await self.underLoad(from: "edge-1", to: "edge-3") {
            self.journal.command("edgemesh lab kill cloud-1", on: "cloud-1")
            try await self.world.killAgent(of: "cloud-1")
        }
        self.journal.numbers(calls.text)
        self.journal.check(calls.lost == 0, "edge-1 calls edge-3 all the while: \(calls.text)")
        let answer = try await self.world.waitForCall(from: "cloud-2", to: "edge-2")
        self.journal.check(answer.hasPrefix("edge-2"), "and \(answer) answers the cloud by the relay that is left")
    }

    private func cutCloud() async throws {
        let calls = try await self.underLoad(from: "edge-1", to: "edge-2") {
            self.journal.command("edgemesh lab link cloud down", on: "cloud")
            try await self.world.changeLink("cloud", ["down"])
        }
        self.journal.check(calls.lost == 0, "the LAN goes on by itself: \(calls.text)")
        let across = try await self.world.waitForCall(from: "edge-1", to: "edge-3")
        self.journal.check(across.hasPrefix("edge-3"), "and \(across) answers across both NATs without any relay")
        try await self.world.changeLink("cloud", ["up"])
        let back = try await self.world.waitForCall(from: "cloud-2", to: "edge-1", within: .seconds(90))
        self.journal.check(back.hasPrefix("edge-1"), "with the cloud back, \(back) answers it again")
        self.journal.numbers("in the LAN \(calls.text)")
    }

    /// A gateway on a node of one LAN, the service in another, and a client that is not in the mesh.
    private func callFromOutside() async throws {
        let (node, host, service) = ("edge-1", "shop.example", "edge-3")
        let authority = try await LabAuthority(in: "\(self.world.lab.directory)/authority")
        let certificate = try await authority.issue("shop", hosts: [host])
        try self.world.apply("shop-secret.yaml", try await authority.secret("shop", certificate))
        try self.world.apply("shop.yaml", GatewayManifests.secureSite(host, service: service, secret: "shop"))
        self.journal.command(self.world.gatewayCommand(of: node).joined(separator: " "), on: node)
        let started = MonotonicTime.now()
        try self.world.startGateway(of: node, ["nic: \(WorldPlan.outsideInterface)"])

        let address = self.world.nodes.first { $0.name == node }?.outsideAddresses.first
        let options = [443, 80].flatMap { ["--resolve", "\(host):\($0):\(address.map { "\($0)" } ?? "")"] }
        let call = options + ["--cacert", authority.certificateFile]
        self.journal.command("curl \(call.joined(separator: " ")) https://\(host)/", on: WorldPlan.outside)
        var answer = ""
        try await self.world.lab.wait(for: "the gateway to answer", within: .seconds(60)) {
            let output = try await self.world.curlOutside(call + ["https://\(host)/"])
            answer = output.standardOutput.trimmed
            return output.status.isSuccess && answer.hasPrefix(service)
        }
        let elapsed = milliseconds(since: started)
        self.journal.check(true, "\(answer), behind the other NAT, answers a client outside after \(elapsed)")
        let calls = try await self.world.curlOutside(
            call + ["-o", "/dev/null", "-w", "%{http_code} HTTP/%{http_version}\\n", "https://\(host)/?call=[1-50]"],
            maxTime: 30
        )
        let good = calls.lines.filter { $0 == "200 HTTP/2" }.count
        self.journal.check(
            good == 50,
            "\(good) of 50 calls are answered, by HTTP/2 and with a certificate that is checked"
        )
        let redirect = try await self.world.curlOutside(
            options + ["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://\(host)/"]
        ).standardOutput
        self.journal.check(redirect == "301 https://\(host)/", "without TLS the answer is \(redirect)")
        self.journal.numbers("first answer after \(elapsed), then \(good) of 50 by HTTP/2")
    }

    // MARK: Helpers

    private func load(from node: String, _ arguments: [String]) async throws -> Document {
        let client = try self.world.node(node).client.name
        self.journal.command("edgemesh lab app client \(arguments.joined(separator: " "))", on: client)
        return try await self.world.runClient(on: node, arguments)
    }

    /// Calls for five seconds, in which `fault` happens.
    private func underLoad(
        from: String,
        to: String,
        _ fault: () async throws -> Void
    ) async throws -> (lost: Int64, text: String) {
        let target = "\(try self.world.node(to).clusterIP):80"
        async let load = self.load(
            from: from,
            ["http", "--target", target, "--seconds", "5", "--connections", "4", "--interval", "5"]
        )
        try await Task.sleep(for: .seconds(1))
        try await fault()
        let report = try await load
        let (lost, succeeded) = (report["failed"]?.integer ?? -1, report["succeeded"]?.integer ?? 0)
        return (lost, "\(lost) of \(succeeded + max(0, lost)) calls lost")
    }

    private func path(from: String, to: String) async throws -> String {
        let path = try await self.world.path(from: from, to: to)
        guard let kind = path?["kind"]?.string else { return "no path" }
        return path?["relay"]?.string.map { "\(kind) by \($0)" } ?? kind
    }
}
