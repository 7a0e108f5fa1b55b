import ByteStreams
import EndpointBalancing
import LinuxNetwork
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import EdgeProxy
@testable import ServiceCatalog

/// A tunnel whose flows take bytes before their targets have answered, and that answers when it is told to.
private final class SlowTunnel: NodeTunneling {
    struct Opening: Sendable {
        let node: String
        let promise: EventLoopPromise<any Channel>
        /// To the target; nil for one that takes nothing early.
        let channel: (any Channel)?
    }

    private let loop: any EventLoop
    private let takesEarly: Bool
    private let openings = Mutex<[Opening]>([])

    init(loop: any EventLoop, takesEarly: Bool) {
        self.loop = loop
        self.takesEarly = takesEarly
    }

    var paths: [String: NodePath] { [:] }

    func eventLoop(for node: String) -> (any EventLoop)? { self.loop }

    func openStream(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel> {
        let promise = self.loop.makePromise(of: (any Channel).self)
        let connected = StreamConnector.connect(to: target.address, on: self.loop, deadline: deadline) {
            $0.eventLoop.makeSucceededVoidFuture()
        }
        connected.whenSuccess { channel in
            if self.takesEarly { early?(channel) }
            self.openings.withLock { $0.append(Opening(node: target.node, promise: promise, channel: channel)) }
        }
        connected.cascadeFailure(to: promise)
        return promise.futureResult
    }

    func openDatagrams(
        to target: TunnelTarget,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        loop.makeFailedFuture(TunnelError(code: .noPath, message: "no datagrams here"))
    }

    func observeUnreachableNodes(_ receive: @escaping @Sendable (Set<String>) -> Void) -> TunnelObservation {
        receive([])
        return TunnelObservation {}
    }

    /// The opening that has begun next.
    func next() async throws -> Opening {
        while true {
            let opening = self.openings.withLock { $0.isEmpty ? nil : $0.removeFirst() }
            if let opening { return opening }
            try await Loopback.pause()
        }
    }
}

@Suite("Bytes that leave before the target has answered", .timeLimit(.minutes(1)))
struct EarlyBytesTests {
    private static let loop = MultiThreadedEventLoopGroup.singleton.next()

    /// Sends back what comes at once, and notes it.
    private final class Echo: Sendable {
        private let bytes = Mutex<[UInt8]>([])

        var received: String { String(decoding: self.bytes.withLock { $0 }, as: UTF8.self) }

        func open(_ address: String) async throws -> any Channel {
            try await Loopback.server(address) {
                Peer(
                    onRead: { channel, bytes in
                        self.bytes.withLock { $0 += Array(buffer: bytes) }
                        channel.writeAndFlush(bytes, promise: nil)
                    }
                )
            }
        }

        func wait(for text: String) async throws {
            while self.received != text { try await Loopback.pause() }
        }
    }

    @Test("they are with the target when it answers, once and in order", arguments: [true, false])
    func travelsAlong(takesEarly: Bool) async throws {
        let echo = Echo()
        let server = try await echo.open("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        let tunnel = SlowTunnel(loop: Self.loop, takesEarly: takesEarly)
        try await Loopback.withProxy([service], tunnel: tunnel) { proxy, listeners, _, _ in
            async let exchange = Loopback.exchange(listeners.tcpV4, send: Array("hello".utf8), endOutput: true)
            let opening = try await tunnel.next()
            if takesEarly { try await echo.wait(for: "hello") } else { #expect(echo.received.isEmpty) }
            let channel = try #require(opening.channel)
            opening.promise.succeed(channel)
            let answer = try await exchange
            #expect(answer.text == "hello" && !answer.wasReset)
            #expect(echo.received == "hello")
            while await Loopback.open(proxy) > 0 { try await Loopback.pause() }
            #expect(await Loopback.total(proxy, \.clientToServerBytes) == 5)
        }
        try await server.close()
    }

    @Test("where the far agent says that the target has got nothing, the next one gets the same")
    func refusedIsTriedElsewhere() async throws {
        let echo = Echo()
        let server = try await echo.open("0.0.0.0")
        let service = try makeService(
            endpointPort: Loopback.port(server),
            endpoints: [endpoint("127.0.0.2", node: "one"), endpoint("127.0.0.3", node: "two")]
        )
        let tunnel = SlowTunnel(loop: Self.loop, takesEarly: true)
        try await Loopback.withProxy([service], tunnel: tunnel) { proxy, listeners, _, _ in
            async let exchange = Loopback.exchange(listeners.tcpV4, send: Array("hello".utf8), endOutput: true)
            let first = try await tunnel.next()
            try await echo.wait(for: "hello")
            first.promise.fail(TunnelError(code: .refused, message: "nobody listens there", isAnswer: true))
            try await first.channel?.close()
            let second = try await tunnel.next()
            #expect(second.node != first.node)
            try await echo.wait(for: "hellohello")
            second.promise.succeed(try #require(second.channel))
            #expect(try await exchange.text == "hello")
            #expect(await Loopback.total(proxy, \.dialsFailed) == 1)
        }
        try await server.close()
    }

    /// Nobody knows how far they came: to send them to another endpoint could do twice what was asked once.
    @Test("where the way is lost they are not sent again")
    func lostIsNotRepeated() async throws {
        let echo = Echo()
        let server = try await echo.open("0.0.0.0")
        let service = try makeService(
            endpointPort: Loopback.port(server),
            endpoints: [endpoint("127.0.0.2", node: "one"), endpoint("127.0.0.3", node: "two")]
        )
        let tunnel = SlowTunnel(loop: Self.loop, takesEarly: true)
        try await Loopback.withProxy([service], tunnel: tunnel) { proxy, listeners, _, _ in
            async let exchange = Loopback.exchange(listeners.tcpV4, send: Array("hello".utf8))
            let first = try await tunnel.next()
            try await echo.wait(for: "hello")
            first.promise.fail(TunnelError(code: .noPath, message: "the path is gone"))
            try await first.channel?.close()
            #expect(try await exchange.wasReset)
            #expect(echo.received == "hello")
            #expect(await Loopback.total(proxy, \.connectionsUnserved) == 1)
            let balancers = await proxy.parts.programmer.balancers
            #expect(balancers.flatMap { $0.status(limit: 10) }.allSatisfy { $0.active == 0 })
        }
        try await server.close()
    }

    @Test("a client that says more than may wait is held back, and loses nothing")
    func holdsBack() async throws {
        let server = try await Loopback.lateEcho("127.0.0.1")
        let service = try Loopback.service(["127.0.0.1"], port: Loopback.port(server))
        let tunnel = SlowTunnel(loop: Self.loop, takesEarly: true)
        let sent = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 13) }
        try await Loopback.withProxy([service], tunnel: tunnel) { _, listeners, _, _ in
            async let exchange = Loopback.exchange(listeners.tcpV4, send: sent, endOutput: true)
            let opening = try await tunnel.next()
            opening.promise.succeed(try #require(opening.channel))
            #expect(try await exchange.bytes == sent)
        }
        try await server.close()
    }
}
