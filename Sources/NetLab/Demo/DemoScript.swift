import Documents
import Glibc
import MeshCore

/// The steps of the demo between the building of the lab and its end.
struct DemoScript {
    let node: NodeLab
    let journal: DemoJournal

    private var client: String { self.node.layout.client.name }
    private static let clusterIP = "10.96.0.10"
    /// The agent serves a name and a call within this time of its start, with room for a busy machine.
    private static let firstAnswer = Duration.seconds(2)

    func run() async {
        let journal = self.journal
        var agent: LabProcess?
        let isServing = await journal.step("Start the agent", "edgemesh-agent --manifests=DIR") {
            agent = try await self.startAgent()
        }
        guard isServing, let agent else { return }
        await journal.step("Resolve names", "dig hostname-svc") { try await self.resolve() }
        await journal.step("Round robin", "curl hostname-lb-roundrobin:12345  30 times") { try await self.roundRobin() }
        await journal.step("Random", "curl hostname-lb-random:12345  300 times") { try await self.random() }
        await journal.step("Consistent hash", "curl hostname-lb-consistenthash:12345") {
            try await self.consistentHash()
        }
        await journal.step("UDP, WebSocket, node port", "socat; curl NODE:\(NodeLabManifests.nodePort)") {
            try await self.protocols()
        }
        await journal.step("Ask the agent", "edgemesh status") { try await self.status() }
        await journal.step("Kill a backend", "kill -9 BACKEND; rm its pod's manifest") { try await self.killBackend() }
        await journal.step("Kill the agent", "kill -9 AGENT, under load") { try await self.killAgent(agent) }
        var restarted: LabProcess?
        await journal.step("Start it without a source", "edgemesh-agent, its API does not answer") {
            restarted = try await self.restartOffline()
        }
        if let restarted {
            await journal.step("Stop the agent", "kill AGENT; nft list tables") { try await self.stop(restarted) }
        }
    }

    // MARK: Steps

    private func startAgent() async throws -> LabProcess {
        let files = Files.names(in: self.node.manifestsDirectory)
        self.journal.command("ls \(self.node.manifestsDirectory)", on: self.node.layout.node)
        self.journal.fact(files.joined(separator: "  "))
        return try await self.startAgent(withManifests: true, from: "")
    }

    private func startAgent(withManifests: Bool, from origin: String) async throws -> LabProcess {
        self.journal.command(
            self.node.agentCommand(withManifests: withManifests).joined(separator: " "),
            on: self.node.layout.node
        )
        let started = MonotonicTime.now()
        let agent = try self.node.startAgent(withManifests: withManifests)
        try await self.node.waitUntilServing(agent, within: .seconds(5))
        let elapsed = milliseconds(since: started)
        self.journal.numbers("first answers after \(elapsed)\(origin)")
        self.journal.check(
            MonotonicTime.now() - started < Self.firstAnswer,
            "a name and a call are answered \(elapsed) after its start"
        )
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
        self.journal.numbers("\(Self.clusterIP); short name, SRV, PTR and NXDOMAIN too")
    }

    private func roundRobin() async throws {
        let spread = try await self.curl("http://hostname-lb-roundrobin:12345/", times: 30)
        let difference = (spread.values.max() ?? 0) - (spread.values.min() ?? 0)
        self.journal.numbers(Self.describe(spread))
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
        self.journal.numbers(Self.describe(spread))
        self.journal.check(isFair, "300 calls fall on each backend with the same chance (\(fair) +- \(slack))")
    }

    private func consistentHash() async throws {
        var reached: [String: Int] = [:]
        var isSticky = true
        for number in 0..<UInt32(self.node.layout.clientAddresses) {
            let source = IPv4Address(rawValue: self.node.layout.client.address.rawValue + number)
            let spread = try await self.curl(
                "http://hostname-lb-consistenthash:12345/",
                times: 10,
                options: ["--interface", "\(source)"]
            )
            isSticky = isSticky && spread.count == 1
            for backend in spread.keys { reached[backend, default: 0] += 1 }
        }
        self.journal.numbers("\(self.node.layout.clientAddresses) clients: \(Self.describe(reached))")
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
        self.journal.numbers("all answer; from outside: \(Self.describe(spread))")
        self.journal.check(
            spread.values.reduce(0, +) == 30 && spread.count > 1,
            "a host outside of the cluster reaches the service by its node port"
        )
    }

    private func status() async throws {
        let text = try await self.edgemesh(["status"])
        self.journal.fact(text)
        self.journal.check(text.contains("hostname-svc"), "services, policies and paths are shown")
        let status = try await self.node.status()
        let paths = (status["services"]?.array ?? []).compactMap { $0["path"]?.string }
        let counts = paths.reduce(into: [:]) { $0[$1.isEmpty ? "no path" : $1, default: 0] += 1 }
        self.journal.numbers("\(paths.count) services by path: \(Self.describe(counts))")
    }

