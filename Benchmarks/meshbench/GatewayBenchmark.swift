import Glibc
import MeshCore
import NetLab

/// The gateway beside nginx and haproxy: requests, handshakes, passed-on TLS and idle connections, each gateway on one processor.
struct GatewayBenchmark {
    /// Of each run with requests or handshakes.
    var seconds: Int
    var requests: Int
    var gigabytes: Int
    var idleConnections: Int
    var rounds: Int

    private static let connections = 64
    /// Programs that make one connection after the other.
    private static let handshakers = 4

    private enum Measure: BenchmarkMeasure, CaseIterable {
        case requests, tail, requestCPU, http2Requests, http2Tail, http2CPU, handshakes, handshakeCPU, passthroughCPU
        case idleMemory

        var name: String {
            switch self {
            case .requests: "HTTP/1.1 requests"
            case .tail: "HTTP/1.1 p99"
            case .requestCPU: "HTTP/1.1 CPU per request"
            case .http2Requests: "HTTP/2 requests"
            case .http2Tail: "HTTP/2 p99"
            case .http2CPU: "HTTP/2 CPU per request"
            case .handshakes: "new TLS connections with a request"
            case .handshakeCPU: "CPU per new TLS connection"
            case .passthroughCPU: "TLS passthrough, CPU"
            case .idleMemory: "memory with idle connections"
            }
        }

        var unit: String {
            switch self {
            case .requests, .http2Requests, .handshakes: "1/s"
            case .tail, .http2Tail: "ms"
            case .requestCPU, .http2CPU, .handshakeCPU: "us"
            case .passthroughCPU: "s/GB"
            case .idleMemory: "MiB"
            }
        }

        var isRate: Bool { self.unit == "1/s" }

        /// Level with nginx at HTTP/1.1, ahead of haproxy at passing TLS on, and never below half of either.
        func budget(beside peer: GatewayLab.Gateway) -> Figure.Budget? {
            switch (self, peer) {
            case (.requests, .nginx): .ratioAtLeast(1)
            case (.passthroughCPU, .haproxy): .ratioAtMost(1)
            default: self.isRate ? .ratioAtLeast(0.5) : .ratioAtMost(2)
            }
        }
    }

    private typealias Results = BestFigures<GatewayLab.Gateway, Measure>

    func run(program: String, into report: inout Report) async throws {
        var lab = try await GatewayLab.start()
        defer { try? lab.lab.remove() }
        for gateway in GatewayLab.Gateway.allCases {
            do { try await lab.start(gateway, program: program) } catch {
                report.skip("gateway: \(gateway.rawValue)", "\(error)")
            }
        }
        let running = GatewayLab.Gateway.allCases.filter { lab.processes[$0] != nil }
        var results = Results()
        for gateway in running {
            await results.attempt("gateway: idle connections", gateway, &report) {
                [.idleMemory: try await self.memory(lab, gateway)]
            }
        }
        // In turns, so that what else the machine does meets all of them.
        for _ in 0..<self.rounds {
            for gateway in running {
                await results.attempt("gateway: HTTP/1.1", gateway, &report) { try await self.http1(lab, gateway) }
                await results.attempt("gateway: HTTP/2", gateway, &report) { try await self.http2(lab, gateway) }
                await results.attempt("gateway: handshakes", gateway, &report) {
                    try await self.handshakes(lab, gateway)
                }
                await results.attempt("gateway: passthrough", gateway, &report) {
                    [.passthroughCPU: try await self.passthrough(lab, gateway)]
                }
            }
        }
        results.tell("gateway", of: .ours, beside: running.filter { $0 != .ours }, into: &report) {
            $0.budget(beside: $1)
        }
    }

    // MARK: Measures

    private func http1(_ lab: GatewayLab, _ gateway: GatewayLab.Gateway) async throws -> [Measure: Double] {
        let url = "http://\(GatewayLab.gatewayAddress):\(gateway.httpPort)/"
        // Warm: connections to the backend, buffers.
        _ = try await self.wrk(lab, ["-d", "1s", url])
        let (said, cpu) = try await self.costing(lab, gateway) {
            try await self.wrk(lab, ["-d", "\(self.seconds)s", url])
        }
        return [
            .requests: try Self.rate(said), .tail: try Self.tail(said),
            .requestCPU: cpu.inSeconds * 1e6 / (try Self.count(said)),
        ]
    }

    /// Whole handshakes: wrk and others would take up the sessions of the connections before.
    private func handshakes(_ lab: GatewayLab, _ gateway: GatewayLab.Gateway) async throws -> [Measure: Double] {
        let target = "\(GatewayLab.gatewayAddress):\(gateway.httpsPort)"
        let client = "openssl s_time -new -www / -time \(self.seconds) -connect \(target) & "
        let begin = MonotonicTime.now()
        let (said, cpu) = try await self.costing(lab, gateway) {
            try await lab.load(["sh", "-c", String(repeating: client, count: Self.handshakers) + "wait"])
        }
        let elapsed = MonotonicTime.now() - begin
        let counts = said.split(separator: "\n").filter { $0.contains("real seconds") }
            .compactMap { Double($0.prefix { $0.isNumber }) }
        let count = counts.reduce(0, +)
        guard counts.count == Self.handshakers, count > 0 else { throw BenchmarkError("handshakes failed: \(said)") }
        return [.handshakes: count / elapsed.inSeconds, .handshakeCPU: cpu.inSeconds * 1e6 / count]
    }

