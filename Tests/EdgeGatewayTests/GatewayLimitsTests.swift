import Documents
import GatewayRouting
import KubeModel
import MeshCore
import MeshTesting
import NIOCore
import NIOPosix
import Testing

@testable import EdgeGateway
@testable import LinuxNetwork

@Suite struct GatewayLimitsTests {
    @Test("a head that does not come to its end is answered and ended")
    func slowHeads() async throws {
        var limits = GatewayLimits()
        limits.headTimeout = .milliseconds(200)
        try await HTTPProxyTests.withWeb(limits: limits) { port, _, _ in
            let client = try await RawClient.connect(port)
            try await client.send("GET / HTTP/1.1\r\nHost: x\r\n")
            // Bytes that go on coming do not buy time.
            let drip = Task {
                while !client.hasEnded {
                    try? await client.send("A: b\r\n")
                    try? await Task.sleep(for: .milliseconds(20))
                }
            }
            let answer = try await client.end()
            #expect(answer.hasPrefix("HTTP/1.1 408 "))
            await drip.value
        }
    }

    @Test("content that stops coming is answered; one that nobody reads any more is not waited for")
    func slowContent() async throws {
        var limits = GatewayLimits()
        // Long enough for the backend to be there by then.
        limits.idleTimeout = .seconds(3)
        try await HTTPProxyTests.withWeb(limits: limits) { port, _, _ in
            let client = try await RawClient.connect(port)
            try await client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab")
            let answer = try await client.end()
            #expect(answer.hasPrefix("HTTP/1.1 408 "))
        }
    }

    @Test func idleConnectionsAreClosed() async throws {
        var limits = GatewayLimits()
        limits.keepAliveTimeout = .milliseconds(500)
        try await HTTPProxyTests.withWeb(limits: limits) { port, _, _ in
            #expect(try await RawClient.connect(port).end() == "")
            // The same after a request, if it was there in time.
            let client = try await RawClient.connect(port)
            try? await client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            _ = try await client.end()
        }
    }

    @Test func connectionsOfOneClientAreBounded() async throws {
        var limits = GatewayLimits()
        limits.maximumConnectionsPerClient = 2
        try await HTTPProxyTests.withWeb(limits: limits) { port, _, rig in
            func ask(_ client: RawClient) async throws {
                try await client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
                try await client.wait(for: "GET /a HTTP/1.1\n")
            }
            let first = try await RawClient.connect(port)
            try await ask(first)
            let second = try await RawClient.connect(port)
            try await ask(second)
            let third = try? await RawClient.connect(port)
            try await eventually("the third is refused") {
                await rig.service.reports().reduce(0) { $0 + $1.connectionsOverLimit } == 1
            }
            third?.close()
            first.close()
            try await eventually("there is room again") {
                await rig.service.reports().reduce(0) { $0 + $1.connectionsOpen } == 1
            }
            try await ask(try await RawClient.connect(port))
        }
    }

    @Test func aConnectionServesSoManyRequests() async throws {
        var limits = GatewayLimits()
        limits.requestsPerConnection = 3
        try await HTTPProxyTests.withWeb(limits: limits) { port, server, _ in
            let text = try await RawClient.exchange(
                port,
                String(repeating: "GET /a HTTP/1.1\r\nHost: x\r\n\r\n", count: 5)
            )
            #expect(server.requests.count == 3 && text.contains("connection: close\r\n"))
        }
    }

