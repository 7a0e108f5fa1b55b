import Glibc
import LibP2P
import NIOCore
import NIOPosix
import PeerTesting

/// libp2p hosts as processes of their own over loopback: two of ours, beside two of go-libp2p.
///
/// - go-libp2p's daemon (p2pd) is driven by its control socket, through which every byte goes once more on either side.
/// - A host of go-libp2p with the command line of p2p-peer is measured where `EDGEMESH_GO_PEER` names one.
/// - `openssl speed` tells what one core could at most encrypt.
struct LibP2PBenchmark {
    /// The executable `p2p-peer` of the same build.
    var peer: String
    var goPeer: String?
    var daemon: String?
    /// A PSK file.
    var key: String
    var bytes: Int
    var count: Int

    static let securities = ["tls", "noise"]

    func run(into report: inout Report) async throws {
        for cipher in ["aes-128-gcm", "chacha20-poly1305"] {
            do {
                report.add("openssl \(cipher), one core", try await Self.opensslSpeed(cipher), "MB/s")
            } catch {
                report.skip("openssl speed \(cipher)", "\(error)")
            }
        }
        for security in Self.securities {
            for psk in [false, true] {
                for streams in [1, 64] {
                    try await self.measureThroughput(security, psk, streams, into: &report)
                }
            }
        }
        if let daemon {
            for security in Self.securities {
                let rate = try await self.daemonThroughput(daemon, security)
                report.add("\(security), p2pd to p2pd, through its control sockets", rate, "MB/s")
            }
        } else {
            report.skip("p2pd", "run scripts/bootstrap --peers")
        }
        if goPeer == nil { report.skip("go-libp2p without a daemon", "EDGEMESH_GO_PEER names no program") }
        for security in Self.securities {
            try await self.measureLatency(security, into: &report)
            try await self.measureMemory(security, into: &report)
        }
    }

    // MARK: Bulk

    private struct Cost {
        var megabytesPerSecond: Double
        /// Of both processes.
        var cpuSecondsPerGigabyte: Double
    }

    private func measureThroughput(
        _ security: String,
        _ psk: Bool,
        _ streams: Int,
        into report: inout Report
    ) async throws {
        let ours = try await self.transfer(self.peer, security, psk, streams)
        let go = if let goPeer { try await self.transfer(goPeer, security, psk, streams) } else { Cost?.none }
        let name = "\(security)\(psk ? " + psk" : ""), \(streams) stream\(streams > 1 ? "s" : "")"
        report.add(
            name,
            ours.megabytesPerSecond,
            "MB/s",
            peer: go.map { ("go-libp2p", $0.megabytesPerSecond) },
            budget: psk && security == "tls" ? .atLeast(1000) : .ratioAtLeast(1)
        )
        report.add(
            "\(name), CPU of both ends",
            ours.cpuSecondsPerGigabyte,
            "s/GB",
            peer: go.map { ("go-libp2p", $0.cpuSecondsPerGigabyte) }
        )
    }

    /// The client sends, the server counts.
    private func transfer(_ program: String, _ security: String, _ psk: Bool, _ streams: Int) async throws -> Cost {
        let each = self.bytes / streams
        let options = ["-security", security] + (psk ? ["-psk", self.key] : [])
        let server = try PeerProcess([program] + options)
        let address = try await Self.address(of: server)
        let before = try Self.cpuSeconds(of: server)
        let client = try PeerProcess(
            [program] + options
                + ["-dial", address, "-op", "discard", "-bytes", "\(each)", "-streams", "\(streams)"]
        )
        let output = try await client.finish(within: 600)
        guard let rate = Self.rate(in: output) else { throw BenchmarkError("no rate in:\n\(output)") }
        let cpu = try Self.cpuSeconds(of: client) + Self.cpuSeconds(of: server) - before
        return Cost(
            megabytesPerSecond: rate,
            cpuSecondsPerGigabyte: cpu / (Double(each * streams) / 1e9)
        )
    }

