import Documents
import Glibc
import MeshCore
import NetLab

/// What it costs to reach a pod of another node by the tunnel, directly and by a relay, beside the kernel's own path through the
/// same namespaces and beside agents of v1.17 in the same scenario, if a program of it is named.
struct TunnelBenchmark {
    var path: TunnelLab.Path
    /// Seconds of each throughput run.
    var seconds: Int
    var requests: Int
    var idleConnections: Int
    var rounds: Int
    /// The agent of v1.17.
    var original: String?

    private static let mostConnections = 15_000
    /// v1.17 refuses further connections after seconds each: enough to see where that begins.
    private static let mostConnectionsOfOriginal = 1500

    private enum Measure: CaseIterable {
        case throughput, cpu, median, tail, openerMemory, acceptorMemory, connections
        case startOfCaller, startOfCalled, relayKilled, relayCut, callsHeld

        var name: String {
            switch self {
            case .throughput: "throughput, one connection"
            case .cpu: "CPU of all agents"
            case .median: "connection and request, p50"
            case .tail: "connection and request, p99"
            case .openerMemory: "memory per idle connection, opener"
            case .acceptorMemory: "memory per idle connection, acceptor"
            case .connections: "connections to one peer at once"
            case .startOfCaller: "start to first byte, caller's agent"
            case .startOfCalled: "start to first byte, agent of the called"
            case .relayKilled: "relay killed, longest wait for an answer"
            case .relayCut: "relay silent, until calls are answered"
            case .callsHeld: "relay silent, until open calls have ended"
            }
        }

        var unit: String {
            switch self {
            case .throughput: "MB/s"
            case .cpu: "s/GB"
            case .median, .tail: "ms"
            case .openerMemory, .acceptorMemory: "KiB"
            case .connections: ""
            case .startOfCaller, .startOfCalled, .relayKilled, .relayCut, .callsHeld: "s"
            }
        }

        func budget(_ path: TunnelLab.Path) -> Figure.Budget? {
            switch self {
            case .throughput: path == .direct ? .atLeast(1000) : nil
            case .cpu, .callsHeld: nil
            case .median: path == .direct ? .atMost(0.3) : nil
            case .tail: path == .direct ? .atMost(1) : nil
            case .openerMemory, .acceptorMemory: .atMost(6)
            case .connections: .atLeast(Double(TunnelBenchmark.mostConnections))
            case .startOfCaller, .startOfCalled: .atMost(2)
            case .relayKilled, .relayCut: .atMost(3)
            }
        }
    }

    private struct Results {
        private(set) var values: [Measure: Double] = [:]

        /// Keeps the best of several runs of what is done all the time, and the worst of what happens once.
        mutating func add(_ measure: Measure, _ value: Double) {
            let kept =
                switch measure {
                case .throughput, .startOfCaller, .startOfCalled, .relayKilled, .relayCut, .callsHeld: Double.maximum
                case .cpu, .median, .tail, .openerMemory, .acceptorMemory, .connections: Double.minimum
                }
            self.values[measure] = self.values[measure].map { kept($0, value) } ?? value
        }
    }

    func run(program: String, into report: inout Report) async {
        var kernel = Results()
        let ours = await self.measure(program: program, original: nil, kernel: &kernel, into: &report)
        var theirs = Results()
        if let original {
            var unused = Results()
            theirs = await self.measure(program: program, original: original, kernel: &unused, into: &report)
        } else {
            report.skip("\(self.path.rawValue), v1.17", "EDGEMESH_ORIGINAL_AGENT names no program")
        }
        for measure in Measure.allCases {
            guard let value = ours.values[measure] else { continue }
            let peers = [("kernel", kernel), ("v1.17", theirs)].compactMap { name, results in
                results.values[measure].map { (name: name, value: $0) }
            }
            let name = "\(self.path.rawValue): \(measure.name)"
            let budget = measure.budget(self.path)
            report.add(name, value, measure.unit, peer: peers.first, budget: budget)
            for peer in peers.dropFirst() { report.add(name, value, measure.unit, peer: peer) }
        }
        do {
            try await self.measureUnpaced(program: program, into: &report)
        } catch {
            report.skip("\(self.path.rawValue), unpaced", "\(error)")
        }
    }

