import Documents
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

    /// What fails is told in the report, and the rest is measured.
    func run(into report: inout Report) async {
        func attempt(_ name: String, _ body: (inout Report) async throws -> Void) async {
            writeError("measuring \(name) …\n")
            do { try await body(&report) } catch { report.skip(name, "\(error)") }
        }
        for cipher in ["aes-128-gcm", "chacha20-poly1305"] {
            await attempt("openssl \(cipher), one core") {
                $0.add("openssl \(cipher), one core", try await Self.opensslSpeed(cipher), "MB/s")
            }
        }
        if goPeer == nil { report.skip("go-libp2p without a daemon", "EDGEMESH_GO_PEER names no program") }
        for security in Self.securities {
            for psk in [false, true] {
                for streams in [1, 64] {
                    let load = Load(security: security, psk: psk, streams: streams)
                    await attempt("\(load)") { try await self.measureThroughput(load, into: &$0) }
                }
            }
        }
        for path in [Load.Path.webSocket, .relay] {
            let load = Load(security: "tls", psk: true, streams: 1, path: path)
            await attempt("\(load)") { try await self.measureThroughput(load, into: &$0) }
        }
        if let daemon {
            for security in Self.securities {
                await attempt("p2pd with \(security)") {
                    let rate = try await self.daemonThroughput(daemon, security)
                    $0.add("p2pd to p2pd with \(security), through its control sockets", rate, "MB/s")
                }
            }
        } else {
            report.skip("p2pd", "run scripts/bootstrap --peers")
        }
        for security in Self.securities {
            await attempt("latency with \(security)") { try await self.measureLatency(security, into: &$0) }
            await attempt("memory with \(security)") { try await self.measureMemory(security, into: &$0) }
        }
    }

    // MARK: Bulk

    private struct Load: CustomStringConvertible {
        enum Path: String {
            case direct
            case webSocket = "over WebSocket"
            case relay = "through a relay"
        }

        var security: String
        var psk: Bool
        var streams: Int
        var path = Path.direct

        var description: String {
            let way = self.path == .direct ? "" : ", \(self.path.rawValue)"
            return
                "\(self.security)\(self.psk ? " + psk" : ""), \(self.streams) stream\(self.streams > 1 ? "s" : "")\(way)"
        }
    }

    private struct Cost {
        var megabytesPerSecond: Double
        /// Of all processes.
        var cpuSecondsPerGigabyte: Double
    }

    private func measureThroughput(_ load: Load, into report: inout Report) async throws {
        let ours = try await self.transfer(self.peer, load)
        var go: Cost?
        if let goPeer, load.path == .direct { go = try await self.transfer(goPeer, load) }
        let budget: Figure.Budget? =
            load.path != .direct ? nil : load.psk && load.security == "tls" ? .atLeast(1000) : .ratioAtLeast(1)
        report.add(
            "\(load)",
            ours.megabytesPerSecond,
            "MB/s",
            peer: go.map { ("go-libp2p", $0.megabytesPerSecond) },
            budget: budget
        )
        report.add(
            "  CPU of \(load.path == .relay ? "all three" : "both ends")",
            ours.cpuSecondsPerGigabyte,
            "s/GB",
            peer: go.map { ("go-libp2p", $0.cpuSecondsPerGigabyte) }
        )
    }

    /// The client sends, the server counts.
    private func transfer(_ program: String, _ load: Load) async throws -> Cost {
        let each = self.bytes / load.streams
        let options = ["-security", load.security] + (load.psk ? ["-psk", self.key] : [])
        var servers: [PeerProcess] = []
        var address: String
        if load.path == .relay {
            let relay = try PeerProcess([program, "-relay-service"] + options)
            let (relayID, relayAddress) = try await Self.meshingPeer(relay)
            address = "\(relayAddress)/p2p/\(relayID)"
            let server = try PeerProcess([program, "-reserve", address] + options)
            address += "/p2p-circuit/p2p/\(try await Self.meshingPeer(server).id)"
            // The relay needs a connection to it, no more.
            _ = try await server.line(#"{"event":"identified""#)
            servers = [relay, server]
        } else {
            let listen = load.path == .webSocket ? ["-listen", "/ip4/127.0.0.1/tcp/0/ws"] : []
            servers = [try PeerProcess([program] + listen + options)]
            address = try await Self.address(of: servers[0])
        }
        let before = try Self.cpuSeconds(of: servers)
        let client = try PeerProcess(
            [program] + options
                + ["-dial", address, "-op", "discard", "-bytes", "\(each)", "-streams", "\(load.streams)"]
        )
        let output = try await client.finish(within: 600)
        guard let rate = Self.rate(in: output) else { throw BenchmarkError("no rate in:\n\(output)") }
        let cpu = try Self.cpuSeconds(of: servers + [client]) - before
        return Cost(
            megabytesPerSecond: rate,
            cpuSecondsPerGigabyte: cpu / (Double(each * load.streams) / 1e9)
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
        let cases: [(String, String, Int, Figure.Budget?)] = [
            ("hold-connections", "idle connection", 500, nil),
            ("hold-streams", "idle stream with its handler", 4000, .atMost(1.5)),
        ]
        for (operation, name, count, budget) in cases {
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
                "KiB",
                budget: budget
            )
        }
    }

    // MARK: Processes

    private static func address(of process: PeerProcess) async throws -> String {
        _ = try await process.line("ready")
        return try await process.line("/ip4/")
    }

    /// Of a peer of a mesh, which says it in JSON.
    private static func meshingPeer(_ process: PeerProcess) async throws -> (id: String, address: String) {
        let line = try await process.line(#"{"event":"ready""#)
        let document = try Document.parseJSON(line.utf8)
        guard let peer = document["peer"]?.string, let address = document["addresses"]?.array?.first?.string else {
            throw BenchmarkError("a peer without an ID or an address: \(line)")
        }
        return (peer, address)
    }

    private static func rate(in output: String) -> Double? {
        let words = output.split(whereSeparator: { $0 == " " || $0 == "\n" })
        return words.lastIndex(of: "MB/s").flatMap { Double(words[$0 - 1]) }
    }

    /// Of processes that run or have just ended.
    private static func cpuSeconds(of processes: [PeerProcess]) throws -> Double {
        try processes.reduce(0) { sum, process in
            let (user, system) = try ProcessUsage.ticks(of: process.processID)
            return sum + Double(user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
        }
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