    private func http2(_ lab: GatewayLab, _ gateway: GatewayLab.Gateway) async throws -> [Measure: Double] {
        let log = "\(lab.lab.directory)/h2load.log"
        unlink(log)
        let url = "https://\(GatewayLab.gatewayAddress):\(gateway.httpsPort)/"
        func load(_ requests: Int, _ options: [String]) async throws -> String {
            let said = try await lab.load(["h2load", "-n", "\(requests)", "-c", "16", "-m", "8"] + options + [url])
            guard said.contains(" \(requests) succeeded") else { throw BenchmarkError("requests were lost: \(said)") }
            guard said.contains("Application protocol: h2") else {
                throw BenchmarkError("it speaks no HTTP/2: \(said)")
            }
            return said
        }
        _ = try await load(max(1000, self.requests / 20), [])
        let (said, cpu) = try await self.costing(lab, gateway) { try await load(self.requests, ["--log-file", log]) }
        guard let rate = Self.number(in: said, before: "req/s") else { throw BenchmarkError("no rate in: \(said)") }
        // Lines of the start, the status and the microseconds of a request.
        let times = try readText(log).split(separator: "\n").compactMap { Double($0.split(separator: "\t").last ?? "") }
            .sorted()
        guard times.count == self.requests else { throw BenchmarkError("h2load logged \(times.count) requests") }
        return [
            .http2Requests: rate, .http2Tail: times[times.count * 99 / 100] / 1000,
            .http2CPU: cpu.inSeconds * 1e6 / Double(self.requests),
        ]
    }

    private func passthrough(_ lab: GatewayLab, _ gateway: GatewayLab.Gateway) async throws -> Double {
        let command =
            lab.curl("https://\(GatewayLab.host):\(gateway.passthroughPort)/big")
            + ["-o", "/dev/null", "-w", "%{size_download}"]
        var bytes = 0
        let (_, cpu) = try await self.costing(lab, gateway) {
            for _ in 0..<self.gigabytes { bytes += Int(try await lab.load(command)) ?? 0 }
            return ""
        }
        guard bytes == self.gigabytes * GatewayLab.bigFileBytes else { throw BenchmarkError("\(bytes) bytes came") }
        return cpu.inSeconds / (Double(bytes) / 1e9)
    }

    private func memory(_ lab: GatewayLab, _ gateway: GatewayLab.Gateway) async throws -> Double {
        Self.raiseFileLimit()
        let descriptors = try lab.openIdle(self.idleConnections, to: gateway)
        defer { for descriptor in descriptors { close(descriptor) } }
        try await Task.sleep(for: .seconds(2))
        return Double(try ProcessUsage.total(of: lab.processIDs(of: gateway)).resident) / 1_048_576
    }

    // MARK: Helpers

    /// What `body` returns, with the CPU time that the gateway has used meanwhile.
    private func costing(
        _ lab: GatewayLab,
        _ gateway: GatewayLab.Gateway,
        _ body: () async throws -> String
    ) async throws -> (said: String, cpu: Duration) {
        let processes = try lab.processIDs(of: gateway)
        let before = try ProcessUsage.total(of: processes).cpu
        let said = try await body()
        return (said, try ProcessUsage.total(of: processes).cpu - before)
    }

    private func wrk(_ lab: GatewayLab, _ arguments: [String]) async throws -> String {
        let said = try await lab.load(["wrk", "-t", "1", "-c", "\(Self.connections)", "--latency"] + arguments)
        // It counts what failed only if something did.
        guard !said.contains("Socket errors"), !said.contains("Non-2xx") else {
            throw BenchmarkError("requests failed: \(said)")
        }
        return said
    }

    private static func count(_ said: String) throws -> Double {
        guard let count = self.number(in: said, before: "requests"), count > 0 else {
            throw BenchmarkError("no requests in: \(said)")
        }
        return count
    }

    private static func rate(_ said: String) throws -> Double {
        let words = said.split(whereSeparator: \.isWhitespace)
        guard let label = words.firstIndex(of: "Requests/sec:"), words.indices.contains(label + 1),
            let rate = Double(words[label + 1])
        else { throw BenchmarkError("no rate in: \(said)") }
        return rate
    }

    /// wrk's 99th percentile in milliseconds.
    private static func tail(_ said: String) throws -> Double {
        let words = said.split(whereSeparator: \.isWhitespace)
        guard let label = words.firstIndex(of: "99%"), words.indices.contains(label + 1) else {
            throw BenchmarkError("no percentile in: \(said)")
        }
        let text = words[label + 1]
        for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] where text.hasSuffix(unit) {
            if let value = Double(text.dropLast(unit.count)) { return value * factor }
        }
        throw BenchmarkError("'\(text)' is no time")
    }

    private static func number(in said: String, before word: String) -> Double? {
        let words = said.split { $0.isWhitespace || $0 == "," }
        return words.firstIndex(of: Substring(word)).flatMap { $0 > 0 ? Double(words[$0 - 1]) : nil }
    }

    private static func raiseFileLimit() {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}