    /// What fails is told in the report, and the rest is measured.
    private func measure(
        program: String,
        original: String?,
        kernel: inout Results,
        into report: inout Report
    ) async -> Results {
        let whose = original == nil ? "" : " with v1.17"
        var results = Results()
        let path = self.path
        func attempt(_ name: String, _ body: (inout Results) async throws -> Void) async {
            writeError("measuring \(path.rawValue)\(whose): \(name) …\n")
            let before = results
            do { try await body(&results) } catch { report.skip("\(path.rawValue)\(whose): \(name)", "\(error)") }
            for measure in Measure.allCases {
                guard let value = results.values[measure], value != before.values[measure] else { continue }
                writeError("    \(measure.name): \(Report.number(value)) \(measure.unit)\n")
            }
        }
        var built: TunnelLab?
        await attempt("a call") { _ in
            built = try await TunnelLab.start(path, program: program, original: original)
        }
        guard let lab = built else { return results }
        defer { try? lab.world.remove() }
        if original == nil, path == .relayed {
            await attempt("start") { try await self.measureStart(lab, into: &$0) }
        }
        await attempt("traffic") { results in
            for _ in 0..<self.rounds {
                try await self.measureTraffic(lab, into: &results)
                if path == .direct, original == nil { try await self.measureKernel(lab, into: &kernel) }
            }
        }
        await attempt("memory") { try await self.measureMemory(lab, into: &$0) }
        if path == .direct {
            await attempt("connections at once") { results in
                let most = original == nil ? Self.mostConnections : Self.mostConnectionsOfOriginal
                try await self.measureConnections(lab, most: most, into: &results)
            }
        } else if original == nil {
            await attempt("a relay killed") { try await self.measureFailover(lab, .relayKilled, into: &$0) }
            await attempt("a relay cut off") { try await self.measureFailover(lab, .relayCut, into: &$0) }
        }
        return results
    }

    // MARK: Traffic

    private func measureTraffic(_ lab: TunnelLab, into results: inout Results) async throws {
        try await self.measureThroughput(lab, try lab.service("east", TunnelLab.bulkPort), into: &results)
        try await self.measureLatency(lab, try lab.service("east", TunnelLab.httpPort), into: &results)
    }

    /// The same without agents, to the node instead of its pod.
    private func measureKernel(_ lab: TunnelLab, into results: inout Results) async throws {
        let node = "\(try lab.world.node("east").address)"
        try await self.measureThroughput(lab, "\(node):\(TunnelLab.bulkPort)", into: &results)
        try await self.measureLatency(lab, "\(node):\(TunnelLab.nodeHTTPPort)", into: &results)
    }

    /// A machine whose congestion control paces (BBR) has its kernel set a timer for each burst that an application sends, which
    /// costs more than the tunnel does for the same bytes. So there the traffic is measured once more where nothing is paced.
    private func measureUnpaced(program: String, into report: inout Report) async throws {
        guard try readText("/proc/sys/net/ipv4/tcp_congestion_control").hasPrefix("bbr") else { return }
        writeError("measuring \(self.path.rawValue) without pacing …\n")
        let lab = try await TunnelLab.start(self.path, program: program, congestionControl: "reno")
        defer { try? lab.world.remove() }
        var (tunnel, kernel) = (Results(), Results())
        for _ in 0..<self.rounds {
            try await self.measureTraffic(lab, into: &tunnel)
            if self.path == .direct { try await self.measureKernel(lab, into: &kernel) }
        }
        for measure in Measure.allCases {
            guard let value = tunnel.values[measure] else { continue }
            let peer = kernel.values[measure].map { (name: "kernel", value: $0) }
            let name = "\(self.path.rawValue), unpaced: \(measure.name)"
            report.add(name, value, measure.unit, peer: peer, budget: measure.budget(self.path))
        }
    }

    private func measureThroughput(_ lab: TunnelLab, _ target: String, into results: inout Results) async throws {
        let before = try ProcessUsage.total(of: lab.agents()).cpu
        let transfer = try await lab.client(["throughput", "--target", target, "--seconds", "\(self.seconds)"])
        let cpu = try ProcessUsage.total(of: lab.agents()).cpu - before
        results.add(.throughput, try transfer.number("megabytesPerSecond"))
        // On the kernel's own path the agents stand still.
        if cpu > .milliseconds(100) {
            results.add(.cpu, cpu.inSeconds / (try transfer.number("bytes") / 1e9))
        }
    }

    private func measureLatency(_ lab: TunnelLab, _ target: String, into results: inout Results) async throws {
        _ = try await lab.client(["http", "--target", target, "--requests", "200"])
        let calls = try await lab.client(["http", "--target", target, "--requests", "\(self.requests)"])
        results.add(.median, try calls.number("latencyMicroseconds", "p50") / 1000)
        results.add(.tail, try calls.number("latencyMicroseconds", "p99") / 1000)
    }

    // MARK: Connections held

    private func measureMemory(_ lab: TunnelLab, into results: inout Results) async throws {
        let (opener, acceptor) = (try lab.agent(of: "west").processID, try lab.agent(of: "east").processID)
        // What the first connections make grow stays.
        _ = try await self.hold(200, lab) {}
        try await Task.sleep(for: .seconds(2))
        let before = (try ProcessUsage(of: opener), try ProcessUsage(of: acceptor))
        var after = before
        let count = lab.isOurs ? self.idleConnections : 400
        _ = try await self.hold(count, lab) {
            after = (try ProcessUsage(of: opener), try ProcessUsage(of: acceptor))
        }
        func each(_ before: ProcessUsage, _ after: ProcessUsage) -> Double {
            max(0, Double(after.resident) - Double(before.resident)) / 1024 / Double(count)
        }
        results.add(.openerMemory, each(before.0, after.0))
        results.add(.acceptorMemory, each(before.1, after.1))
    }

