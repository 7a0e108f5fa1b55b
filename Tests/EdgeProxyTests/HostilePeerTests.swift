import ByteStreams
import EndpointBalancing
import LinuxNetwork
import LoadBalancing
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization
import Testing

@testable import EdgeProxy

/// Peers that stop, vanish or change their mind at the wrong time, over real sockets.
@Suite("Peers that misbehave", .timeLimit(.minutes(1)))
struct HostilePeerTests {
    /// Sends `size` bytes and its end to whoever connects; reads and drops what comes.
    private func sender(_ size: Int) async throws -> any Channel {
        try await Loopback.server("127.0.0.1") {
            Peer(
                onActive: { channel in
                    for sent in stride(from: 0, to: size, by: 1 << 20) {
                        channel.write(ByteBuffer(repeating: 7, count: min(size - sent, 1 << 20)), promise: nil)
                    }
                    channel.writeAndFlush(ByteBuffer()).assumeIsolated().whenComplete { _ in
                        channel.close(mode: .output, promise: nil)
                    }
                },
                onEnd: { _, _ in }
            )
        }
    }

    /// A client that reads only what it is told to.
    private func client(
        _ address: TransportAddress,
        onEnd: @escaping @Sendable (Exchange) -> Void = { _ in }
    ) async throws -> any Channel {
        try await ClientBootstrap(group: Loopback.group)
            .channelOption(.autoRead, value: false)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(SocketOption.receiveBufferBytes, value: 16 << 10)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Peer(onEnd: { onEnd($1) }))
                }
            }
            .connect(to: SocketAddress(address)).get()
    }

    /// Returns when a figure has not grown for a while.
    private func settled(_ figure: () async -> UInt64) async throws -> UInt64 {
        var last = await figure()
        var quiet = 0
        while quiet < 10 || last == 0 {
            try await Task.sleep(for: .milliseconds(20))
            let now = await figure()
            quiet = now == last ? quiet + 1 : 0
            last = now
        }
        return last
    }

    @Test("of 64 MiB for a client that never reads the proxy takes in no more than its buffers and the sockets' hold")
    func neverReads() async throws {
        let server = try await self.sender(64 << 20)
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let client = try await self.client(listeners.tcpV4)
            let taken = try await self.settled { await Loopback.total(proxy, \.serverToClientBytes) }
            // Linux lets a send buffer grow to 4 MiB (net.ipv4.tcp_wmem) and the client's own is small.
            #expect(taken < 8 << 20, "\(taken) bytes")
            // Others are served meanwhile.
            let other = try await Loopback.exchange(listeners.tcpV4)
            #expect(other.bytes.count == 64 << 20)
            try await client.close()
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
        }
        try await server.close()
    }

    @Test("a client that does not take what is left for it when its server has ended is reset at the deadline")
    func linger() async throws {
        // More than the sockets to the client take, and no more than the proxy reads for a client that takes nothing: then the
        // server's end reaches the proxy, and finds bytes that wait.
        let size = StreamOptions.highWaterMark + GlueReceiveAllocator.maximum
        let server = try await self.sender(size)
        var limits = ProxyLimits()
        limits.lingerTimeout = .milliseconds(200)
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service], limits: limits, sendBufferBytes: 8 << 10) { proxy, listeners, _, _ in
            let ended = Loopback.group.next().makePromise(of: Exchange.self)
            let client = try await self.client(listeners.tcpV4) { ended.succeed($0) }
            while await Loopback.total(proxy, \.connectionsLingered) == 0 { try await Loopback.pause() }
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            #expect(await Loopback.total(proxy, \.connectionsLingered) == 1)
            #expect(await Loopback.total(proxy, \.serverToClientBytes) == UInt64(size))
            try? await client.close()
            _ = try await ended.futureResult.get()
        }
        try await server.close()
    }

    @Test("a client that ends its output while it still reads slowly gets every byte", arguments: [1, 8])
    func slowReaderEndsFirst(mebibytes: Int) async throws {
        let server = try await self.sender(mebibytes << 20)
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let ended = Loopback.group.next().makePromise(of: Exchange.self)
            let client = try await self.client(listeners.tcpV4) { ended.succeed($0) }
            _ = try await self.settled { await Loopback.total(proxy, \.serverToClientBytes) }
            try await client.close(mode: .output)
            try await client.setOption(.autoRead, value: true).get()
            client.read()
            let exchange = try await ended.futureResult.get()
            #expect(exchange.bytes.count == mebibytes << 20)
            #expect(!exchange.wasReset)
            try? await client.close()
        }
        try await server.close()
    }

    @Test(
        "a backend that accepts and closes at once, or resets, ends its client at once and leaves nothing",
        arguments: [false, true]
    )
    func closesAtOnce(resets: Bool) async throws {
        let server = try await Loopback.server("127.0.0.1") {
            Peer(onActive: { channel in
                if resets { channel.closeWithReset() } else { channel.close(promise: nil) }
            })
        }
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            for _ in 0..<10 {
                let exchange = try await Loopback.exchange(listeners.tcpV4, send: Array("GET".utf8))
                #expect(exchange.bytes.isEmpty)
            }
            // A reset may come so early that the dial counts as failed.
            if !resets { #expect(await Loopback.total(proxy, \.dialsFailed) == 0) }
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
        }
        try await server.close()
    }

    @Test("a client that resets while its endpoint is dialled leaves nothing")
    func resetsWhileDialling() async throws {
        var limits = ProxyLimits()
        limits.dialTimeout = .milliseconds(300)
        limits.maximumDials = 1
        // TEST-NET-1: no answer, or an error at once where there is no route.
        let service = try Loopback.service(["192.0.2.1"], port: 9)
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            for _ in 0..<10 {
                let client = try? await self.client(listeners.tcpV4)
                try? await client?.eventLoop.submit { client?.closeWithReset() }.get()
            }
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            let active = await proxy.parts.programmer.balancers.map { $0.status(limit: 1) }.joined().map(\.active)
            #expect(active.allSatisfy { $0 == 0 })
        }
    }

    @Test("an endpoint that leaves while it is dialled: the next dial goes to one that is listed")
    func leavesWhileDialled() async throws {
        let server = try await Loopback.nameServer("127.0.0.2")
        let port = Loopback.port(server)
        var limits = ProxyLimits()
        limits.dialTimeout = .seconds(1)
        let before = try Loopback.service(["192.0.2.1"], port: port)
        let after = try Loopback.service(["127.0.0.2"], port: port)
        try await Loopback.withProxy([before], limits: limits) { proxy, listeners, catalog, programming in
            async let exchange = Loopback.exchange(listeners.tcpV4)
            while await Loopback.open(proxy) == 0, await Loopback.total(proxy, \.connectionsUnserved) == 0 {
                try await Loopback.pause()
            }
            catalog.set([after])
            await programming.wait { !$0.updates.isEmpty }
            let result = try await exchange
            // Where the dial failed at once the change came too late for it.
            let cameInTime = await Loopback.total(proxy, \.connectionsUnserved) == 0
            #expect(result.text == (cameInTime ? "127.0.0.2" : ""))
        }
        try await server.close()
    }

    @Test("new limits hold for what comes next, and open connections go on")
    func liveLimits() async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, programming in
            let ended = Loopback.group.next().makePromise(of: Exchange.self)
            let open = try await self.client(listeners.tcpV4) { ended.succeed($0) }
            try await open.writeAndFlush(ByteBuffer(string: "before "))
            while await Loopback.open(proxy) == 0 { try await Loopback.pause() }
            var configuration = EdgeProxyService.Configuration(
                planner: ServicePlanner(nodeName: "a", routableCIDRs: [try cidr("127.0.0.0/8")]),
                tcpV4: listeners.tcpV4,
                udpV4: listeners.udpV4
            )
            configuration.limits.maximumConnections = 1
            proxy.update(configuration)
            await programming.wait { state in state.updates.contains { $0.values.contains { $0?.action != .proxy } } }
            #expect(proxy.listeners == listeners)
            let refused = try await Loopback.exchange(listeners.tcpV4)
            #expect(refused.wasReset)
            #expect(await Loopback.total(proxy, \.connectionsOverLimit) == 1)
            configuration.planner.reach.routableCIDRs = []
            proxy.update(configuration)
            await programming.wait { $0.updates.count == 2 }
            try await open.writeAndFlush(ByteBuffer(string: "and after"))
            // Before the end: the echo of that may close the channel at once.
            try await open.setOption(.autoRead, value: true).get()
            try await open.close(mode: .output)
            #expect(try await ended.futureResult.get().text == "before and after")
            try? await open.close()
        }
        try await server.close()
    }

    @Test("a changed ring size and load factor choose for new connections while open ones go on")
    func liveRing() async throws {
        func ring(_ size: Int, _ load: Double) -> LoadBalancingPolicy {
            .consistentHash(
                ConsistentHashPolicy(key: .sourceAddress, algorithm: .ring(minimumSize: size, loadFactor: load))
            )
        }
        let addresses = ["127.0.0.2", "127.0.0.3"]
        let route = { (policy: LoadBalancingPolicy) throws -> ProxyRoute in
            let service = try Loopback.service(addresses, port: 80, policy: policy)
            let plan = ServicePlanner(nodeName: "a").plan(service)
            guard let route = plan?.frontends.first?.route else { throw BadFixture(text: "no route") }
            return route
        }
        let balancer = RouteBalancer(try route(ring(64, 100)), seed: 1)
        let context = PickContext(client: try ip("10.0.0.1"), now: .now())
        var picks: [RouteBalancer.Pick] = []
        for _ in 0..<40 { picks.append(try #require(balancer.begin(context))) }
        #expect(Set(picks.map(\.slot)).count == 1, "one key, no bound to speak of")
        balancer.update(try route(ring(128, 1)))
        #expect(balancer.status(limit: 2).map(\.active).max() == 40, "open connections are counted on")
        let next = try #require(balancer.begin(context))
        #expect(next.slot != picks[0].slot, "over its share: the next endpoint of the ring")
        for pick in picks + [next] { balancer.end(pick) }
        #expect(balancer.status(limit: 2).allSatisfy { $0.active == 0 })
    }

    @Test("a large ring is built beside the loops, once, while picks go on")
    func largeRing() async throws {
        let endpoints = try (0..<5_000).map { try endpoint("10.\(1 + $0 / 250).0.\($0 % 250)", node: "elsewhere") }
        let policy = LoadBalancingPolicy.consistentHash(
            ConsistentHashPolicy(key: .sourceAddress, algorithm: .ring(minimumSize: 500_000, loadFactor: 1.25))
        )
        let service = try makeService(endpoints: endpoints, policy: policy)
        let plan = ServicePlanner(nodeName: "a").plan(service)
        let balancer = RouteBalancer(try #require(plan?.frontends.first?.route), seed: 1)
        let context = PickContext(client: try ip("10.0.0.1"), now: .now())
        #expect(!balancer.isBuildingTable)
        let first = try #require(balancer.begin(context))
        #expect(balancer.isBuildingTable)
        let second = try #require(balancer.begin(context))
        #expect(first.slot == second.slot)
        while balancer.isBuildingTable { try await Loopback.pause() }
        let third = try #require(balancer.begin(context))
        let fourth = try #require(balancer.begin(context))
        #expect(third.slot == fourth.slot)
        #expect(!balancer.isBuildingTable)
    }
}