    private func killBackend() async throws {
        let victim = self.node.layout.backends[self.node.layout.backends.count - 1]
        let number = self.node.backendProcessID(victim.name) ?? 0
        self.journal.command("kill -9 \(number)   # the hostname server", on: victim.name)
        try await self.node.killBackend(victim.name)
        let before = try await self.curlCounting("http://hostname-svc:12345/", times: 30)
        self.journal.fact("while its endpoint is still there, \(before.lost) of 30 calls are lost")

        let manifest = "\(self.node.manifestsDirectory)/\(NodeLabManifests.podFile(victim.name))"
        self.journal.command("rm \(manifest)", on: self.node.layout.node)
        let removed = MonotonicTime.now()
        try self.node.deletePod(victim.name)
        let rest = self.node.layout.backends.count - 1
        try await self.node.lab.wait(for: "the endpoint of \(victim.name) to go", within: .seconds(10)) {
            let burst = try await self.node.runClient(
                ["http", "--target", "\(Self.clusterIP):12345", "--requests", "\(rest * 8)"],
                on: self.client
            )
            return burst["failed"]?.integer == 0
        }
        let elapsed = milliseconds(since: removed)
        self.journal.fact("the endpoint is gone \(elapsed) after its pod")
        let after = try await self.curlCounting("http://hostname-svc:12345/", times: 300)
        self.journal.numbers("its endpoint goes within \(elapsed); then \(after.lost) of 300 calls lost")
        self.journal.check(after.lost == 0, "after its endpoint has gone, \(after.lost) of 300 calls are lost")
        // Written some seconds after the last change: what the next start without a source finds.
        try await self.node.waitUntilStored { !$0.contains("\"\(victim.address)\"") }
        self.journal.fact("the state on disk has followed \(milliseconds(since: removed)) after the pod went")
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
        let lost = try await self.judge(load)
        self.journal.numbers("without it \(calls.lost) of 100 calls lost; \(lost) under load")
    }

    private func restartOffline() async throws -> LabProcess {
        let arguments = [
            "http", "--target", "\(Self.clusterIP):12345", "--seconds", "3", "--connections", "4", "--interval", "2",
        ]
        async let load = self.node.runClient(arguments, on: self.client)
        self.journal.fact("kubeAPIConfig.master is \(self.node.layout.silentAPI), where nobody answers")
        let agent = try await self.startAgent(withManifests: false, from: ", from disk")
        let spread = try await self.curl("http://hostname-lb-roundrobin:12345/", times: 30)
        self.journal.check(
            spread.count == self.node.layout.backends.count - 1 && spread.values.reduce(0, +) == 30,
            "the backends are those of before"
        )
        let state = try await self.node.status()["agent"]?["state"]?.string ?? ""
        self.journal.check(state == "stale", "the agent says that its state is \(state)")
        try await self.judge(load)
        return agent
    }

    private func stop(_ agent: LabProcess) async throws {
        self.journal.command("kill \(agent.processID)   # the agent", on: self.node.layout.node)
        let started = MonotonicTime.now()
        let status = try await agent.stop(grace: .seconds(10))
        let elapsed = milliseconds(since: started)
        self.journal.check(status.isSuccess, "it ends after \(elapsed) with \(status)")
        let rules = try await self.shell("nft list tables; iptables-save 2>/dev/null", on: self.node.layout.node)
        self.journal.check(!rules.lowercased().contains("edgemesh"), "no rule of it is left on the node")
        self.journal.numbers("ended after \(elapsed), no rule left")
    }

    // MARK: Helpers

    private static func describe(_ counts: [String: Int]) -> String {
        counts.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    }

    /// - Returns: The calls that were lost, of how many.
    @discardableResult
    private func judge(_ load: Document) -> String {
        let succeeded = load["succeeded"]?.integer ?? 0
        let failed = load["failed"]?.integer ?? -1
        let lost = "\(failed) of \(succeeded + max(0, failed))"
        self.journal.check(failed == 0 && succeeded > 50, "of the calls that went on all the time, \(lost) are lost")
        if let failures = load["failures"]?.members, !failures.isEmpty {
            self.journal.fact(failures.map { "\($0.key): \($0.value.integer ?? 0)" }.joined(separator: "\n"))
        }
        return lost
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
        self.journal.fact(spread.isEmpty ? "(no answer)" : Self.describe(spread))
        let said = output.standardError.split(separator: "\n").first.map(String.init) ?? ""
        return (spread, times - output.lines.count, said)
    }
}
