import ByteStreams
import Documents
import LinuxNetwork
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

@Suite("User-space TCP", .timeLimit(.minutes(1)))
struct StreamProxyTests {
    @Test("connections go to the endpoints in turn; a server may speak first")
    func turns() async throws {
        let first = try await Loopback.nameServer("127.0.0.2")
        let second = try await Loopback.nameServer("127.0.0.3", port: Int(Loopback.port(first)))
        let service = try Loopback.service(["127.0.0.2", "127.0.0.3"], port: Loopback.port(first))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            var counts: [String: Int] = [:]
            for _ in 0..<10 { counts[try await Loopback.exchange(listeners.tcpV4).text, default: 0] += 1 }
            #expect(counts == ["127.0.0.2": 5, "127.0.0.3": 5])
            #expect(await Loopback.total(proxy, \.connectionsAccepted) == 10)
        }
        try await first.close()
        try await second.close()
    }

    @Test("a client that ends its output still gets the whole answer", arguments: [1, 5_000_000])
    func halfClose(size: Int) async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { _, listeners, _, _ in
            var generator = SeededGenerator(seed: 7)
            let sent = (0..<size).map { _ in UInt8.random(in: 0...255, using: &generator) }
            let exchange = try await Loopback.exchange(listeners.tcpV4, send: sent, endOutput: true)
            #expect(exchange.carried(sent))
            #expect(!exchange.wasReset)
        }
        try await server.close()
    }

    @Test("a dead endpoint costs a connection nothing but the next dial, and is counted")
    func nextEndpoint() async throws {
        let server = try await Loopback.nameServer("127.0.0.3")
        // Nobody listens on 127.0.0.2.
        let service = try Loopback.service(["127.0.0.2", "127.0.0.3"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            for _ in 0..<6 {
                let exchange = try await Loopback.exchange(listeners.tcpV4)
                #expect(exchange.text == "127.0.0.3")
            }
            // A retry takes its turn, too.
            let failed = await Loopback.total(proxy, \.dialsFailed)
            #expect((3...6).contains(failed))
            #expect(await Loopback.total(proxy, \.connectionsUnserved) == 0)
        }
        try await server.close()
    }

    @Test("if no endpoint answers the client is reset")
    func noneAnswers() async throws {
        let server = try await Loopback.nameServer("127.0.0.1")
        let port = Loopback.port(server)
        try await server.close()
        let service = try Loopback.service(["127.0.0.2", "127.0.0.3"], port: port)
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let exchange = try await Loopback.exchange(listeners.tcpV4)
            #expect(exchange.wasReset)
            #expect(await Loopback.total(proxy, \.dialsFailed) == 2)
            #expect(await Loopback.total(proxy, \.connectionsUnserved) == 1)
        }
    }

    @Test(
        "a connection that was not redirected, or to nothing we serve, is refused",
        arguments: [nil, "10.96.0.99:80", "10.96.0.10:81"]
    )
    func refused(destination: String?) async throws {
        let service = try Loopback.service(["127.0.0.1"], port: 9)
        try await Loopback.withProxy([service], destination: destination) { proxy, listeners, _, _ in
            let exchange1 = try await Loopback.exchange(listeners.tcpV4)
            #expect(exchange1.wasReset)
            #expect(await Loopback.total(proxy, \.connectionsWithoutRoute) == 1)
        }
    }

    /// Each of these has two descriptors.
    @Test(
        "connections above a bound are reset and counted; those below it are not touched",
        arguments: [(connections: 2, descriptors: 128), (20, 4)]
    )
    func bound(connections: Int, descriptors: Int) async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        var limits = ProxyLimits()
        limits.maximumConnections = connections
        limits.maximumDescriptors = descriptors
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            let address = SocketAddress(listeners.tcpV4)
            let held = try await [
                ClientBootstrap(group: Loopback.group).connect(to: address).get(),
                ClientBootstrap(group: Loopback.group).connect(to: address).get(),
            ]
            while await Loopback.open(proxy) < 2 { try await Loopback.pause() }
            let exchange2 = try await Loopback.exchange(listeners.tcpV4)
            #expect(exchange2.wasReset)
            #expect(await Loopback.total(proxy, \.connectionsOverLimit) == 1)
            #expect(held.allSatisfy { $0.isActive })
            for channel in held { try await channel.close() }
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            let after = try await Loopback.exchange(listeners.tcpV4, send: [1, 2], endOutput: true)
            #expect(after.bytes == [1, 2])
        }
        try await server.close()
    }

    @Test("equal headers reach one endpoint and the request arrives unchanged, while an idle client holds up nobody")
    func headerHash() async throws {
        let first = try await Loopback.lateEcho("127.0.0.2")
        let second = try await Loopback.nameServer("127.0.0.3", port: Int(Loopback.port(first)))
        let service = try Loopback.service(
            ["127.0.0.2", "127.0.0.3"],
            port: Loopback.port(first),
            policy: EdgeProxyTests.headerHash
        )
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            // Fact 0.9: in the original this one client stops every service of the node.
            let idle = try await ClientBootstrap(group: Loopback.group).connect(to: SocketAddress(listeners.tcpV4))
                .get()
            var answers: [String: Set<String>] = [:]
            for user in ["ann", "bob", "cid", "dan", "eva", "fay", "gus", "hal"] {
                let request = "POST / HTTP/1.1\r\nHost: x\r\nX-User: \(user)\r\n\r\nbody of \(user)"
                for _ in 0..<3 {
                    let answer = try await Loopback.exchange(
                        listeners.tcpV4,
                        send: Array(request.utf8),
                        endOutput: true
                    ).text
                    #expect(answer == request || answer == "127.0.0.3")
                    answers[user, default: []].insert(answer)
                }
            }
            #expect(answers.values.allSatisfy { $0.count == 1 })
            #expect(Set(answers.values.map { $0.contains("127.0.0.3") }) == [true, false])
            // Its time to show a header may be over by now.
            try? await idle.close()
        }
        try await first.close()
        try await second.close()
    }

    @Test("bytes that are no HTTP fall back to the client's address")
    func notHTTP() async throws {
        let server = try await Loopback.nameServer("127.0.0.1")
        let service = try Loopback.service(
            ["127.0.0.1"],
            port: Loopback.port(server),
            policy: EdgeProxyTests.headerHash
        )
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let exchange = try await Loopback.exchange(listeners.tcpV4, send: [0x16, 3, 1])
            #expect(exchange.text == "127.0.0.1")
            #expect(await Loopback.total(proxy, \.hashKeyNotHTTP) == 1)
        }
        try await server.close()
    }

    @Test("a client that says nothing is served by its address after the deadline: its server may speak first")
    func silence() async throws {
        let server = try await Loopback.nameServer("127.0.0.1")
        var limits = ProxyLimits()
        limits.sniffTimeout = .milliseconds(20)
        let service = try Loopback.service(
            ["127.0.0.1"],
            port: Loopback.port(server),
            policy: EdgeProxyTests.headerHash
        )
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            let exchange = try await Loopback.exchange(listeners.tcpV4)
            #expect(exchange.text == "127.0.0.1")
            #expect(await Loopback.total(proxy, \.hashKeyTimeouts) == 1)
        }
        try await server.close()
    }

    @Test("an endpoint that does not answer holds up neither its own service's clients nor its client for long")
    func blackhole() async throws {
        let server = try await Loopback.nameServer("127.0.0.1")
        // TEST-NET-1: the dial gets no answer, or an error at once where there is no route; both are failures.
        var limits = ProxyLimits()
        limits.dialTimeout = .seconds(1)
        let service = try Loopback.service(["192.0.2.1", "127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            try await withThrowingTaskGroup(of: String.self) { group in
                for _ in 0..<20 { group.addTask { try await Loopback.exchange(listeners.tcpV4).text } }
                for try await text in group { #expect(text == "127.0.0.1") }
            }
            #expect(await Loopback.total(proxy, \.dialsFailed) > 0)
        }
        try await server.close()
    }

    @Test("open connections survive the end of their endpoint in the catalog")
    func survives() async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, catalog, programming in
            let loop = Loopback.group.next()
            let promise = loop.makePromise(of: Exchange.self)
            let channel = try await ClientBootstrap(group: loop)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(Peer(onEnd: { promise.succeed($1) }))
                    }
                }
                .connect(to: SocketAddress(listeners.tcpV4)).get()
            try await channel.writeAndFlush(ByteBuffer(string: "hello"))
            while await Loopback.total(proxy, \.clientToServerBytes) < 5 { try await Loopback.pause() }
            catalog.set([], removing: [service.name])
            await programming.wait { $0.rules.isEmpty }
            try await channel.close(mode: .output)
            let exchange = try await promise.futureResult.get()
            #expect(exchange.text == "hello")
            try? await channel.close()
        }
        try await server.close()
    }

    @Test("a shutdown removes the rules, then cuts what does not end within the drain")
    func drain() async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        var limits = ProxyLimits()
        limits.drainTimeout = .milliseconds(50)
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        let promise = Loopback.group.next().makePromise(of: (any Channel).self)
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, programming in
            promise.completeWith(ClientBootstrap(group: Loopback.group).connect(to: SocketAddress(listeners.tcpV4)))
            _ = try await promise.futureResult.get()
            while await Loopback.open(proxy) < 1 { try await Loopback.pause() }
            #expect(programming.now.removes == 0)
        }
        try await promise.futureResult.get().closeFuture.get()
        try await server.close()
    }

    @Test("the metrics count what happened, and the gauges come down again")
    func metrics() async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let served = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([served]) { proxy, listeners, catalog, programming in
            func value(_ name: String) async -> Double? {
                await proxy.metrics().first { $0.name == "edgemesh_proxy_\(name)" && $0.labels.isEmpty }?.value
            }
            #expect(await value("kernel_installed") == 1)
            #expect(await value("kernel_installs_total") == 1)
            #expect(await value("connections_accepted_total") == 0)
            for _ in 0..<3 {
                let exchange = try await Loopback.exchange(listeners.tcpV4, send: [1, 2, 3, 4], endOutput: true)
                #expect(exchange.bytes == [1, 2, 3, 4])
            }
            #expect(await value("connections_accepted_total") == 3)
            #expect(await value("client_to_server_bytes_total") == 12)
            #expect(await value("server_to_client_bytes_total") == 12)
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            #expect(await value("connections_open") == 0)
            // Nobody listens on port 9 of 127.0.0.2.
            catalog.set([try Loopback.service(["127.0.0.2"], port: 9)])
            await programming.wait { !$0.updates.isEmpty }
            _ = await proxy.parts.programmer.plans()
            #expect(try await Loopback.exchange(listeners.tcpV4).wasReset)
            #expect(await value("connections_unserved_total") == 1)
            #expect(await value("dials_failed_total") == 1)
            #expect(await value("kernel_transactions_total") == 2)
        }
        try await server.close()
    }

    @Test("the status names paths, reasons, endpoints and counters")
    func status() async throws {
        let server = try await Loopback.nameServer("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            _ = try await Loopback.exchange(listeners.tcpV4)
            let status = await proxy.status()
            #expect(status["kernel"]?["backend"]?.string == "recording")
            #expect(status["kernel"]?["installed"]?.bool == true)
            #expect(status["frontendsByPath"]?["user"]?.integer == 1)
            #expect(status["counters"]?["connectionsAccepted"]?.integer == 1)
            let listed = status["services"]?.array?.first?["frontends"]?.array?.first
            #expect(listed?["path"]?.string == "user")
            #expect(listed?["reason"]?.string?.contains("on node elsewhere") == true)
            #expect(listed?["endpoints"]?.array?.first?["failures"]?.integer == 0)
        }
        try await server.close()
    }
}
