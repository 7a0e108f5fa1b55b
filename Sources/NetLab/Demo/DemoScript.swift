import Documents
import Glibc
import MeshCore

/// The steps of the demo between the building of the lab and its end.
struct DemoScript {
    let node: NodeLab
    let journal: DemoJournal

    private var client: String { self.node.layout.client.name }
    private static let clusterIP = "10.96.0.10"

    func run() async {
        var agent: LabProcess?
        let isServing = await self.journal.step("Apply the manifests and start the agent") {
            agent = try await self.startAgent()
        }
        guard isServing, let agent else { return }
        await self.journal.step("Resolve names with dig") { try await self.resolve() }
        await self.journal.step("Round robin with curl") { try await self.roundRobin() }
        await self.journal.step("Random with curl") { try await self.random() }
        await self.journal.step("Consistent hash of the source with curl") { try await self.consistentHash() }
        await self.journal.step("Other protocols, and from outside") { try await self.protocols() }
        await self.journal.step("Ask the agent how it serves") { try await self.status() }
        await self.journal.step("Kill a backend") { try await self.killBackend() }
        await self.journal.step("Kill the agent with -9") { try await self.killAgent(agent) }
        var restarted: LabProcess?
        await self.journal.step("Restart the agent without the API") { restarted = try await self.restartOffline() }
        if let restarted {
            await self.journal.step("Stop the agent") { try await self.stop(restarted) }
        }
    }

    // MARK: Steps

    private func startAgent() async throws -> LabProcess {
        let files = Files.names(in: self.node.manifestsDirectory)
        self.journal.command("ls \(self.node.manifestsDirectory)", on: self.node.layout.node)
        self.journal.fact(files.joined(separator: "  "))
        self.journal.command(
            self.node.agentCommand(withManifests: true).joined(separator: " "),
            on: self.node.layout.node
        )
        let started = MonotonicTime.now()
        let agent = try self.node.startAgent()
        try await self.node.waitUntilServing(agent)
        self.journal.check(true, "names and services answer \(milliseconds(since: started)) after its start")
        return agent
    }

    private func resolve() async throws {
        let full = try await self.dig(["hostname-svc.default.svc.cluster.local"])
        self.journal.check(full == [Self.clusterIP], "the service's name has the address \(Self.clusterIP)")
        let short = try await self.dig(["+search", "hostname-svc"])
        self.journal.check(short == [Self.clusterIP], "so has its short name, by the pod's search path")
        let port = try await self.dig(["_http._tcp.hostname-svc.default.svc.cluster.local", "SRV"])
        self.journal.check(
            port == ["0 100 12345 hostname-svc.default.svc.cluster.local."],
            "its SRV record tells port 12345"
        )
        let reverse = try await self.dig(["-x", Self.clusterIP])
        self.journal.check(reverse == ["hostname-svc.default.svc.cluster.local."], "the address has its name")
        let command = ["dig", "nothing.default.svc.cluster.local"]
        self.journal.command(command.joined(separator: " "), on: self.client)
        let missing = try await self.node.lab.output(on: self.client, command)
        self.journal.check(missing.contains("status: NXDOMAIN"), "a name that is not there is answered NXDOMAIN")
    }

    private func roundRobin() async throws {
        let spread = try await self.curl("http://hostname-lb-roundrobin:12345/", times: 30)
        let difference = (spread.values.max() ?? 0) - (spread.values.min() ?? 0)
        self.journal.check(
            spread.count == self.node.layout.backends.count && difference <= 1,
            "30 calls go to the \(self.node.layout.backends.count) backends in turn"
        )
    }

    private func random() async throws {
        let backends = self.node.layout.backends.count
        let spread = try await self.curl("http://hostname-lb-random:12345/", times: 300)
        let fair = 300 / backends
        // Six standard deviations of a fair choice: a wrong verdict in a thousand million runs.
        let slack = Int(6 * (Double(fair) * (1 - 1 / Double(backends))).squareRoot()) + 1
        let isFair = spread.count == backends && spread.values.allSatisfy { abs($0 - fair) <= slack }
        self.journal.check(isFair, "300 calls fall on each backend with the same chance (\(fair) +- \(slack))")
    }

