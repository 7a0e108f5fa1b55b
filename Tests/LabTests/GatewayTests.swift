import Documents
import MeshCore
import Testing

@testable import NetLab

extension EndToEnd {
    /// What a gateway serves to clients outside of the mesh, by stock tools. The applications are behind the NAT of another LAN.
    @Suite(.gateway, .serialized, .timeLimit(.minutes(4))) struct GatewayTests {
        private let world: World

        init() throws { self.world = try GatewayWorld.world }

        @Test(
            arguments: [
                ("http://shop.example/", "--http1.0", "1.0"), ("http://shop.example/", "--http1.1", "1.1"),
                ("http://shop.example/", "--http2-prior-knowledge", "2"),
                ("https://shop.example/", "--http1.1", "1.1"), ("https://shop.example/", "--http2", "2"),
            ],
            [4, 6]
        )
        func everyVersionOfHTTPReachesTheFarLAN(call: (String, String, String), family: Int) async throws {
            let reply = try await self.world.fetch(call.0, [call.1], family: family)
            #expect(reply.status == 200 && reply.body.hasPrefix("far-1-app"), "\(reply)")
            // HTTP/1.0 is answered by the server's own version (RFC 9110 section 2.5).
            #expect(reply.version == call.2 || call.2 == "1.0" && reply.version == "1.1", "\(reply)")
        }

        @Test func theNameThatIsAskedForChoosesTheCertificate() async throws {
            for (name, subject) in [
                ("shop.example", "shop.example"), ("grpc.example", "shop.example"), ("other.example", "other.example"),
                // Passed on: that of the application.
                ("pass.example", "lab"),
            ] {
                let said = try await self.world.handshake(name)
                #expect(said.standardOutput.contains("subject=CN = \(subject)\n"), "\(name): \(said)")
            }
            let unknown = try await self.world.fetch("https://unknown.example/", ["-k"])
            #expect(unknown.status == 0 && unknown.exit == .exited(35), "\(unknown)")
            let protocols = try await self.world.handshake("shop.example", ["-alpn", "h2,http/1.1"])
            #expect(protocols.standardOutput.contains("ALPN protocol: h2\n"), "\(protocols)")
            let old = try await self.world.handshake("shop.example", ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"])
            #expect(!old.status.isSuccess, "TLS 1.1: \(old)")
        }

        @Test func clientsThatAreAskedForACertificateNeedAGoodOne() async throws {
            let directory = self.world.authorityDirectory
            let certificate = ["--cert", "\(directory)/client.crt", "--key", "\(directory)/client.key"]
            let known = try await self.world.fetch("https://mutual.example:8443/", certificate)
            #expect(known.status == 200 && known.body.hasPrefix("far-1-app"), "\(known)")
            let none = try await self.world.fetch("https://mutual.example:8443/")
            #expect(none.status == 0 && !none.exit.isSuccess, "\(none)")

            let strange = try await LabAuthority(in: "\(directory)/strange").issue("client", hosts: ["client.example"])
            let stranger = ["--cert", strange.certificateFile, "--key", strange.keyFile]
            let refused = try await self.world.fetch("https://mutual.example:8443/", stranger)
            #expect(refused.status == 0 && !refused.exit.isSuccess, "\(refused)")

            let said = try await self.world.handshake(
                "mutual.example",
                port: 8443,
                ["-cert", "\(directory)/client.crt", "-key", "\(directory)/client.key"]
            )
            #expect(said.standardOutput.contains("Verify return code: 0 (ok)"), "\(said)")
            #expect(said.standardOutput.contains("Acceptable client certificate CA names"), "\(said)")
        }

        /// Who shows a certificate shows a good one; who shows none is served all the same.
        @Test func aCertificateThatIsOptionalIsVerifiedIfItIsShown() async throws {
            let url = "https://mutual.example:8444/"
            let directory = self.world.authorityDirectory
            let strange = try await LabAuthority(in: "\(directory)/stranger").issue("client", hosts: ["client.example"])
            for (certificate, key, isServed) in [
                ("\(directory)/client.crt", "\(directory)/client.key", true),
                (strange.certificateFile, strange.keyFile, false),
            ] {
                let reply = try await self.world.fetch(url, ["--cert", certificate, "--key", key])
                #expect((reply.status == 200 && reply.body.hasPrefix("far-1-app")) == isServed, "\(reply)")
                #expect(reply.exit.isSuccess == isServed, "\(reply)")
            }
            let none = try await self.world.fetch(url)
            #expect(none.status == 200 && none.body.hasPrefix("far-1-app"), "\(none)")
            let said = try await self.world.handshake("mutual.example", port: 8444)
            #expect(said.standardOutput.contains("Acceptable client certificate CA names"), "\(said)")
        }

        @Test func tlsThatIsPassedOnEndsAtTheApplication() async throws {
            let reply = try await self.world.fetch("https://pass.example/", ["-k"])
            #expect(reply.status == 200 && reply.body.hasPrefix("far-1-app"), "\(reply)")
        }

        @Test func webSocketsAreCarried() async throws {
            let target = "\(try self.world.gatewayAddress()):80"
            let report = try await self.world.lab.runClient(
                ["websocket", "--target", target, "--requests", "50", "--connections", "5", "--timeout", "20000"],
                on: WorldPlan.outside,
                program: self.world.program,
                deadline: .seconds(60)
            )
            #expect(report["succeeded"]?.integer == 50 && report["failed"]?.integer == 0, "\(report.jsonText())")
        }

        /// gRPC's own client and server: calls of all four kinds, errors by their numbers (9: a condition is not met, 12: there is no such
        /// method), and metadata behind the answer.
        @Test func grpcIsCarriedWithItsTrailers() async throws {
            let said = try await self.world.lab.output(
                on: WorldPlan.outside,
                [
                    "/usr/bin/python3", "-c", GatewayServers.grpcClient, "\(try self.world.gatewayAddress()):443",
                    "grpc.example", "\(self.world.authorityDirectory)/ca.crt",
                ],
                deadline: .seconds(120)
            )
            #expect(
                said == """
                    hello world seen
                    0 1 2 3 4
                    a b c
                    X Y
                    9 not today
                    12 Method not found!

                    """
            )
        }

        @Test(arguments: [2701, 8081]) func tcpIsCarried(port: UInt16) async throws {
            // The first stream to a node may have to wait for its path.
            let socket = try LabSocket(self.world.lab, on: WorldPlan.outside, .tcp, within: 60)
            try socket.connect(try self.world.gatewayAddress(), port)
            try socket.send("half\n".utf8)
            socket.finishWriting()
            let answer = String(decoding: try socket.receiveAll(), as: UTF8.self)
            let server = port == 2701 ? "far-1-app" : "far-2-app"
            #expect(answer.hasPrefix(server) && answer.hasSuffix("\nhalf\n"), "\(answer)")
        }

        /// Answers come from the address that was asked, and a client keeps its backend. A datagram may be lost on the way through
        /// the tunnel, so each is sent until it is answered.
        @Test(arguments: [GatewayWorld.node, GatewayWorld.agentNode]) func udpIsCarried(node: String) async throws {
            let socket = try LabSocket(self.world.lab, on: WorldPlan.outside, .udp)
            let address = try self.world.gatewayAddress(of: node)
            for size in [1, 1_000, 1_400] {
                let datagram = [UInt8](repeating: UInt8(ascii: "a"), count: size)
                var answer: (bytes: [UInt8], source: String)?
                for _ in 0..<12 where answer == nil {
                    try socket.send(datagram, to: address, 8082)
                    answer = try? socket.receiveFrom()
                }
                let (bytes, source) = try #require(answer, "no answer to \(size) bytes")
                #expect(source == "\(address):8082")
                #expect(bytes.suffix(size).elementsEqual(datagram), "\(bytes.count) bytes for \(size)")
            }
        }

        /// The agent's gateway has the agent's tunnel, and serves what the gateway of the other node serves.
        @Test func anAgentServesAGateway() async throws {
            let node = GatewayWorld.agentNode
            for url in ["http://shop.example/", "https://shop.example/"] {
                let reply = try await self.world.fetch(url, of: node)
                #expect(reply.status == 200 && reply.body.hasPrefix("far-1-app"), "\(reply)")
            }
            let routed = try await self.world.fetch("http://a.api.example:8080/", of: node)
            #expect(routed.body.hasPrefix("far-2-app"), "\(routed)")
            let text = try await self.world.runTool(on: node, ["edgemesh", "status", "-o", "json"])
            let status = try Document.parseJSON(Array(text.utf8))
            #expect((status["edgeGateway"]?["listenerCount"]?.integer ?? 0) > 0, "\(text.prefix(2_000))")
            // The agent goes on with what is its own.
            try await self.world.waitUntilServing(node)
        }

        @Test func manyStreamsShareAConnection() async throws {
            let said = try await self.world.lab.output(
                on: WorldPlan.outside,
                [
                    "h2load", "-n", "400", "-c", "4", "-m", "8", "--connect-to",
                    "\(try self.world.gatewayAddress()):443",
                    "https://shop.example/",
                ],
                deadline: .seconds(120)
            )
            #expect(said.contains("Application protocol: h2\n"), "\(said)")
            #expect(said.contains("400 succeeded, 0 failed, 0 errored"), "\(said)")
        }

        @Test(arguments: ["--http1.1", "--http2"], [true, false])
        func contentComesThroughWhole(version: String, isChunked: Bool) async throws {
            let file = "\(self.world.lab.directory)/upload"
            try await Command.runLocal(["openssl", "rand", "-out", file, "8000000"])
            let hash = try await Command.runLocal(["sha256sum", file]).standardOutput.prefix { $0 != " " }
            let framing = isChunked ? ["-H", "Transfer-Encoding: chunked"] : []
            let reply = try await self.world.fetch(
                "https://shop.example/sum",
                [version, "-X", "POST", "--data-binary", "@\(file)"] + (version == "--http1.1" ? framing : []),
                maxTime: 60
            )
            #expect(reply.body == "8000000 \(hash)", "\(reply)")
        }

        // MARK: Rules

        @Test func aHeaderLeadsToTheCanary() async throws {
            let canary = try await self.world.fetch("http://shop.example/", ["-H", "x-canary: yes"])
            #expect(canary.body.hasPrefix("far-2-app"), "\(canary)")
            let usual = try await self.world.fetch("http://shop.example/", ["-H", "x-canary: no"])
            #expect(usual.body.hasPrefix("far-1-app"), "\(usual)")
        }

        /// Of 400 calls the share of far-2 is 300 in the mean with a standard deviation of 8.7: ten of them are never left.
        @Test func weightsDivideTheCalls() async throws {
            let output = try await self.world.curlOutside(
                [
                    "--connect-to", "::\(try self.world.gatewayAddress()):",
                    "http://shop.example/weighted?call=[1-400]",
                ],
                maxTime: 90
            )
            let far2 = output.lines.filter { $0.hasPrefix("far-2") }.count
            #expect(output.lines.count == 400, "\(output.standardError.prefix(300))")
            #expect((214...386).contains(far2), "\(far2) of 400")
        }

        @Test func requestsAndAnswersAreChangedAsTheRuleHasIt() async throws {
            let reply = try await self.world.fetch(
                "https://shop.example/echo/a?b=c",
                ["-i", "--http1.1", "-H", "x-secret: no", "-H", "x-set: by-the-client"]
            )
            for line in [
                "GET /seen/a?b=c HTTP/1.1", "host: shop.example", "x-set: by-the-gateway", "x-forwarded-proto: https",
                "x-forwarded-for: 203.0.113.250", "x-forwarded-host: shop.example", "x-gateway: lab",
            ] {
                #expect(reply.body.contains(line), "\(line) in \(reply)")
            }
            #expect(reply.body.contains("x-request-id: ") && !reply.body.contains("x-secret"), "\(reply)")
        }

        @Test func clientsAreSentElsewhere() async throws {
            let options = ["-w", "\\n%{http_code} %{redirect_url}"]
            let moved = try await self.world.fetch("https://shop.example/old/page", options)
            #expect(moved.status == 308 && moved.version == "https://shop.example/new", "\(moved)")
            let secured = try await self.world.fetch("http://secure.example/page?a=b", options)
            #expect(secured.status == 301 && secured.version == "https://secure.example/page?a=b", "\(secured)")
        }

        @Test(arguments: [
            ("/late", 504, "in time"), ("/nobody", 503, "nobody"), ("/missing", 503, "missing"),
            ("/nowhere", 404, "no route for shop.example/nowhere"),
        ])
        func whatCannotBeAnsweredTellsWhy(path: String, status: Int, reason: String) async throws {
            let reply = try await self.world.fetch("https://shop.example\(path)")
            #expect(reply.status == status, "\(reply)")
            #expect(reply.body.hasPrefix("edgemesh: ") && reply.body.contains(reason), "\(reply)")
        }

        @Test func theGatewayAPIIsServedBesideIstio() async throws {
            let usual = try await self.world.fetch("http://a.api.example:8080/")
            #expect(usual.body.hasPrefix("far-2-app"), "\(usual)")
            let echo = try await self.world.fetch("http://a.api.example:8080/echo/x", ["-X", "POST", "-d", "content"])
            #expect(echo.body.hasPrefix("POST /x HTTP/1.1"), "\(echo)")
            let other = try await self.world.fetch("http://other.example:8080/")
            #expect(other.status == 404, "\(other)")
        }
    }
}
