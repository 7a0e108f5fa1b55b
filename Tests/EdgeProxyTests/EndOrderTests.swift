import ByteStreams
import EndpointBalancing
import LinuxNetwork
import MeshCore
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import EdgeProxy

/// What one end of a proxied connection has seen.
private final class Side: Sendable {
    private let ended = Mutex<Exchange?>(nil)
    private let received = Mutex(0)
    private let open: EventLoopPromise<any Channel>

    init() { self.open = Loopback.group.next().makePromise() }

    func peer() -> Peer {
        Peer(
            onActive: { self.open.succeed($0) },
            onRead: { _, bytes in self.received.withLock { $0 += bytes.readableBytes } },
            onEnd: { _, exchange in self.ended.withLock { $0 = exchange } }
        )
    }

    var channel: any Channel { get async throws { try await self.open.futureResult.get() } }
    var exchange: Exchange? { self.ended.withLock { $0 } }

    func say(_ text: String) async throws {
        try await self.channel.writeAndFlush(ByteBuffer(string: text))
    }

    func hear(_ count: Int) async throws {
        while self.received.withLock({ $0 }) < count { try await Loopback.pause() }
    }

    func end() async throws { try await self.channel.close(mode: .output) }

    func reset() async throws {
        let channel = try await self.channel
        try await channel.eventLoop.submit { channel.closeWithReset() }.get()
    }

    func sawEnd() async throws -> Exchange {
        while true {
            if let exchange = self.exchange { return exchange }
            try await Loopback.pause()
        }
    }
}

@Suite("Ends of TCP connections, in every order", .timeLimit(.minutes(1)))
struct EndOrderTests {
    enum Step: String, Sendable, CustomStringConvertible {
        case clientEnds, clientResets, serverEnds, serverResets
        var description: String { self.rawValue }
    }

    @Test(
        "an end is passed on as an end, a reset as a reset, and nothing is left",
        arguments: [
            [.clientEnds, .serverEnds], [.serverEnds, .clientEnds], [.clientEnds, .serverResets],
            [.serverEnds, .clientResets], [.clientEnds, .clientResets], [.serverEnds, .serverResets],
            [.clientResets], [.serverResets],
        ] as [[Step]]
    )
    func orders(steps: [Step]) async throws {
        let (client, server) = (Side(), Side())
        let listener = try await Loopback.server("127.0.0.1") { server.peer() }
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(listener))
        try await Loopback.withProxy([service]) { proxy, listeners, _, _ in
            _ = try await ClientBootstrap(group: Loopback.group)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(client.peer())
                    }
                }
                .connect(to: SocketAddress(listeners.tcpV4)).get()
            try await client.say("request")
            try await server.hear(7)
            try await server.say("answer")
            try await client.hear(6)
            for (index, step) in steps.enumerated() {
                let isFromClient = step == .clientEnds || step == .clientResets
                let (actor, other) = isFromClient ? (client, server) : (server, client)
                let isReset = step == .clientResets || step == .serverResets
                if isReset { try await actor.reset() } else { try await actor.end() }
                let seen = try await other.sawEnd()
                // Whoever has seen an end already is not told of a reset.
                let hadEnded = steps[..<index].contains(isFromClient ? .clientEnds : .serverEnds)
                #expect(seen.wasReset == (isReset && !hadEnded))
                #expect(seen.text == (isFromClient ? "request" : "answer"))
                if !isReset, index == 0 { #expect(await Loopback.open(proxy) == 1, "the other direction goes on") }
            }
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            let active = await proxy.parts.programmer.balancers.flatMap { $0.status(limit: 1) }.map(\.active)
            #expect(active == [0])
            // What a side has left open is its own.
            for side in [client, server] { try? await side.channel.close() }
        }
        try await listener.close()
    }
}
