import Documents
import Glibc
import MeshCore
import NIOCore
import NIOPosix
import Testing

@testable import NetLab

@Suite(.timeLimit(.minutes(2))) struct ApplicationTests {
    /// Starts a server on a free port of loopback and calls `body` with its address.
    private func withServer(
        _ name: String,
        _ arguments: [String] = [],
        _ body: (_ host: String, _ port: Int) async throws -> Void
    ) async throws {
        let channels = try await LabApplications.startServer(
            name: name,
            arguments: arguments + ["--listen", "127.0.0.1:0"]
        )
        let port = try #require(channels[0].localAddress?.port)
        do {
            try await body("127.0.0.1", port)
        } catch {
            for channel in channels { try? await channel.close() }
            throw error
        }
        for channel in channels { try await channel.close() }
    }

    @Test func hostnameAnswersHTTP() async throws {
        try await self.withServer("hostname", ["--name", "backend-1"]) { host, port in
            let output = try await Command.runLocal([
                "curl", "-sS", "http://\(host):\(port)/any", "http://\(host):\(port)/",
            ])
            #expect(output.standardOutput == "backend-1\nbackend-1\n")
        }
    }

    @Test func hostnameAnswersDatagrams() async throws {
        let channels = try await LabApplications.startServer(
            name: "hostname",
            arguments: ["--name", "backend-1", "--listen", "127.0.0.1:0"]
        )
        let port = try #require(channels[1].localAddress?.port)
        let options = try await LoadOptions(["udp", "--target", "127.0.0.1:\(port)", "--requests", "20"])
        let report = try await LoadClient.run(options)
        #expect(report.spread == ["backend-1": 20])
        #expect(report.failed == 0)
        for channel in channels { try await channel.close() }
    }

    @Test func tcpEchoSpeaksFirstAndKeepsHalfClose() async throws {
        try await self.withServer("tcp-echo", ["--banner", "hello"]) { host, port in
            let output = try await Command.runLocal(["socat", "-t5", "-", "TCP:\(host):\(port)"], input: "one\ntwo\n")
            #expect(output.standardOutput == "hello\none\ntwo\n")
        }
    }

    @Test(arguments: [1, 1472, 9000, 65_507])
    func udpEchoReturnsDatagramsOfAnySize(size: Int) async throws {
        try await self.withServer("udp-echo") { host, port in
            let answer = MultiThreadedEventLoopGroup.singleton.next().makePromise(of: ByteBuffer.self)
            let channel = try await DatagramBootstrap(group: answer.futureResult.eventLoop)
                .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(FirstDatagram(answer))
                    }
                }
                .connect(to: try SocketAddress(ipAddress: host, port: port)).get()
            let payload = ByteBuffer(bytes: (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) })
            try await channel.writeAndFlush(payload)
            #expect(try await answer.futureResult.get() == payload)
            try await channel.close()
        }
    }

    @Test func webSocketEchoAnswersAHandshakeAndAMessage() async throws {
        try await self.withServer("websocket-echo") { host, port in
            // A masked text frame "hi" after the handshake of RFC 6455 section 1.3, and a masked close.
            let script = """
                exec 3<>/dev/tcp/\(host)/\(port)
                printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n' >&3
                printf 'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n' >&3
                while read -r line <&3 && [ "$line" != $'\\r' ]; do echo "$line"; done
                printf '\\x81\\x82\\x00\\x00\\x00\\x00hi\\x88\\x80\\x00\\x00\\x00\\x00' >&3
                cat <&3
                """
            let output = try await Command.runLocal(["bash", "-c", script])
            #expect(output.standardOutput.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
            #expect(output.standardOutput.contains("\u{02}hi"))
        }
    }

    @Test func tlsServerShowsItsCertificate() async throws {
        let directory = "/tmp/edgemesh-test-tls-\(getpid())"
        try Files.makeDirectory(directory)
        defer { Files.removeTree(directory) }
        try await Command.runLocal([
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lab.test", "-addext",
            "subjectAltName=DNS:lab.test", "-keyout", "\(directory)/key.pem", "-out", "\(directory)/cert.pem",
        ])
        let arguments = ["--name", "secret", "--certificate", "\(directory)/cert.pem", "--key", "\(directory)/key.pem"]
        try await self.withServer("tls", arguments) { host, port in
            let output = try await Command.runLocal([
                "curl", "-sS", "--cacert", "\(directory)/cert.pem", "--resolve", "lab.test:\(port):\(host)",
                "https://lab.test:\(port)/",
            ])
            #expect(output.standardOutput == "secret\n")
        }
        let missing = ["--name", "x", "--certificate", "/nowhere", "--key", "/nowhere"]
        await #expect { try await LabApplications.startServer(name: "tls", arguments: missing) } throws: {
            "\($0)".contains("/nowhere")
        }
    }

    @Test func loadClientCountsRequestsAndBackends() async throws {
        try await self.withServer("hostname", ["--name", "only"]) { host, port in
            let options = try await LoadOptions([
                "http", "--target", "\(host):\(port)", "--requests", "103", "--connections", "4", "-o", "json",
            ])
            let report = try await LoadClient.run(options)
            #expect(report.succeeded == 103)
            #expect(report.failed == 0)
            #expect(report.spread == ["only": 103])
            #expect(report.latency.count == 103)
            #expect(report.document["succeeded"]?.integer == 103)
            #expect(report.text.contains("answer   only: 103 (100.0 %)"))
        }
    }

    @Test func loadClientCountsFailures() async throws {
        // A port that was bound and is free again: nobody listens there.
        var freePort = 0
        try await self.withServer("bulk") { _, port in freePort = port }
        let options = try await LoadOptions(["http", "--target", "127.0.0.1:\(freePort)", "--requests", "7"])
        let report = try await LoadClient.run(options)
        #expect(report.succeeded == 0)
        #expect(report.failures == ["Connection refused": 7])

        // A server that speaks no HTTP at all.
        try await self.withServer("udp-echo") { host, port in
            let silent = try await LoadOptions(["udp", "--target", "\(host):\(port)", "--requests", "3"])
            #expect(try await LoadClient.run(silent).spread == ["who are you?": 3])
        }
    }

    @Test func connectModeRunsForItsTime() async throws {
        try await self.withServer("tcp-echo") { host, port in
            let options = try await LoadOptions([
                "connect", "--target", "\(host):\(port)", "--seconds", "0.3", "--connections", "2",
            ])
            let report = try await LoadClient.run(options)
            #expect(report.succeeded > 0)
            #expect(report.failed == 0)
            #expect(report.elapsed >= .milliseconds(300))
        }
    }

    @Test(arguments: ["up", "down"])
    func throughputCountsBytes(direction: String) async throws {
        try await self.withServer("bulk") { host, port in
            let options = try await LoadOptions([
                "throughput", "--target", "\(host):\(port)", "--seconds", "0.3", "--connections", "2", "--direction",
                direction,
            ])
            let report = try await LoadClient.run(options)
            #expect(report.failures == [:])
            #expect(report.succeeded == 2)
            #expect(report.bytes > 0)
        }
    }

    @Test func idleConnectionsAreHeld() async throws {
        try await self.withServer("tcp-echo") { host, port in
            let options = try await LoadOptions([
                "idle", "--target", "\(host):\(port)", "--connections", "300", "--seconds", "0.1",
            ])
            let report = try await LoadClient.run(options)
            #expect(report.succeeded == 300)
            #expect(report.failures == [:])
        }
    }

    @Test(arguments: [
        (["http"], "--target"), (["http", "--target", "nocolon"], "HOST:PORT"), (["dance", "--target", "a:1"], "idle"),
        (["http", "--target", "127.0.0.1:80", "--connections", "0"], "--connections 0"),
        (["http", "--target", "127.0.0.1:80", "--speed", "9"], "--speed"),
        (["http", "--target", "127.0.0.1:80", "-o", "xml"], "text, json"),
    ])
    func badClientArgumentsAreNamed(arguments: [String], said: String) async {
        await #expect { try await LoadOptions(arguments) } throws: { "\($0)".contains(said) }
    }

    @Test func histogramQuantilesAreWithinABucket() {
        var histogram = LatencyHistogram()
        for value in 1...1000 { histogram.record(.microseconds(value)) }
        #expect(histogram.quantile(0.5) >= .microseconds(500))
        #expect(histogram.quantile(0.5) <= .microseconds(500 * 17 / 16))
        #expect(histogram.quantile(1) == .microseconds(1000))
        histogram.record(.seconds(1_000_000_000))
        #expect(histogram.maximum == .seconds(1_000_000_000))
    }

    @Test func fixedPointNumbers() {
        #expect(LoadReport.fixed(1.005, 2) == "1.00" || LoadReport.fixed(1.005, 2) == "1.01")
        #expect(LoadReport.fixed(-0.25, 1) == "-0.3")
        #expect(LoadReport.fixed(12, 0) == "12")
        #expect(LoadReport.fixed(3.04, 3) == "3.040")
    }

    @Test func kindsOfAnswersAreBounded() {
        var report = LoadReport(mode: .http, target: "x")
        for number in 0..<(LoadReport.maximumKinds + 50) { report.succeed(answer: "\(number)", after: .zero) }
        #expect(report.spread.count == LoadReport.maximumKinds + 1)
        #expect(report.spread["(others)"] == 50)
    }
}

private final class FirstDatagram: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let answer: EventLoopPromise<ByteBuffer>

    init(_ answer: EventLoopPromise<ByteBuffer>) {
        self.answer = answer
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.answer.succeed(self.unwrapInboundIn(data).data)
    }
}
