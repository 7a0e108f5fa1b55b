import ByteStreams
import EndpointBalancing
import LinuxNetwork
import MeshCore
import NIOCore
import NIOPosix
import Testing

@testable import EdgeProxy

@Suite("TCP that the kernel carries", .timeLimit(.minutes(1)))
struct SplicedConnectionTests {
    private static let bulk = 4_000_000

    private static func bytes(_ count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            for index in 0..<count { buffer[index] = UInt8(truncatingIfNeeded: index &* 31 ^ index >> 8) }
            filled = count
        }
    }

    /// What it gets it sends back at once.
    private func echo() async throws -> any Channel {
        try await Loopback.server("127.0.0.1") {
            Peer(onRead: { channel, bytes in channel.writeAndFlush(bytes, promise: nil) })
        }
    }

    @Test("a connection that moves much is handed over whole; a short one is not", arguments: [1_000, Self.bulk])
    func handedOver(size: Int) async throws {
        let server = try await self.echo()
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            let sent = Self.bytes(size)
            let exchange = try await Loopback.exchange(listeners.tcpV4, send: sent, endOutput: true)
            #expect(exchange.carried(sent))
            #expect(!exchange.wasReset)
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            #expect(await Loopback.total(proxy, \.connectionsSpliced) == (size == Self.bulk ? 1 : 0))
            #expect(await Loopback.total(proxy, \.connectionsAccepted) == 1)
            #expect(await Loopback.total(proxy, \.clientToServerBytes) == UInt64(size))
            #expect(await Loopback.total(proxy, \.serverToClientBytes) == UInt64(size))
            let active = await proxy.parts.programmer.balancers.map { $0.status(limit: 1) }.joined().map(\.active)
            #expect(active == [0])
        }
        try await server.close()
    }

    @Test("beyond the bound bytes are copied as before", arguments: [0, 1])
    func bounded(splices: Int) async throws {
        let server = try await self.echo()
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        var limits = ProxyLimits()
        limits.maximumSplices = splices
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            let sent = Self.bytes(Self.bulk)
            // The first stays open and keeps its place.
            let ended = Loopback.group.next().makePromise(of: Exchange.self)
            let first = try await Self.client(listeners.tcpV4) { ended.succeed($0) }
            try await first.writeAndFlush(ByteBuffer(bytes: sent))
            while await Loopback.total(proxy, { $0.connectionsSpliced + $0.splicesRefused }) == 0 {
                try await Loopback.pause()
            }
            let second = try await Loopback.exchange(listeners.tcpV4, send: sent, endOutput: true)
            #expect(second.carried(sent))
            try await first.close(mode: .output)
            #expect(try await ended.futureResult.get().carried(sent))
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            #expect(await Loopback.total(proxy, \.connectionsSpliced) == UInt64(splices))
            #expect(await Loopback.total(proxy, \.splicesRefused) == UInt64(2 - splices))
        }
        try await server.close()
    }

    @Test("the drain waits for a connection that the kernel carries, and cuts it at the deadline")
    func drained() async throws {
        let server = try await self.echo()
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        var limits = ProxyLimits()
        limits.drainTimeout = .milliseconds(300)
        let ended = Loopback.group.next().makePromise(of: Exchange.self)
        try await Loopback.withProxy([service], limits: limits) { proxy, listeners, _, _ in
            let client = try await Self.client(listeners.tcpV4) { ended.succeed($0) }
            try await client.writeAndFlush(ByteBuffer(bytes: Self.bytes(Self.bulk)))
            while await Loopback.total(proxy, \.connectionsSpliced) == 0 { try await Loopback.pause() }
            #expect(await Loopback.open(proxy) == 1)
        }
        #expect(try await ended.futureResult.get().wasReset)
        try await server.close()
    }

    private static func client(
        _ address: TransportAddress,
        _ onEnd: @escaping @Sendable (Exchange) -> Void
    ) async throws -> any Channel {
        try await ClientBootstrap(group: Loopback.group)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        Peer(onEnd: { channel, exchange in
                            onEnd(exchange)
                            channel.close(promise: nil)
                        })
                    )
                }
            }
            .connect(to: SocketAddress(address)).get()
    }
}
