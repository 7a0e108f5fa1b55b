import MeshCore
import NetLab

/// Answers per second of one processor core, for names of the cluster and for cached names of the outside world, beside
/// unbound and dnsmasq with the same names on the same core.
struct DNSBenchmark {
    /// Seconds of each run.
    var seconds: Int

    private static let serverCore = "1"
    private static let clientCore = "0"

    func run(program: String, into report: inout Report) async throws {
        // The upstream of all three caches, in the backend pod.
        let upstream = "\(BenchmarkLab.backendAddress):5300"
        let bench = try await BenchmarkLab.start(
            "bench-dns",
            program: program,
            processors: Self.serverCore,
            upstream: upstream
        )
        defer { try? bench.lab.remove() }
        let clusterNames = (0..<100).map { "name-\($0).bench.svc.cluster.local" }
        let outsideNames = (0..<100).map { "host-\($0).example.test" }
        let outsideRecords = outsideNames.map { "local-data: \"\($0). 3600 IN A 192.0.2.1\"" }

        _ = try await self.start(
            bench,
            on: "backend",
            name: "upstream",
            port: 5300,
            unbound: "interface: \(BenchmarkLab.backendAddress)@5300\n" + outsideRecords.joined(separator: "\n")
        )
        let clusterRecords = clusterNames.map { "local-data: \"\($0). 30 IN A 10.96.20.1\"" }
        _ = try await self.start(
            bench,
            on: "node",
            name: "unbound",
            port: 5301,
            unbound: "interface: \(BenchmarkLab.nodeAddress)@5301\n" + clusterRecords.joined(separator: "\n")
                + "\nforward-zone:\n name: \"example.test\"\n forward-addr: \(BenchmarkLab.backendAddress)@5300\n"
        )
        let dnsmasq = try bench.lab.start(
            on: "node",
            [
                "taskset", "-c", Self.serverCore, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts",
                "--bind-interfaces", "--listen-address=\(BenchmarkLab.nodeAddress)", "--port=5302", "--conf-file=",
                "--cache-size=10000", "--user=root", "--pid-file=", "--server=\(BenchmarkLab.backendAddress)#5300",
            ] + clusterNames.map { "--host-record=\($0),10.96.20.1" },
            log: "dnsmasq"
        )
        try await bench.lab.waitForListener(dnsmasq, .udp, port: 5302)

        for (what, names) in [("cluster names", clusterNames), ("cached names", outsideNames)] {
            let file = "\(bench.lab.directory)/queries-\(names.count)-\(what.prefix(2)).txt"
            try writeText(names.map { "\($0) A\n" }.joined(), to: file)
            let unbound = try await self.measure(bench, BenchmarkLab.nodeAddress, 5301, file)
            let masq = try await self.measure(bench, BenchmarkLab.nodeAddress, 5302, file)
            let before = try ProcessUsage(of: bench.agent.processID)
            let ours = try await self.measure(bench, BenchmarkLab.dnsAddress, 53, file)
            let cpu = try ProcessUsage(of: bench.agent.processID).cpu - before.cpu
            report.add("DNS, \(what), one core", ours, "queries/s", peer: ("unbound", unbound))
            report.add("DNS, \(what), one core", ours, "queries/s", peer: ("dnsmasq", masq))
            let answered = ours * Double(self.seconds)
            report.add("DNS, \(what), CPU per answer", cpu.inSeconds * 1e6 / max(1, answered), "us")
        }
    }

    /// Starts an unbound with `unbound` as the tail of its `server:` section.
    private func start(
        _ bench: BenchmarkLab,
        on host: String,
        name: String,
        port: UInt16,
        unbound: String
    ) async throws -> LabProcess {
        let path = "\(bench.lab.directory)/\(name).conf"
        try writeText(
            """
            server:
            username: ""
            chroot: ""
            pidfile: ""
            use-syslog: no
            num-threads: 1
            do-not-query-localhost: no
            module-config: "iterator"
            access-control: 0.0.0.0/0 allow
            local-zone: "test." nodefault
            \(unbound)

            """,
            to: path
        )
        let process = try bench.lab.start(
            on: host,
            ["taskset", "-c", Self.serverCore, "unbound", "-d", "-c", path],
            log: name
        )
        try await bench.lab.waitForListener(process, .udp, port: port)
        return process
    }

    /// Queries per second that dnsperf sees answered without error.
    private func measure(_ bench: BenchmarkLab, _ server: String, _ port: Int, _ file: String) async throws -> Double {
        func run(seconds: Int) async throws -> String {
            try await bench.lab.output(
                on: "client",
                [
                    "taskset", "-c", Self.clientCore, "dnsperf", "-s", server, "-p", "\(port)", "-d", file, "-l",
                    "\(seconds)", "-c", "4", "-q", "200",
                ],
                deadline: .seconds(60)
            )
        }
        _ = try await run(seconds: 1)
        let output = try await run(seconds: self.seconds)
        let lines = output.split(separator: "\n").map { $0.trimmingPrefix { $0 == " " } }
        guard let rate = lines.first(where: { $0.hasPrefix("Queries per second:") })?.split(separator: " ").last,
            let value = Double(rate),
            let codes = lines.first(where: { $0.hasPrefix("Response codes:") }), codes.contains("NOERROR"),
            codes.contains("(100.00%)")
        else { throw BenchmarkError("dnsperf against \(server):\(port) did not get clean answers:\n\(output)") }
        return value
    }
}
