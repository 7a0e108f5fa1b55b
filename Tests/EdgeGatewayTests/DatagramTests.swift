import ByteStreams
import GatewayRouting
import KubeModel
import MeshCore
import MeshTesting
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization
import Testing

@testable import EdgeGateway

/// A UDP socket that keeps what it gets, and may answer it.
final class DatagramPeer: Sendable {
    let received = Mutex<[String]>([])
    let channel: any Channel
    var port: UInt16 { UInt16(self.channel.localAddress?.port ?? 0) }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = AddressedEnvelope<ByteBuffer>
        let receive: (String, SocketAddress, ChannelHandlerContext) -> Void
        init(_ receive: @escaping (String, SocketAddress, ChannelHandlerContext) -> Void) { self.receive = receive }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let envelope = self.unwrapInboundIn(data)
            self.receive(String(buffer: envelope.data), envelope.remoteAddress, context)
        }
    }

    private init(_ channel: any Channel) { self.channel = channel }

    /// - Parameter name: of a server, which answers everything with it in front; nil only listens.
    static func open(_ name: String? = nil) async throws -> DatagramPeer {
        let channel = try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(host: "127.0.0.1", port: 0).get()
        let peer = DatagramPeer(channel)
        try await channel.eventLoop.submit {
            let handler = Handler { text, sender, context in
                peer.received.withLock { $0.append(text) }
                guard let name else { return }
                let answer = AddressedEnvelope(remoteAddress: sender, data: ByteBuffer(string: "\(name): \(text)"))
                context.writeAndFlush(NIOAny(answer), promise: nil)
            }
            try channel.pipeline.syncOperations.addHandler(handler)
        }.get()
        return peer
    }

    func send(_ text: String, to port: UInt16, host: String = "127.0.0.1") async throws {
        let address = try SocketAddress(ipAddress: host, port: Int(port))
        try await self.channel.writeAndFlush(AddressedEnvelope(remoteAddress: address, data: ByteBuffer(string: text)))
    }

    /// Sends until an answer comes, as what is sent over UDP may be lost.
    func ask(_ text: String, _ port: UInt16, host: String = "127.0.0.1") async throws -> String {
        let before = self.received.withLock { $0.count }
        try await eventually("an answer to \(text)") {
            try await self.send(text, to: port, host: host)
            for _ in 0..<20 where self.received.withLock({ $0.count }) == before {
                try await Task.sleep(for: .milliseconds(5))
            }
            return self.received.withLock { $0.count } > before
        }
        return self.received.withLock { $0[before] }
    }
}

/// A service with UDP endpoints on these ports of 127.0.0.1.
private func udpService(_ name: String, _ ports: [UInt16]) -> Service {
    var object = ServiceObject(name: serviceName(name))
    object.ports = [ServiceObject.Port(transport: .udp, port: 80)]
    return Service(
        object: object,
        groups: ports.map {
            EndpointGroup(
                ports: [EndpointPort(transport: .udp, port: $0)],
                endpoints: [Endpoint(address: loopback, nodeName: "a")]
            )
        },
        policy: nil,
        portPolicies: [:],
        isProxied: true
    )
}

@Suite struct DatagramTests {
    /// A gateway with one UDP listener.
    private func with(
        _ route: StreamRoute,
        _ services: [Service],
        limits: GatewayLimits = GatewayLimits(),
        _ body: (UInt16, GatewayRig) async throws -> Void
    ) async throws {
        try await GatewayRig.with(
            [.stream(route)],
            services: services,
            transport: .udp,
            limits: limits
        ) { rig, ports in try await body(ports[0], rig) }
    }

    private func counters(_ rig: GatewayRig) async -> DatagramFigures {
        await rig.service.reports().first?.datagrams ?? DatagramFigures()
    }

    @Test("a client keeps its backend, and gets what that sends")
    func sessions() async throws {
        let servers = [try await DatagramPeer.open("one"), try await DatagramPeer.open("two")]
        try await self.with(
            StreamRoute(backends: [backend("web")]),
            [udpService("web", servers.map(\.port))]
        ) { port, rig in
            var names: Set<Substring> = []
            for _ in 0..<4 {
                let client = try await DatagramPeer.open()
                let first = try await client.ask("a", port)
                for text in ["b", "c"] {
                    #expect(try await client.ask(text, port).prefix(3) == first.prefix(3))
                }
                names.insert(first.prefix(3))
                try await client.channel.close()
            }
            #expect(names == ["one", "two"], "both have their turns")
            let counters = await self.counters(rig)
            #expect(counters.sessionsOpened == 4 && counters.toServer >= 12 && counters.toClient >= 12)
        }
        for server in servers { try await server.channel.close() }
    }