    private func consistentHash() async throws {
        var reached: Set<String> = []
        var isSticky = true
        for number in 0..<UInt32(self.node.layout.clientAddresses) {
            let source = IPv4Address(rawValue: self.node.layout.client.address.rawValue + number)
            let spread = try await self.curl(
                "http://hostname-lb-consistenthash:12345/",
                times: 10,
                options: ["--interface", "\(source)"]
            )
            isSticky = isSticky && spread.count == 1
            reached.formUnion(spread.keys)
        }
        self.journal.check(isSticky, "all calls of one client address go to one backend")
        self.journal.check(reached.count > 1, "other client addresses go to other backends")
    }

    private func protocols() async throws {
        let banner = try await self.shell("echo ping | socat -t2 - TCP:tcp-echo-service:2701", on: self.client)
        self.journal.check(banner.contains("ping") && banner.contains("Welcome"), "TCP, where the server speaks first")
        let udp = try await self.shell("echo who | socat -t0.5 - UDP:hostname-udp-svc:12345", on: self.client)
        self.journal.check(udp.hasPrefix("backend-"), "UDP")
        // curl waits for frames after the upgrade until its time is over: exit code 28.
        let upgrade = try await self.shell(
            "curl -sS -i -m 1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "
                + "-H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://ws-svc:12348/ || true",
            on: self.client
        )
        self.journal.check(upgrade.contains("101 Switching Protocols"), "WebSocket")
        let nodePort = "http://\(self.node.layout.nodeAddress):\(NodeLabManifests.nodePort)/"
        let spread = try await self.curl(nodePort, times: 30, on: self.node.layout.outside)
        self.journal.check(
            spread.values.reduce(0, +) == 30 && spread.count > 1,
            "a host outside of the cluster reaches the service by its node port"
        )
    }

    private func status() async throws {
        let text = try await self.edgemesh(["status"])
        self.journal.fact(text)
        self.journal.check(text.contains("hostname-svc"), "services, policies and paths are shown")
    }

    private func killBackend() async throws {
        let victim = self.node.layout.backends[self.node.layout.backends.count - 1].name
        self.journal.command("kill -9 \(self.node.backendProcessID(victim) ?? 0)   # the hostname server", on: victim)
        try await self.node.killBackend(victim)
        let before = try await self.curlCounting("http://hostname-svc:12345/", times: 30)
        self.journal.fact("while its endpoint is still there, \(before.lost) of 30 calls are lost")

        self.journal.command(
            "rm \(self.node.manifestsDirectory)/\(NodeLabManifests.podFile(victim))",
            on: self.node.layout.node
        )
        let removed = MonotonicTime.now()
        try self.node.deletePod(victim)
        let rest = self.node.layout.backends.count - 1
        try await self.node.lab.wait(for: "the endpoint of \(victim) to go", within: .seconds(10)) {
            let burst = try await self.node.runClient(
                ["http", "--target", "\(Self.clusterIP):12345", "--requests", "\(rest * 8)"],
                on: self.client
            )
            return burst["failed"]?.integer == 0
        }
        self.journal.fact("the endpoint is gone \(milliseconds(since: removed)) after its pod")
        let after = try await self.curlCounting("http://hostname-svc:12345/", times: 300)
        self.journal.check(after.lost == 0, "after its endpoint has gone, \(after.lost) of 300 calls are lost")
    }

    private func killAgent(_ agent: LabProcess) async throws {
        let arguments = [
            "http", "--target", "\(Self.clusterIP):12345", "--seconds", "2", "--connections", "4", "--interval", "2",
        ]
        self.journal.command("edgemesh lab app client \(arguments.joined(separator: " ")) &", on: self.client)
        async let load = self.node.runClient(arguments, on: self.client)
        try await Task.sleep(for: .milliseconds(500))
        self.journal.command("kill -9 \(agent.processID)   # the agent", on: self.node.layout.node)
        try await agent.kill()
        let calls = try await self.curlCounting("http://\(Self.clusterIP):12345/", times: 100)
        self.journal.check(calls.lost == 0, "without the agent, \(calls.lost) of 100 calls by address are lost")
        try await self.judge(load)
    }