    @Test(
        "a refusal and what a client sent behind it: nothing of it becomes a request",
        arguments: [
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\nab",
            "GET / HTTP/1.1\nHost: x\n\n", "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        ]
    )
    func nothingBehindARefusal(_ text: String) async throws {
        try await HTTPProxyTests.withWeb { port, server, _ in
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
            let answer = try await RawClient.exchange(port, text + smuggled)
            #expect(answer.hasPrefix("HTTP/1.1 400 ") && answer.contains("connection: close\r\n"))
            #expect(!server.requests.contains { $0.contains("smuggled") })
        }
    }

    @Test("a request that regular expressions would take too long for is refused, and its connection goes on")
    func regularExpressions() async throws {
        let regex = try BoundedRegex(pattern: "/(?:a{250}b|a)*c")
        let rule = HTTPRule(
            origin: "heavy",
            matches: [HTTPMatch(path: .regex(regex))],
            action: .forward([backend("web")])
        )
        try await HTTPProxyTests.withWeb([rule]) { port, server, rig in
            let long = "GET /\(String(repeating: "a", count: 8_000)) HTTP/1.1\r\nHost: x\r\n\r\n"
            let text = try await RawClient.exchange(
                port,
                long + "GET /aac HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            #expect(statuses(text) == [431, 200] && text.contains("regular expressions"))
            #expect(server.requests == ["GET /aac 0"])
            #expect(await rig.service.reports().reduce(0) { $0 + $1.requestsTooComplex } == 1)
        }
    }

    @Test("a client that leaves in the middle leaves nothing open")
    func clientsLeave() async throws {
        try await HTTPProxyTests.withWeb { port, server, rig in
            for index in 0..<20 {
                let client = try await RawClient.connect(port)
                try await client.send(
                    index % 2 == 0
                        ? "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"
                        : "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"
                )
                try await eventually("the request comes") {
                    await rig.service.reports().reduce(0) { $0 + $1.requests } == UInt64(index + 1)
                }
                // A reset: a client that only ends its output still waits for its answer.
                try await client.reset()
            }
            try await eventually("all is over") {
                await rig.service.reports().allSatisfy { $0.requestsOpen == 0 && $0.connectionsOpen == 0 }
            }
        }
    }
}

@Suite struct GatewayListenersTests {
    private static func link(_ index: Int32, _ name: String, isUp: Bool = true) -> NetworkLink {
        NetworkLink(index: index, name: name, isUp: isUp, kind: nil)
    }

    private static func address(_ link: Int32, _ text: String) throws -> LinkAddress {
        LinkAddress(linkIndex: link, address: try #require(IPAddress(text)), prefixLength: 24)
    }

    @Test func interfacesAndBlocksSelect() throws {
        let links = [Self.link(1, "lo"), Self.link(2, "eth0"), Self.link(3, "eth1"), Self.link(4, "down", isUp: false)]
        let addresses = [
            try Self.address(1, "127.0.0.1"), try Self.address(2, "10.0.0.1"), try Self.address(2, "fe80::1"),
            try Self.address(2, "2001:db8::1"), try Self.address(3, "10.0.1.1"), try Self.address(4, "10.0.2.1"),
        ]
        func chosen(_ change: (inout GatewaySettings) throws -> Void) rethrows -> [String] {
            var settings = GatewaySettings()
            try change(&settings)
            return settings.addresses(links: links, addresses: addresses).map { "\($0)" }
        }
        #expect(chosen { _ in } == ["0.0.0.0", "::"])
        #expect(chosen { $0.interfaces = ["eth0"] } == ["10.0.0.1", "2001:db8::1"])
        #expect(
            chosen { $0.interfaces = ["eth0", "eth1", "down", "none"] } == ["10.0.0.1", "10.0.1.1", "2001:db8::1"]
        )
        #expect(try chosen { $0.includedBlocks = [try #require(CIDR("10.0.0.0/16"))] } == ["10.0.0.1", "10.0.1.1"])
        #expect(
            try chosen {
                $0.includedBlocks = [try #require(CIDR("10.0.0.0/16"))]
                $0.excludedBlocks = [try #require(CIDR("10.0.1.1"))]
            } == ["10.0.0.1"]
        )
        #expect(try chosen { $0.excludedBlocks = [try #require(CIDR("0.0.0.0/0"))] } == ["2001:db8::1"])
    }

    /// Holds a port that the kernel gives to nobody by itself, so that it is still free when the holder lets it go.
    private static func holdPort() async throws -> (any Channel, UInt16) {
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        var tries = 0
        while true {
            let port = UInt16.random(in: 10_000..<32_000)
            tries += 1
            do { return (try await bootstrap.bind(host: "127.0.0.1", port: Int(port)).get(), port) } catch {
                if tries == 100 { throw error }
            }
        }
    }

    @Test("a port that somebody else has is told and taken once it is free; other listeners go on")
    func conflicts() async throws {
        let (holder, taken) = try await Self.holdPort()
        let answer = ListenerPlan.Service.http(
            hosts([HTTPRule(origin: "", matches: [], action: .respond(DirectResponse(status: 200)))])
        )
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        try await GatewayRig.with([answer], services: []) { rig, ports in
            let open = try await RawClient.connect(ports[0])
            try await open.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            try await open.wait(for: "HTTP/1.1 200 ")
            var plan = rig.plan([answer])
            plan.listeners.append(
                ListenerPlan(
                    key: ListenerPlan.Key(transport: .tcp, address: loopback, port: taken),
                    service: answer,
                    origins: ["Gateway shop/second"]
                )
            )
            rig.plans.yield(plan)
            try await eventually("the conflict is told") {
                await rig.service.listenEntries.contains { $0.problem != nil }
            }
            let status = await rig.service.status()
            #expect(status["listeners"]?.array?.contains { $0["problem"] != nil } ?? false)
            try await holder.close()
            await rig.service.refresh()
            try await eventually("the port is taken") {
                await rig.service.listenEntries.allSatisfy { $0.problem == nil }
            }
            let onTakenPort = try await RawClient.exchange(taken, request)
            #expect(onTakenPort.hasPrefix("HTTP/1.1 200 "))
            // A listener that goes takes no connection of the others with it.
            rig.plans.yield(rig.plan([answer]))
            try await eventually("it is gone") { await rig.service.listenEntries.count == 1 }
            try await open.send(request)
            let onOpenConnection = try await open.end()
            #expect(onOpenConnection.contains("connection: close\r\n"))
        }
    }
}
