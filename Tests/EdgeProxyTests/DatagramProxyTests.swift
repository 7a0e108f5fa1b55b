import ByteStreams
import LinuxNetwork
import LoadBalancing
import MeshCore
import NIOCore
import NIOPosix
import ServiceCatalog
import Synchronization
import Testing

@testable import EdgeProxy

/// A UDP socket of a test: answers with `reply`, and remembers what came.
final class DatagramPeer: ChannelInboundHandler, Sendable {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private struct State {
        var received: [[UInt8]] = []
        var senders: Set<SocketAddress> = []
    }

    private let state = Mutex(State())
    private let reply: (@Sendable ([UInt8]) -> [UInt8])?

    init(reply: (@Sendable ([UInt8]) -> [UInt8])? = nil) {
        self.reply = reply
    }

    var received: [[UInt8]] { self.state.withLock { $0.received } }
    var senders: Set<SocketAddress> { self.state.withLock { $0.senders } }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        let bytes = Array(buffer: envelope.data)
        self.state.withLock { state in
            state.received.append(bytes)
            state.senders.insert(envelope.remoteAddress)
        }
        if let reply = self.reply {
            context.channel.writeAndFlush(
                AddressedEnvelope(remoteAddress: envelope.remoteAddress, data: ByteBuffer(bytes: reply(bytes))),
                promise: nil
            )
        }
    }

    func open(_ address: String, port: Int = 0) async throws -> any Channel {
        try await DatagramBootstrap(group: Loopback.group)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelOption(SocketOption.receiveBufferBytes, value: 1 << 20)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(self) }
            }
            .bind(host: address, port: port).get()
    }

    /// Returns when `count` datagrams have come.
    func wait(_ count: Int) async throws {
        while self.received.count < count { try await Loopback.pause() }
    }
}

@Suite("User-space UDP", .timeLimit(.minutes(1)))
struct DatagramProxyTests {
    private func send(_ channel: any Channel, _ bytes: [UInt8], to address: TransportAddress) async throws {
        try await channel.writeAndFlush(
            AddressedEnvelope(remoteAddress: SocketAddress(address), data: ByteBuffer(bytes: bytes))
        )
    }

