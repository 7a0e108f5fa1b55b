import ByteStreams
import Documents
import KubeModel
import LinuxNetwork
import LoadBalancing
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOPosix
import ServiceLifecycleTestKit
import Synchronization

@testable import EdgeProxy
@testable import ServiceCatalog

/// What a client saw until its connection ended.
struct Exchange: Sendable {
    var bytes: [UInt8] = []
    var wasReset = false
    var text: String { String(decoding: self.bytes, as: UTF8.self) }

    /// Megabytes are not compared in `#expect` itself: where they differ it looks for the differences, which takes hours.
    func carried(_ sent: [UInt8]) -> Bool { self.bytes == sent }
}

/// Collects what arrives until the end, and answers to it.
final class Peer: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let onActive: (any Channel) -> Void
    private let onRead: (any Channel, ByteBuffer) -> Void
    private let onEnd: (any Channel, Exchange) -> Void
    private var exchange = Exchange()
    private var hasEnded = false

    init(
        onActive: @escaping (any Channel) -> Void = { _ in },
        onRead: @escaping (any Channel, ByteBuffer) -> Void = { _, _ in },
        onEnd: @escaping (any Channel, Exchange) -> Void = { channel, _ in channel.close(promise: nil) }
    ) {
        self.onActive = onActive
        self.onRead = onRead
        self.onEnd = onEnd
    }

    func channelActive(context: ChannelHandlerContext) {
        self.onActive(context.channel)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.exchange.bytes += Array(buffer: bytes)
        self.onRead(context.channel, bytes)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.end(context) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.exchange.wasReset = true
        self.end(context)
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.end(context)
    }

    private func end(_ context: ChannelHandlerContext) {
        guard !self.hasEnded else { return }
        self.hasEnded = true
        self.onEnd(context.channel, self.exchange)
    }
}

enum Loopback {
    static let group = MultiThreadedEventLoopGroup.singleton
    /// Where clients think they go.
    static let destination = "10.96.0.10:80"

    static func server(
        _ address: String,
        port: Int = 0,
        _ peer: @escaping @Sendable () -> Peer
    ) async throws -> any Channel {
        try await ServerBootstrap(group: self.group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(peer()) }
            }
            .bind(host: address, port: port).get()
    }

    /// Says who it is and ends.
    static func nameServer(_ address: String, port: Int = 0) async throws -> any Channel {
        try await self.server(address, port: port) {
            Peer(onActive: { channel in
                channel.writeAndFlush(ByteBuffer(string: address)).assumeIsolated().whenComplete { _ in
                    channel.close(mode: .output, promise: nil)
                }
            })
        }
    }

    /// Sends back, after the client has ended, all that it sent.
    static func lateEcho(_ address: String) async throws -> any Channel {
        try await self.server(address) {
            Peer(onEnd: { channel, exchange in
                channel.writeAndFlush(ByteBuffer(bytes: exchange.bytes)).assumeIsolated().whenComplete { _ in
                    channel.close(promise: nil)
                }
            })
        }
    }

    /// Connects, sends, ends its output if asked to, and returns what came until the end.
    static func exchange(
        _ address: TransportAddress,
        send: [UInt8] = [],
        endOutput: Bool = false
    ) async throws -> Exchange {
        let loop = self.group.next()
        let promise = loop.makePromise(of: Exchange.self)
        do {
            let channel = try await ClientBootstrap(group: loop)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            Peer(onEnd: { channel, exchange in
                                promise.succeed(exchange)
                                channel.close(promise: nil)
                            })
                        )
                    }
                }
                .connect(to: SocketAddress(address)).get()
            if !send.isEmpty { try? await channel.writeAndFlush(ByteBuffer(bytes: send)) }
            if endOutput { try? await channel.close(mode: .output) }
        } catch {
            // A reset can come before the connection is seen to be open.
            promise.succeed(Exchange(wasReset: true))
        }
        return try await promise.futureResult.get()
    }

    static func port(_ channel: any Channel) -> UInt16 { UInt16(channel.localAddress?.port ?? 0) }

    /// A service on `destination` with these endpoints, which only user space can serve.
    static func service(
        _ addresses: [String],
        port: UInt16,
        transportProtocol: TransportProtocol = .tcp,
        policy: LoadBalancingPolicy? = nil,
        configure: (inout ServiceObject) throws -> Void = { _ in }
    ) throws -> Service {
        try makeService(
            transportProtocol: transportProtocol,
            endpointPort: port,
            endpoints: addresses.map { try endpoint($0, node: "elsewhere") },
            policy: policy,
            configure: configure
        )
    }

    /// Runs `body` beside a proxy on loopback that serves `services`, then shuts it down gracefully.
    /// - Parameters:
    ///   - sendBufferBytes: of the sockets to clients; the kernel's default grows as it sees fit.
    ///   - tunnel: what carries flows to endpoints on other nodes; nil to dial them from here.
    ///   - udpDestination: asked where a client's datagrams were going; nil for `destination`.
    static func withProxy(
        _ services: [Service],
        limits: ProxyLimits = ProxyLimits(),
        destination: String? = Self.destination,
        sendBufferBytes: Int? = nil,
        udpDestination: UDPOriginalDestination? = nil,
        tunnel: (any NodeTunneling)? = nil,
        _ body:
            @escaping @Sendable (EdgeProxyService, ProxyListeners, FakeCatalog, RecordingProgramming) async throws
            -> Void
    ) async throws {
        let catalog = FakeCatalog(services)
        let programming = RecordingProgramming()
        let target = try destination.map { try transport($0) }
        let listen = try transport("127.0.0.1:0")
        let service = EdgeProxyService(
            configuration: .init(
                planner: ServicePlanner(nodeName: "a"),
                limits: limits,
                tcpV4: listen,
                udpV4: listen
            ),
            catalog: catalog,
            programming: programming,
            loops: Array(self.group.makeIterator()),
            tunnel: tunnel,
            tcpOriginalDestination: { channel in
                guard let sendBufferBytes else { return channel.eventLoop.makeSucceededFuture(target) }
                return channel.setOption(SocketOption.sendBufferBytes, value: sendBufferBytes).map { target }
            },
            udpOriginalDestination: udpDestination ?? { _, _ in target },
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        )
        try await testGracefulShutdown { trigger in
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await service.run() }
                await programming.wait { $0.installs > 0 }
                // The last table is posted after the rules are installed; the programmer answers after that.
                _ = await service.parts.programmer.plans()
                guard let listeners = service.listeners else { throw BadFixture(text: "no listeners") }
                let outcome: Result<Void, any Error>
                do {
                    try await body(service, listeners, catalog, programming)
                    outcome = .success(())
                } catch {
                    outcome = .failure(error)
                }
                trigger.triggerGracefulShutdown()
                try await group.waitForAll()
                try outcome.get()
            }
        }
    }

    /// Between two looks at what other threads do. It throws when the test's time is over, so that nothing waits for ever.
    static func pause() async throws { try await Task.sleep(for: .milliseconds(2)) }

    static func total(_ service: EdgeProxyService, _ counter: (ProxyCounters) -> UInt64) async -> UInt64 {
        await service.counters().reduce(0) { $0 + counter($1) }
    }

    static func open(_ service: EdgeProxyService) async -> Int {
        await service.counters().reduce(0) { $0 + $1.connectionsOpen }
    }
}
