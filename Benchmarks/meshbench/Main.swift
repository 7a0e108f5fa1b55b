import Documents
import Glibc

/// Measures the agent beside its peers and prints the figures with their budgets.
@main
enum Main {
    private static let suites = ["dns", "traffic", "direct", "relayed", "scale", "libp2p", "gateway", "cni"]
    private static let usage = """
        meshbench PROGRAM [--quick] [-o json] [dns|traffic|direct|relayed|scale|libp2p|gateway|cni …]
        meshbench security [--quick] [-o json]
        meshbench libp2p [--quick] [-o json]    with p2p-peer beside it, of the same build
          PROGRAM   the edgemesh executable to measure (a release build)
          --quick   shorter runs, for a look; quote only figures of full runs
        EDGEMESH_ORIGINAL_AGENT names an agent of v1.17, to be measured beside ours by 'direct' and 'relayed'

        """

    static func main() async {
        do {
            try await self.run(Array(CommandLine.arguments.dropFirst()))
        } catch {
            writeError("meshbench: \(error)\n")
            exit(1)
        }
    }

    private static func run(_ arguments: [String]) async throws {
        if arguments.first == "scale-in-namespace", arguments.count == 4, let services = Int(arguments[2]) {
            return try await ScaleBenchmark.runInNamespace(
                program: arguments[1],
                services: services,
                directory: arguments[3]
            )
        }
        if arguments.first == "serve-objects", arguments.count == 4, let port = Int(arguments[2]) {
            return try await TunnelLab.serveObjects(host: arguments[1], port: port, file: arguments[3])
        }
        var names: [String] = []
        var quick = false
        var json = false
        var remaining = arguments[...]
        while let argument = remaining.popFirst() {
            switch argument {
            case "--quick": quick = true
            case "-o": json = remaining.popFirst() == "json"
            default: names.append(argument)
            }
        }
        if names == ["security"] {
            var report = Report()
            try await SecurityBenchmark(megabytes: quick ? 256 : 2048, handshakes: quick ? 200 : 2000).run(
                into: &report
            )
            print(json ? report.document.jsonText(pretty: true) : report.text)
            return
        }
        if names == ["libp2p"] {
            var report = Report()
            try await self.measureLibP2P(quick: quick, into: &report)
            print(json ? report.document.jsonText(pretty: true) : report.text)
            return
        }
        guard let program = names.first,
            names.dropFirst().allSatisfy({ Self.suites.contains($0) })
        else {
            throw BenchmarkError("say what to measure\n\(self.usage)")
        }
        guard access(program, X_OK) == 0 else {
            throw BenchmarkError("'\(program)' is no program: run 'make release' first")
        }
        let wanted = Set(names.dropFirst())
        var report = Report()
        var file = stat()
        if stat(program, &file) == 0 {
            report.add("program", Double(file.st_size) / 1e6, "MB", budget: .atMost(25))
        }
        func measure(_ name: String, _ body: (inout Report) async throws -> Void) async {
            guard wanted.isEmpty || wanted.contains(name) else { return }
            writeError("measuring \(name) …\n")
            do { try await body(&report) } catch { report.skip(name, "\(error)") }
        }
        await measure("dns") { try await DNSBenchmark(seconds: quick ? 2 : 5).run(program: program, into: &$0) }
        await measure("traffic") {
            try await TrafficBenchmark(
                seconds: quick ? 2 : 5,
                requests: quick ? 2000 : 10_000,
                idleConnections: 2000
            ).run(program: program, into: &$0)
        }
        for path in TunnelLab.Path.allCases {
            await measure(path.rawValue) {
                await TunnelBenchmark(
                    path: path,
                    seconds: quick ? 2 : 5,
                    requests: quick ? 2000 : 10_000,
                    idleConnections: quick ? 2000 : 5000,
                    rounds: quick ? 1 : 3,
                    original: self.variable("EDGEMESH_ORIGINAL_AGENT")
                ).run(program: program, into: &$0)
            }
        }
        await measure("gateway") {
            try await GatewayBenchmark(
                seconds: quick ? 2 : 5,
                requests: quick ? 20_000 : 100_000,
                gigabytes: quick ? 1 : 3,
                idleConnections: quick ? 2000 : 10_000,
                rounds: quick ? 1 : 3
            ).run(program: program, into: &$0)
        }
        await measure("cni") {
            try await PodBenchmark(
                seconds: quick ? 2 : 5,
                pings: quick ? 1000 : 10_000,
                memorySeconds: quick ? 5 : 60,
                rounds: quick ? 1 : 3
            ).run(program: program, into: &$0)
        }
        await measure("libp2p") { try await self.measureLibP2P(quick: quick, into: &$0) }
        for services in [8, 500, 10_000] where !(quick && services > 500) {
            await measure("scale") { try await ScaleBenchmark(services: services).run(program: program, into: &$0) }
        }
        print(json ? report.document.jsonText(pretty: true) : report.text)
        if !report.skipped.isEmpty { exit(1) }
    }
}

extension Main {
    private static func measureLibP2P(quick: Bool, into report: inout Report) async throws {
        let own = CommandLine.arguments[0]
        let folder = own.lastIndex(of: "/").map { String(own[...$0]) } ?? ""
        let peers = variable("EDGEMESH_PEERS") ?? "\(variable("HOME") ?? "/root")/.cache/edgemesh/peers"
        guard access("\(folder)p2p-peer", X_OK) == 0 else {
            throw BenchmarkError("there is no p2p-peer beside meshbench: build it with the same flags")
        }
        let key = "/tmp/meshbench-\(getpid()).psk"
        try writeText("a key for benchmarks", to: key)
        defer { unlink(key) }
        let benchmark = LibP2PBenchmark(
            peer: "\(folder)p2p-peer",
            goPeer: variable("EDGEMESH_GO_PEER"),
            daemon: access("\(peers)/p2pd", X_OK) == 0 ? "\(peers)/p2pd" : nil,
            key: key,
            bytes: quick ? 1 << 30 : 4 << 30,
            count: quick ? 500 : 4000
        )
        await benchmark.run(into: &report)
    }

    private static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    }
}

func writeError(_ text: String) {
    _ = write(2, text, text.utf8.count)
}