    @Test("weights share clients, and a backend without endpoints refuses its share")
    func weights() async throws {
        let server = try await DatagramPeer.open("one")
        var (full, empty) = (backend("web"), backend("empty"))
        (full.weight, empty.weight) = (1, 1)
        try await self.with(
            StreamRoute(backends: [full, empty]),
            [udpService("web", [server.port]), udpService("empty", [])]
        ) { port, rig in
            // Each datagram of a client without a session draws anew: all are served in the end.
            let client = try await DatagramPeer.open()
            #expect(try await client.ask("a", port) == "one: a")
            var refused: UInt64 = 0
            for index in 0..<200 where refused == 0 {
                let other = try await DatagramPeer.open()
                _ = try await other.ask("\(index)", port)
                refused = await self.counters(rig).sessionsRefused
                try await other.channel.close()
            }
            // Of 200 clients none draws the empty one with a probability of 2^-200.
            #expect(refused > 0)
            try await client.channel.close()
        }
        try await server.channel.close()
    }

    @Test("sessions are bounded, of all clients and of one")
    func bounds() async throws {
        let server = try await DatagramPeer.open("one")
        var limits = GatewayLimits()
        limits.maximumSessions = 2
        try await self.with(
            StreamRoute(backends: [backend("web")]),
            [udpService("web", [server.port])],
            limits: limits
        ) { port, rig in
            for _ in 0..<4 {
                let client = try await DatagramPeer.open()
                _ = try await client.ask("a", port)
                try await client.channel.close()
            }
            let counters = await self.counters(rig)
            #expect(counters.sessionsOpen == 2 && counters.sessionsEvicted == 2)
        }
        limits.maximumSessions = 10
        limits.maximumSessionsPerClient = 2
        try await self.with(
            StreamRoute(backends: [backend("web")]),
            [udpService("web", [server.port])],
            limits: limits
        ) { port, rig in
            for _ in 0..<2 { _ = try await (try await DatagramPeer.open()).ask("a", port) }
            let third = try await DatagramPeer.open()
            try await eventually("the third is refused") {
                try await third.send("a", to: port)
                return await self.counters(rig).sessionsRefused > 0
            }
            #expect(third.received.withLock { $0 }.isEmpty)
            #expect(await self.counters(rig).sessionsOpen == 2)
        }
        try await server.channel.close()
    }

    @Test("silent sessions end: by the route's time if it was answered, else sooner")
    func timeouts() async throws {
        let server = try await DatagramPeer.open("one")
        let silent = try await DatagramPeer.open()
        var limits = GatewayLimits()
        limits.unrepliedTimeout = .milliseconds(1)
        limits.sessionIdleTimeout = .hours(1)
        let services = [udpService("web", [server.port]), udpService("silent", [silent.port])]
        try await self.with(StreamRoute(backends: [backend("silent")]), services, limits: limits) { port, rig in
            let client = try await DatagramPeer.open()
            try await eventually("it comes") {
                try await client.send("a", to: port)
                return !silent.received.withLock { $0 }.isEmpty
            }
            try await eventually("it is over") { await self.counters(rig).sessionsOpen == 0 }
        }
        limits.unrepliedTimeout = .hours(1)
        let route = StreamRoute(backends: [backend("web")], idleTimeout: .milliseconds(1))
        try await self.with(route, services, limits: limits) { port, rig in
            _ = try await (try await DatagramPeer.open()).ask("a", port)
            try await eventually("it is over") { await self.counters(rig).sessionsOpen == 0 }
        }
        try await server.channel.close()
        try await silent.channel.close()
    }

    @Test("a route that changes takes clients along that it does not serve as before")
    func changes() async throws {
        let servers = [try await DatagramPeer.open("one"), try await DatagramPeer.open("two")]
        try await self.with(
            StreamRoute(backends: [backend("one")]),
            [udpService("one", [servers[0].port]), udpService("two", [servers[1].port])]
        ) { port, rig in
            let client = try await DatagramPeer.open()
            #expect(try await client.ask("a", port) == "one: a")
            rig.plans.yield(rig.plan([.stream(StreamRoute(backends: [backend("two")]))], transport: .udp))
            try await eventually("the other answers") { try await client.ask("b", port) == "two: b" }
            try await client.channel.close()
        }
        for server in servers { try await server.channel.close() }
    }
}