    private func measureConnections(_ lab: TunnelLab, most: Int, into results: inout Results) async throws {
        let target = try lab.service("east", TunnelLab.httpPort)
        let report = try await self.hold(most, lab) {
            // What is held leaves room for others.
            if lab.isOurs { _ = try await lab.client(["http", "--target", target, "--requests", "100"]) }
        }
        results.add(.connections, try report.number("succeeded"))
        if try report.number("failed") > 0 { writeError("    \(report["failures"]?.jsonText() ?? "")\n") }
    }

    /// Opens connections that carry nothing, calls `body` once the far agent has dialled for all of them, or for as many as it
    /// does, and waits until they are closed.
    private func hold(_ count: Int, _ lab: TunnelLab, _ body: () async throws -> Void) async throws -> Document {
        let acceptor = try lab.agent(of: "east").processID
        let before = try Self.descriptors(of: acceptor)
        let arguments = [
            "idle", "--target", try lab.service("east", TunnelLab.bulkPort), "--connections", "\(count)", "--seconds",
            "12",
        ]
        async let report = lab.world.runClient(on: "west", arguments, deadline: .seconds(240))
        let end = MonotonicTime.now() + .seconds(180)
        var seen = (count: before, at: MonotonicTime.now())
        while seen.count < before + count, MonotonicTime.now() < end {
            try await Task.sleep(for: .milliseconds(100))
            let now = try Self.descriptors(of: acceptor)
            if now > seen.count { seen = (now, .now()) }
            // It takes no more.
            if MonotonicTime.now() - seen.at > .seconds(8) { break }
        }
        try await Task.sleep(for: .seconds(1))
        try await body()
        return try await report
    }

    private static func descriptors(of processID: Int32) throws -> Int {
        guard let folder = opendir("/proc/\(processID)/fd") else {
            throw BenchmarkError("cannot list the descriptors of process \(processID): errno \(errno)")
        }
        defer { closedir(folder) }
        var count = 0
        while readdir(folder) != nil { count += 1 }
        return count
    }

    // MARK: Relays

    /// From the start of an agent without a state to the first byte through the relay.
    private func measureStart(_ lab: TunnelLab, into results: inout Results) async throws {
        for (node, measure) in [("west", Measure.startOfCaller), ("east", .startOfCalled)] {
            for _ in 0..<self.rounds {
                try await lab.world.stopAgent(of: node)
                try await lab.world.lab.output(on: node, ["rm", "-rf", "\(lab.world.lab.directory)/\(node).state"])
                let begin = MonotonicTime.now()
                try lab.world.startAgent(of: node)
                _ = try await lab.timeUntilAnswer(from: "west", to: "east", within: .seconds(60))
                results.add(measure, (MonotonicTime.now() - begin).inSeconds)
            }
        }
    }

    /// The longest that one of several callers waits for an answer while the relay in use goes away.
    private func measureFailover(_ lab: TunnelLab, _ measure: Measure, into results: inout Results) async throws {
        for _ in 0..<self.rounds {
            let load = [
                "http", "--target", try lab.service("east", TunnelLab.httpPort), "--connections", "4", "--interval",
                "10", "--seconds", "20",
            ]
            // Some give up a call after half a second and try anew; others wait for what becomes of theirs.
            async let calls = lab.world.runClient(on: "west", load + ["--timeout", "500"])
            async let patientCalls = lab.world.runClient(on: "west", load + ["--timeout", "30000"])
            try await Task.sleep(for: .seconds(2))
            let path = try await lab.world.path(from: "west", to: "east")
            guard let relay = path?["relay"]?.string else {
                throw BenchmarkError("west does not say by which relay it reaches east")
            }
            writeError("    \(relay) carries \(path?["flows"]?.jsonText() ?? "no") flows of west\n")
            if measure == .relayKilled {
                try await lab.world.killAgent(of: relay)
            } else {
                try lab.world.pauseAgent(of: relay)
            }
            results.add(measure, try await calls.number("longestGapMicroseconds") / 1e6)
            let held = try await patientCalls.number("longestGapMicroseconds") / 1e6
            if measure == .relayCut { results.add(.callsHeld, held) }
            if measure == .relayKilled {
                try lab.world.startAgent(of: relay)
            } else {
                try lab.world.resumeAgent(of: relay)
            }
            // Until both ends have a reservation with it again.
            try await Task.sleep(for: .seconds(10))
        }
    }
}
