import Documents
import Glibc
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// TCP through the redirect and the user-space proxy.
    @Suite(
        .lab([
            "echo.yaml": Manifest.service("user-echo", "10.96.1.1", port: "2701:2701/tcp", endpoints: [30]),
            "http.yaml": Manifest.service("user-http", "10.96.1.2", port: "80:9376/tcp", endpoints: [31, 32, 33]),
            "ws.yaml": Manifest.service("user-ws", "10.96.1.3", port: "80:8080/tcp", endpoints: [30]),
            "tls.yaml": Manifest.service("user-tls", "10.96.1.4", port: "443:443/tcp", endpoints: [30]),
            "hash.yaml": Manifest.service("user-hash", "10.96.1.5", port: "80:9376/tcp", endpoints: [31, 32, 33])
                + "---\n" + Manifest.rule("user-hash", "{consistentHash: {httpHeaderName: x-user, maglev: {}}}"),
            "none.yaml": Manifest.service("no-one", "10.96.1.6", port: "80:9376/tcp", endpoints: []),
        ]),
        .timeLimit(.minutes(2))
    )
    struct StreamTests {
        private let node: NodeLab

        init() throws { self.node = try RunningLab.node }

        private func socket() throws -> LabSocket { try LabSocket(self.node, on: "client", .tcp) }

        @Test func theseServicesAreCarriedInUserSpace() async throws {
            for name in ["user-echo", "user-http", "user-ws", "user-tls", "user-hash"] {
                #expect(try await self.node.row(name)?["path"]?.string == "user", "\(name)")
            }
        }

        @Test func theServerSpeaksFirst() throws {
            let socket = try self.socket()
            try socket.connect("10.96.1.1", 2701)
            let banner = try socket.receive()
            #expect(String(decoding: banner, as: UTF8.self).hasPrefix("Welcome"), "before the client has said a word")
        }

        @Test func aClientThatHasSaidAllGetsTheWholeAnswer() async throws {
            let socket = try self.socket()
            try socket.connect("10.96.1.1", 2701)
            let banner = try socket.receive()
            let bytes = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
            try socket.send(bytes)
            socket.finishWriting()
            #expect(try socket.receiveAll() == bytes)
            // More than all buffers on the way hold.
            let count = try await self.node.shell(
                "head -c 30000000 /dev/zero | socat -t10 - TCP:10.96.1.1:2701 | wc -c"
            )
            #expect(count.trimmed == "\(30_000_000 + banner.count)")
        }

        @Test func aThousandConnectionsAtOnce() async throws {
            let held = try await self.node.runClient(
                ["idle", "--target", "10.96.1.1:2701", "--connections", "1000", "--seconds", "1"],
                on: "client"
            )
            #expect(held["succeeded"]?.integer == 1000 && held["failed"]?.integer == 0, "\(held.jsonText())")
            let called = try await self.node.runClient(
                [
                    "http", "--target", "10.96.1.2:80", "--connections", "1000", "--requests", "2000", "--timeout",
                    "10000",
                ],
                on: "client"
            )
            #expect(called["succeeded"]?.integer == 2000 && called["failed"]?.integer == 0, "\(called.jsonText())")
            #expect(called["spread"]?.members?.count == 3)
        }

        @Test func aBackendThatHangsDelaysNobodyElse() async throws {
            let process = try #require(self.node.backendProcessID("backend-1"))
            kill(process, SIGSTOP)
            defer { kill(process, SIGCONT) }
            let report = try await self.node.runClient(
                ["http", "--target", "10.96.1.2:80", "--connections", "60", "--requests", "60", "--timeout", "6000"],
                on: "client"
            )
            // Round robin: every third call meets the one that hangs.
            #expect(report["failures"]?.members?.map(\.key) == ["timeout"], "\(report.jsonText())")
            #expect((15...25).contains(report["failed"]?.integer ?? 0), "\(report.jsonText())")
            // Who had to wait for one that hangs would have waited as long as its client does.
            #expect(report.worstLatency < .milliseconds(5000), "\(report.jsonText())")
        }

        @Test func webSocketMessagesComeBack() throws {
            let socket = try self.socket()
            try socket.connect("10.96.1.3", 80)
            let request = """
                GET / HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n
                """
            try socket.send(request.utf8)
            #expect(String(decoding: try socket.receive(), as: UTF8.self).hasPrefix("HTTP/1.1 101"))
            // A masked text frame (RFC 6455, 5.2) with a mask of zeros; the answer is not masked.
            let text = Array("hello".utf8)
            try socket.send([0x81, 0x80 | UInt8(text.count), 0, 0, 0, 0] + text)
            #expect(try socket.receive(count: 7) == [0x81, UInt8(text.count)] + text)
        }

        @Test func tlsPassesThrough() async throws {
            let directory = self.node.lab.directory
            try await Command.runLocal([
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lab.test", "-addext",
                "subjectAltName=DNS:lab.test", "-keyout", "\(directory)/key.pem", "-out", "\(directory)/cert.pem",
            ])
            let server = try self.node.startApplication(
                ["tls", "--name", "secret", "--certificate", "\(directory)/cert.pem", "--key", "\(directory)/key.pem"],
                on: "echo",
                log: "tls"
            )
            try await self.node.lab.waitForListener(server, .tcp, port: 443)
            let answer = try await self.node.shell(
                "curl -sS --cacert \(directory)/cert.pem --resolve lab.test:443:10.96.1.4 https://lab.test/"
            )
            #expect(answer == "secret\n")
        }

        @Test func aHashOfAHeaderIsStickyAndAnIdleClientBlocksNobody() async throws {
            let idle = try (0..<8).map { _ in try self.socket() }
            for socket in idle { try socket.connect("10.96.1.5", 80) }
            var reached: Set<String> = []
            for user in 0..<12 {
                let answers = try await self.node.curl(
                    "http://10.96.1.5/",
                    times: 5,
                    options: ["-H", "x-user: user-\(user)"]
                )
                #expect(Set(answers).count == 1, "user-\(user)")
                reached.formUnion(answers)
            }
            #expect(reached.count > 1)
            // All were answered before one of the idle has spoken; these are served once they do.
            for socket in idle {
                try socket.send("GET / HTTP/1.1\r\nHost: h\r\nx-user: user-0\r\nConnection: close\r\n\r\n".utf8)
                #expect(String(decoding: try socket.receiveAll(), as: UTF8.self).contains("backend-"))
            }
        }

        @Test func aServiceWithoutEndpointsIsRefusedAtOnce() async throws {
            let socket = try self.socket()
            let repeated = try await self.node.repeatedSYNs(on: "client")
            #expect { try socket.connect("10.96.1.6", 80) } throws: { error in
                (error as? LabSocket.Failure)?.number == ECONNREFUSED
            }
            #expect(try await self.node.repeatedSYNs(on: "client") == repeated, "the first packet has its answer")
        }

        @Test func theNextEndpointIsTriedWhenOneRefuses() async throws {
            try await self.node.killBackend("backend-2")
            let answers = try await self.node.curl("http://10.96.1.2/", times: 30)
            #expect(Set(answers) == ["backend-1", "backend-3"])
            try self.node.startBackend("backend-2")
            try await self.node.lab.wait(for: "backend-2 to be called again") {
                try await self.node.curl("http://10.96.1.2/", times: 6).contains("backend-2")
            }
        }
    }
}