    private func daemonThroughput(_ program: String, _ security: String) async throws -> Double {
        let group = MultiThreadedEventLoopGroup.singleton
        let options = ["-tls=\(security == "tls")", "-noise=\(security == "noise")"]
        let server = try await Daemon.start(program, options: options, on: group.next())
        let client = try await Daemon.start(program, options: options, on: group.next())
        let listener = try await server.serveTestProtocols()
        try await client.connect(to: server.peerID, at: server.addresses)
        let channel = try await client.openStream(to: server.peerID, .source)
        let begin = NIODeadline.now()
        let bytes = self.bytes
        _ = try await channel.eventLoop.flatSubmit {
            Transfer(request: "\(bytes)\n", endsOutput: false, expects: bytes).run(on: channel)
        }.get()
        let seconds = Double((NIODeadline.now() - begin).nanoseconds) / 1e9
        try await listener.close().get()
        return Double(self.bytes) / 1e6 / seconds
    }

    // MARK: Latency and memory

    private func measureLatency(_ security: String, into report: inout Report) async throws {
        for psk in [false, true] {
            let options = ["-security", security] + (psk ? ["-psk", self.key] : [])
            let server = try PeerProcess([self.peer] + options)
            let address = try await Self.address(of: server)
            let name = "\(security)\(psk ? " + psk" : "")"
            for operation in ["handshakes", "latency"] {
                let client = try PeerProcess(
                    [self.peer] + options + ["-dial", address, "-op", operation, "-streams", "\(self.count)"]
                )
                let output = try await client.finish(within: 120)
                for line in output.split(separator: "\n") {
                    let words = line.split(separator: " ")
                    guard words.count == 3, let value = Double(words[1]), !words[0].hasPrefix("connected") else {
                        continue
                    }
                    report.add("\(name), \(words[0])", value, String(words[2]))
                }
            }
        }
    }

    private func measureMemory(_ security: String, into report: inout Report) async throws {
        for (operation, name, count) in [
            ("hold-connections", "connection, idle", 500),
            ("hold-streams", "stream, idle, with its echo handler", 4000),
        ] {
            let server = try PeerProcess([self.peer, "-security", security])
            let address = try await Self.address(of: server)
            let warm = try PeerProcess([self.peer, "-security", security, "-dial", address, "-op", "identify"])
            try await warm.finish(within: 30)
            let before = try ProcessUsage(of: server.processID).anonymous
            let client = try PeerProcess(
                [self.peer, "-security", security, "-dial", address, "-op", operation, "-streams", "\(count)"]
            )
            _ = try await client.line("holding", within: 120)
            let after = try ProcessUsage(of: server.processID).anonymous
            report.add(
                "\(security), memory per \(name)",
                Double(Int64(after) - Int64(before)) / Double(count) / 1024,
                "KiB"
            )
        }
    }

    // MARK: Processes

    private static func address(of process: PeerProcess) async throws -> String {
        _ = try await process.line("ready")
        return try await process.line("/ip4/")
    }

    private static func rate(in output: String) -> Double? {
        let words = output.split(whereSeparator: { $0 == " " || $0 == "\n" })
        return words.lastIndex(of: "MB/s").flatMap { Double(words[$0 - 1]) }
    }

    /// Of a process that runs or has just ended.
    private static func cpuSeconds(of process: PeerProcess) throws -> Double {
        let stat = try readText("/proc/\(process.processID)/stat")
        let fields = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].split(separator: " ")
        guard fields.count > 12, let user = Double(fields[12]), let system = Double(fields[13]) else {
            throw BenchmarkError("cannot read the CPU time of process \(process.processID)")
        }
        return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    private static func opensslSpeed(_ cipher: String) async throws -> Double {
        let process = try PeerProcess(
            ["/usr/bin/openssl", "speed", "-evp", cipher, "-bytes", "16384", "-seconds", "1"]
        )
        let output = try await process.finish(within: 30)
        guard let last = output.split(separator: "\n").last?.split(separator: " ").last, last.hasSuffix("k"),
            let kilobytes = Double(last.dropLast())
        else { throw BenchmarkError("cannot read:\n\(output)") }
        return kilobytes / 1000
    }
}