    @Test("datagrams of every size keep their boundaries both ways", arguments: [0, 1, 1_472, 4_097, 65_507])
    func sizes(size: Int) async throws {
        let server = DatagramPeer { $0 }
        let serverChannel = try await server.open("127.0.0.1")
        let service = try Loopback.service(
            ["127.0.0.1"],
            port: Loopback.port(serverChannel),
            transportProtocol: .udp
        )
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let client = DatagramPeer()
            let channel = try await client.open("127.0.0.1")
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            try await self.send(channel, bytes, to: listeners.udpV4)
            try await self.send(channel, [9], to: listeners.udpV4)
            try await client.wait(2)
            #expect(client.received == [bytes, [9]])
            #expect(client.senders == [SocketAddress(listeners.udpV4)], "replies come from the listener")
            #expect(server.senders.count == 1, "one session, one source port")
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 1)
            try await channel.close()
        }
        try await serverChannel.close()
    }

    @Test("each client has its own session, and sessions are balanced")
    func balanced() async throws {
        let first = DatagramPeer { _ in [2] }
        let second = DatagramPeer { _ in [3] }
        let firstChannel = try await first.open("127.0.0.2")
        let port = Loopback.port(firstChannel)
        let secondChannel = try await second.open("127.0.0.3", port: Int(port))
        let service = try Loopback.service(["127.0.0.2", "127.0.0.3"], port: port, transportProtocol: .udp)
        try await Loopback.withProxy([service]) { _, listeners, _, _ in
            var answers: [UInt8] = []
            for _ in 0..<6 {
                let client = DatagramPeer()
                let channel = try await client.open("127.0.0.1")
                try await self.send(channel, [1], to: listeners.udpV4)
                try await client.wait(1)
                answers += client.received.flatMap { $0 }
                try await channel.close()
            }
            #expect(answers.sorted() == [2, 2, 2, 3, 3, 3])
        }
        try await firstChannel.close()
        try await secondChannel.close()
    }

    @Test("at the bound the oldest session goes, and the table never grows beyond it")
    func bound() async throws {
        let server = DatagramPeer { $0 }
        let serverChannel = try await server.open("127.0.0.1")
        var limits = ProxyLimits()
        limits.maximumSessions = 1
        let service = try Loopback.service(
            ["127.0.0.1"],
            port: Loopback.port(serverChannel),
            transportProtocol: .udp
        )
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            for _ in 0..<8 {
                let client = DatagramPeer()
                let channel = try await client.open("127.0.0.1")
                try await self.send(channel, [1], to: listeners.udpV4)
                while true {
                    let refused = await Loopback.total(proxy, \.datagrams.sessionsRefused)
                    let opened = await Loopback.total(proxy, \.datagrams.sessionsOpened)
                    if refused + opened > 0, client.received.count == 1 || refused > 0 { break }
                    try await Loopback.pause()
                }
                try await channel.close()
            }
            let open = await proxy.counters().reduce(0) { $0 + $1.datagrams.sessionsOpen }
            #expect(open <= 1)
            let evicted = await Loopback.total(proxy, \.datagrams.sessionsEvicted)
            let refused = await Loopback.total(proxy, \.datagrams.sessionsRefused)
            #expect(evicted + refused > 0)
        }
        try await serverChannel.close()
    }

    @Test("a refusal of the endpoint ends the session, and the next datagram begins another")
    func refused() async throws {
        // An address of its own: the port that is let go is no other test's then.
        let address = "127.0.77.1"
        let former = DatagramPeer()
        let formerChannel = try await former.open(address)
        let port = Loopback.port(formerChannel)
        try await formerChannel.close()
        let service = try Loopback.service([address], port: port, transportProtocol: .udp)
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let client = DatagramPeer()
            let channel = try await client.open("127.0.0.1")
            try await self.send(channel, [1], to: listeners.udpV4)
            while await Loopback.total(proxy, \.datagrams.sessionsOpened) == 0 { try await Loopback.pause() }
            while await proxy.counters().reduce(0, { $0 + $1.datagrams.sessionsOpen }) > 0 {
                try await Loopback.pause()
            }
            let server = DatagramPeer { $0 }
            let serverChannel = try await server.open(address, port: Int(port))
            try await self.send(channel, [2], to: listeners.udpV4)
            try await client.wait(1)
            #expect(client.received == [[2]])
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 2)
            try await channel.close()
            try await serverChannel.close()
        }
    }

    @Test("an endpoint that answered and is gone loses its session at once: the flow goes on with another endpoint")
    func goneAfterAnswer() async throws {
        let first = DatagramPeer { _ in [2] }
        let second = DatagramPeer { _ in [3] }
        let channels = try await [first.open("127.0.0.2")]
        let port = Loopback.port(channels[0])
        let others = try await [second.open("127.0.0.3", port: Int(port))]
        let service = try Loopback.service(["127.0.0.2", "127.0.0.3"], port: port, transportProtocol: .udp)
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let client = DatagramPeer()
            let channel = try await client.open("127.0.0.1")
            try await self.send(channel, [1], to: listeners.udpV4)
            try await client.wait(1)
            let (gone, left) = client.received == [[2]] ? (channels, others) : (others, channels)
            try await gone[0].close()
            // The first of these is answered by an ICMP error, which ends the session; one after it begins another.
            while client.received.count < 2 {
                try await self.send(channel, [1], to: listeners.udpV4)
                try await Loopback.pause()
            }
            #expect(Set(client.received) == [[2], [3]])
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 2)
            try await channel.close()
            try await left[0].close()
        }
    }

    @Test("a client that is gone when its answer comes ends nothing for others")
    func clientGone() async throws {
        let server = DatagramPeer { $0 }
        let serverChannel = try await server.open("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(serverChannel), transportProtocol: .udp)
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            for _ in 0..<10 {
                let gone = try await DatagramPeer().open("127.0.0.1")
                try await self.send(gone, [1], to: listeners.udpV4)
                try await gone.close()
            }
            while await Loopback.total(proxy, \.datagrams.toClient) < 10 { try await Loopback.pause() }
            let client = DatagramPeer()
            let channel = try await client.open("127.0.0.1")
            try await self.send(channel, [2], to: listeners.udpV4)
            try await client.wait(1)
            #expect(client.received == [[2]])
            #expect(await Loopback.total(proxy, \.listenersRestarted) == 0)
            try await channel.close()
        }
        try await serverChannel.close()
    }

    @Test(
        "a source port that talks to another service after a silence gets another session; to the same one it keeps its own"
    )
    func reusedPort() async throws {
        let former = DatagramPeer { _ in [2] }
        let later = DatagramPeer { _ in [3] }
        let formerChannel = try await former.open("127.0.0.1")
        let laterChannel = try await later.open("127.0.0.1")
        func service(_ name: String, _ clusterIP: String, _ server: any Channel) throws -> ServiceCatalog.Service {
            try makeService(
                name,
                clusterIP: clusterIP,
                transportProtocol: .udp,
                endpointPort: Loopback.port(server),
                endpoints: [try endpoint("127.0.0.1", node: "elsewhere")]
            )
        }
        let services = [
            try service("former", "10.96.0.10", formerChannel), try service("later", "10.96.0.11", laterChannel),
        ]
        let destination = Mutex(try transport("10.96.0.10:80"))
        let next = try transport("10.96.0.11:80")
        var limits = ProxyLimits()
        limits.revalidationTime = .zero
        let current: UDPOriginalDestination = { _, _ in destination.withLock { $0 } }
        try await Loopback.withProxy(services, limits: limits, udpDestination: current) { proxy, listeners, _, _ in
            let client = DatagramPeer()
            let channel = try await client.open("127.0.0.1")
            for count in 1...2 {
                try await self.send(channel, [1], to: listeners.udpV4)
                try await client.wait(count)
            }
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 1)
            destination.withLock { $0 = next }
            try await self.send(channel, [1], to: listeners.udpV4)
            try await client.wait(3)
            #expect(client.received == [[2], [2], [3]])
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 2)
            #expect(await proxy.counters().reduce(0) { $0 + $1.datagrams.sessionsOpen } == 1)
            try await channel.close()
        }
        try await formerChannel.close()
        try await laterChannel.close()
    }

    @Test("sessions of an endpoint that left the catalog end; the others go on")
    func endpointGone() async throws {
        let server = DatagramPeer { $0 }
        let serverChannel = try await server.open("127.0.0.2")
        let port = Loopback.port(serverChannel)
        let before = try Loopback.service(["127.0.0.2"], port: port, transportProtocol: .udp)
        let both = try Loopback.service(["127.0.0.2", "127.0.0.3"], port: port, transportProtocol: .udp)
        let after = try Loopback.service(["127.0.0.3"], port: port, transportProtocol: .udp)
        try await Loopback.withProxy([before]) { proxy, listeners, catalog, programming in
            let client = DatagramPeer()
            let channel = try await client.open("127.0.0.1")
            try await self.send(channel, [1], to: listeners.udpV4)
            try await client.wait(1)
            catalog.set([both])
            await programming.wait { $0.updates.count == 1 }
            _ = await proxy.parts.programmer.plans()
            #expect(await proxy.counters().reduce(0) { $0 + $1.datagrams.sessionsOpen } == 1)
            catalog.set([after])
            await programming.wait { $0.updates.count == 2 }
            while await proxy.counters().reduce(0, { $0 + $1.datagrams.sessionsOpen }) > 0 {
                try await Loopback.pause()
            }
            try await channel.close()
        }
        try await serverChannel.close()
    }

    @Test("datagrams that nothing redirected are dropped and counted")
    func withoutRoute() async throws {
        let service = try Loopback.service(["127.0.0.1"], port: 9, transportProtocol: .udp)
        try await Loopback.withProxy([service], destination: nil) { proxy, listeners, _, _ in
            let channel = try await DatagramPeer().open("127.0.0.1")
            try await self.send(channel, [1], to: listeners.udpV4)
            while await Loopback.total(proxy, \.datagramsWithoutRoute) == 0 { try await Loopback.pause() }
            #expect(await Loopback.total(proxy, \.datagrams.sessionsOpened) == 0)
            try await channel.close()
        }
    }
}