    private func restartOffline() async throws -> LabProcess {
        let arguments = [
            "http", "--target", "\(Self.clusterIP):12345", "--seconds", "3", "--connections", "4", "--interval", "2",
        ]
        async let load = self.node.runClient(arguments, on: self.client)
        self.journal.command(
            self.node.agentCommand(withManifests: false).joined(separator: " "),
            on: self.node.layout.node
        )
        let started = MonotonicTime.now()
        let agent = try self.node.startAgent(withManifests: false)
        try await self.node.waitUntilServing(agent, within: .seconds(5))
        self.journal.check(
            MonotonicTime.now() - started < .seconds(3),
            "names and services answer \(milliseconds(since: started)) after its start, from the state on disk"
        )
        let spread = try await self.curl("http://hostname-lb-roundrobin:12345/", times: 30)
        self.journal.check(
            spread.count == self.node.layout.backends.count - 1 && spread.values.reduce(0, +) == 30,
            "the backends are those of before"
        )
        try await self.judge(load)
        return agent
    }

    private func stop(_ agent: LabProcess) async throws {
        self.journal.command("kill \(agent.processID)   # the agent", on: self.node.layout.node)
        let started = MonotonicTime.now()
        let status = try await agent.stop(grace: .seconds(10))
        self.journal.check(status.isSuccess, "it ends after \(milliseconds(since: started)) with \(status)")
        let rules = try await self.shell("nft list tables; iptables-save 2>/dev/null", on: self.node.layout.node)
        self.journal.check(!rules.lowercased().contains("edgemesh"), "no rule of it is left on the node")
    }

    // MARK: Helpers

    private func judge(_ load: Document) {
        let succeeded = load["succeeded"]?.integer ?? 0
        let failed = load["failed"]?.integer ?? -1
        self.journal.check(
            failed == 0 && succeeded > 50,
            "of \(succeeded + max(0, failed)) calls that went on all the time, \(failed) are lost"
        )
        if let failures = load["failures"]?.members, !failures.isEmpty {
            self.journal.fact(failures.map { "\($0.key): \($0.value.integer ?? 0)" }.joined(separator: "\n"))
        }
    }

    private func dig(_ arguments: [String]) async throws -> [String] {
        self.journal.command("dig +short \(arguments.joined(separator: " "))", on: self.client)
        let answer = try await self.node.dig(arguments)
        self.journal.fact(answer.isEmpty ? "(no answer)" : answer.joined(separator: "\n"))
        return answer
    }

    private func shell(_ script: String, on host: String) async throws -> String {
        self.journal.command(script, on: host)
        let output = try await self.node.lab.output(on: host, ["sh", "-c", script])
        self.journal.fact(output.isEmpty ? "(nothing)" : output)
        return output
    }

    private func edgemesh(_ arguments: [String]) async throws -> String {
        let arguments = ["edgemesh"] + arguments + ["--socket", self.node.adminSocket]
        self.journal.command(arguments.joined(separator: " "), on: self.node.layout.node)
        return try await self.node.runTool(arguments)
    }

    /// Calls `url` with a new connection for each call, and shows who answered how often.
    private func curl(
        _ url: String,
        times: Int,
        options: [String] = [],
        on host: String? = nil
    ) async throws -> [String: Int] {
        let calls = try await self.curlCounting(url, times: times, options: options, on: host)
        if calls.lost > 0 { self.journal.fail("\(calls.lost) of \(times) calls were lost: \(calls.said)") }
        return calls.spread
    }

    private func curlCounting(
        _ url: String,
        times: Int,
        options: [String] = [],
        on host: String? = nil
    ) async throws -> (spread: [String: Int], lost: Int, said: String) {
        let host = host ?? self.client
        let command =
            ["curl", "-sS", "--max-time", "2", "-H", "Connection: close"] + options + ["\(url)?call=[1-\(times)]"]
        let shown = command.map { $0.contains(" ") || $0.contains("[") ? "'\($0)'" : $0 }.joined(separator: " ")
        self.journal.command(shown, on: host)
        let output = try await self.node.lab.run(on: host, command, deadline: .seconds(90))
        let spread = output.lines.reduce(into: [String: Int]()) { $0[$1, default: 0] += 1 }
        let counts = spread.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        self.journal.fact(counts.isEmpty ? "(no answer)" : counts.joined(separator: "   "))
        let said = output.standardError.split(separator: "\n").first.map(String.init) ?? ""
        return (spread, times - output.lines.count, said)
    }
}
