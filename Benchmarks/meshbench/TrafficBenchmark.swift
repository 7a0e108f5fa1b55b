import Documents
import MeshCore
import NetLab

/// Throughput, latency and cost of connections over the kernel path and the user-space path, beside the same calls made
/// directly to the backend and through haproxy.
struct TrafficBenchmark {
    /// Seconds of each throughput run.
    var seconds: Int
    var requests: Int
    var idleConnections: Int

    private struct Path {
        var name: String
        var address: String
        var bulkPort = BenchmarkLab.bulkPort
        var httpPort = BenchmarkLab.httpPort
        /// The processes whose CPU time this path costs.
        var processes: [Int32] = []
    }

    private struct Result {
        var megabytesPerSecond = 0.0
        var cpuSecondsPerGigabyte = 0.0
        var p50 = 0.0
        var p99 = 0.0
        var cpuMicrosecondsPerConnection = 0.0
        var kibibytesPerIdleConnection = 0.0
    }

    func run(program: String, into report: inout Report) async throws {
        let bench = try await BenchmarkLab.start("bench-traffic", program: program)
        defer { try? bench.lab.remove() }
        let haproxy = try await self.startHAProxy(bench)

        let direct = try await self.measure(Path(name: "direct", address: BenchmarkLab.backendAddress), bench)
        let kernel = try await self.measure(Path(name: "kernel", address: BenchmarkLab.kernelService), bench)
        let user = try await self.measure(
            Path(name: "user", address: BenchmarkLab.userService, processes: [bench.agent.processID]),
            bench
        )
        let peer = try await self.measure(
            Path(
                name: "haproxy",
                address: BenchmarkLab.nodeAddress,
                bulkPort: 8001,
                httpPort: 8002,
                processes: [haproxy.processID]
            ),
            bench
        )
        let comparisons: [(String, Result, String, Result, Figure.Budget?)] = [
            ("kernel", kernel, "direct", direct, .ratioAtLeast(0.95)),
            ("user", user, "haproxy", peer, nil),
        ]
        for (name, path, other, reference, budget) in comparisons {
            func add(_ what: String, _ unit: String, _ figure: KeyPath<Result, Double>, _ budget: Figure.Budget? = nil)
            {
                report.add(
                    "\(name) path: \(what)",
                    path[keyPath: figure],
                    unit,
                    peer: (other, reference[keyPath: figure]),
                    budget: budget
                )
            }
            add("throughput", "MB/s", \.megabytesPerSecond, budget)
            add("request p50", "us", \.p50)
            add("request p99", "us", \.p99)
            guard name == "user" else { continue }
            add("CPU per GB", "s", \.cpuSecondsPerGigabyte, .atMost(0.35))
            add("CPU per connection", "us", \.cpuMicrosecondsPerConnection, .atMost(150))
            add("memory per idle connection", "KiB", \.kibibytesPerIdleConnection, .atMost(6))
        }
    }

    private func measure(_ path: Path, _ bench: BenchmarkLab) async throws -> Result {
        var result = Result()
        let bulk = "\(path.address):\(path.bulkPort)"
        let http = "\(path.address):\(path.httpPort)"
        // Warm: ARP, conntrack, the process's own buffers.
        _ = try await bench.client(["http", "--target", http, "--requests", "200"])

        let beforeBulk = try path.processes.isEmpty ? nil : ProcessUsage.total(of: path.processes)
        let transfer = try await bench.client(["throughput", "--target", bulk, "--seconds", "\(self.seconds)"])
        result.megabytesPerSecond = try transfer.number("megabytesPerSecond")
        if let beforeBulk {
            let cpu = try ProcessUsage.total(of: path.processes).cpu - beforeBulk.cpu
            result.cpuSecondsPerGigabyte = cpu.inSeconds / (try transfer.number("bytes") / 1e9)
        }

        let beforeCalls = try path.processes.isEmpty ? nil : ProcessUsage.total(of: path.processes)
        let calls = try await bench.client(
            ["http", "--target", http, "--connections", "1", "--requests", "\(self.requests)"]
        )
        result.p50 = try calls.number("latencyMicroseconds", "p50")
        result.p99 = try calls.number("latencyMicroseconds", "p99")
        if let beforeCalls {
            let after = try ProcessUsage.total(of: path.processes)
            result.cpuMicrosecondsPerConnection = (after.cpu - beforeCalls.cpu).inSeconds * 1e6 / Double(self.requests)
            let connections = self.idleConnections
            async let idle = bench.client(
                ["idle", "--target", bulk, "--connections", "\(connections)", "--seconds", "4"]
            )
            try await Task.sleep(for: .seconds(3))
            let holding = try ProcessUsage.total(of: path.processes)
            _ = try await idle
            let gained = Double(holding.resident) - Double(after.resident)
            result.kibibytesPerIdleConnection = max(0, gained) / 1024 / Double(connections)
        }
        return result
    }

    private func startHAProxy(_ bench: BenchmarkLab) async throws -> LabProcess {
        let path = "\(bench.lab.directory)/haproxy.cfg"
        try writeText(
            """
            global
              maxconn 9000
              nbthread 1
            defaults
              mode tcp
              timeout connect 5s
              timeout client 60s
              timeout server 60s
            listen bulk
              bind \(BenchmarkLab.nodeAddress):8001
              server backend \(BenchmarkLab.backendAddress):\(BenchmarkLab.bulkPort)
            listen http
              bind \(BenchmarkLab.nodeAddress):8002
              server backend \(BenchmarkLab.backendAddress):\(BenchmarkLab.httpPort)

            """,
            to: path
        )
        let haproxy = try bench.lab.start(on: "node", ["haproxy", "-db", "-f", path], log: "haproxy")
        try await bench.lab.waitForListener(haproxy, .tcp, port: 8001)
        return haproxy
    }
}
