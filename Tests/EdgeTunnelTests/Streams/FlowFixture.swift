import ByteStreams
import LibP2P
import Logging
import MeshCore
import MeshInterfaces
import MeshTesting
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Synchronization
import Testing

@testable import EdgeTunnel

/// The suites that use sockets: one test after the other.
@Suite(.serialized) enum FlowSocketTests {}

/// Names that a test gives.
final class TestNaming: PeerNaming {
    private let nodes: Mutex<[String: PeerID]>

    init(_ nodes: [String: PeerID] = [:]) {
        self.nodes = Mutex(nodes)
    }

    func peer(of node: String) -> PeerID? { self.nodes.withLock { $0[node] } }
    func node(of peer: PeerID) -> String? { self.nodes.withLock { $0.first { $0.value == peer }?.key } }
    func set(_ node: String, _ peer: PeerID?) { self.nodes.withLock { $0[node] = peer } }
}

/// Two agents on loopback: `near` opens flows, `far` dials.
struct FlowFixture {
    static let farNode = "edge-far"

    let near: Host
    let far: Host
    let opener: FlowOpener
    let acceptor: FlowAcceptor
    let naming = TestNaming()

    var access: TargetAccess { self.acceptor.access }

    /// - Parameters:
    ///   - isOriginal: the far agent speaks only the protocols of v1.17.
    ///   - settings: nil lets everything be dialled, as the targets of tests are on loopback.
    static func with(
        isOriginal: Bool = false,
        settings: TargetAccessSettings? = nil,
        limits: FlowLimits = FlowLimits(),
        dialer: TargetDialer = .sockets,
        _ body: (FlowFixture) async throws -> Void
    ) async throws {
        var everything = TargetAccessSettings()
        everything.mode = .any
        let fixture = FlowFixture(
            near: try Self.host(),
            far: try Self.host(),
            settings: settings ?? everything,
            limits: limits,
            dialer: dialer
        )
        try await fixture.near.start()
        try await fixture.far.start()
        fixture.acceptor.start()
        if isOriginal { fixture.far.stopHandling(TunnelProtocol.flow) }
        do {
            _ = try await fixture.connect()
            try await body(fixture)
        } catch {
            await fixture.end()
            throw error
        }
        await fixture.end()
    }

    private init(
        near: Host,
        far: Host,
        settings: TargetAccessSettings,
        limits: FlowLimits,
        dialer: TargetDialer
    ) {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        self.near = near
        self.far = far
        self.opener = FlowOpener(host: near)
        self.acceptor = FlowAcceptor(
            host: far,
            naming: self.naming,
            access: TargetAccess(nodeName: Self.farNode, settings: settings),
            limits: limits,
            dialer: dialer,
            logger: logger
        )
    }

    /// The connection, once the peer has told what it speaks.
    func connect() async throws -> Connection {
        let connection = try await self.near.connect(to: self.far.peerID, addresses: self.far.listenAddresses)
        try await eventually("the far agent is identified") {
            connection.identification?.protocols.contains(TunnelProtocol.proxy) ?? false
        }
        return connection
    }

    private func end() async {
        for host in [self.near, self.far] { await host.shutdown(deadline: .now()) }
    }

    static func host(
        identity: KeyPair = .generate(),
        _ configure: (inout HostConfiguration) -> Void = { _ in }
    ) throws -> Host {
        var configuration = HostConfiguration(listenAddresses: [try Multiaddr("/ip4/127.0.0.1/tcp/0")])
        configuration.identifyPushDelay = .milliseconds(20)
        // A machine that is busy with other things does not make a test fail.
        configuration.dial.privateTimeout = .seconds(60)
        configuration.handshakeTimeout = .seconds(60)
        configure(&configuration)
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let host = try Host(
            identity: identity,
            configuration: configuration,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: logger
        )
        host.add(transport: TCPTransport())
        return host
    }

    // MARK: Flows

    static func target(_ address: SocketAddress?, node: String = Self.farNode) throws -> TunnelTarget {
        TunnelTarget(node: node, address: try #require(address.flatMap { TransportAddress($0) }))
    }

    func open(
        _ target: TunnelTarget,
        _ transport: TransportProtocol = .tcp,
        within timeout: TimeAmount = .seconds(60)
    ) async throws -> any Channel {
        try await self.opener.open(
            target,
            transport: transport,
            peer: self.far.peerID,
            addresses: self.far.listenAddresses,
            on: self.near.group.next(),
            deadline: .now() + timeout
        ).get()
    }

    /// What opening a flow fails with.
    func failure(_ target: TunnelTarget, within timeout: TimeAmount = .seconds(60)) async throws -> TunnelError {
        try await Self.error { try await self.open(target, within: timeout) }
    }

    /// What the tunnel fails with.
    static func error(_ body: () async throws -> some Any) async throws -> TunnelError {
        do {
            _ = try await body()
        } catch let error as TunnelError {
            return error
        }
        throw FlowTestError("it was to fail")
    }

    /// A stream as a peer opens it that writes its bytes itself.
    func rawStream(_ protocolID: ProtocolID) async throws -> any Channel {
        try await self.near.openStream(
            to: self.far.peerID,
            protocols: [protocolID],
            options: OpenStreamOptions(waitForAnswer: true)
        ).channel
    }
}

struct FlowTestError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// What a channel has read, each read for itself.
final class ReadLog: Sendable {
    struct State {
        var reads: [ByteBuffer] = []
        var hasEnded = false
        var isClosed = false
        var isToMove = false
        var error: String?
    }

    private let state = Mutex(State())

    var reads: [ByteBuffer] { self.state.withLock { $0.reads } }
    var text: String { self.reads.map { String(buffer: $0) }.joined() }
    var hasEnded: Bool { self.state.withLock { $0.hasEnded } }
    var isClosed: Bool { self.state.withLock { $0.isClosed } }
    /// `ChannelShouldQuiesceEvent` has come.
    var isToMove: Bool { self.state.withLock { $0.isToMove } }
    var error: String? { self.state.withLock { $0.error } }

    func note(_ body: (inout State) -> Void) { self.state.withLock { body(&$0) } }
}

private final class ReadLogHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let log: ReadLog

    init(_ log: ReadLog) { self.log = log }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.log.note { $0.reads.append(bytes) }
    }

    func channelReadComplete(context: ChannelHandlerContext) { context.read() }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { self.log.note { $0.hasEnded = true } }
        if event is ChannelShouldQuiesceEvent { self.log.note { $0.isToMove = true } }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.log.note { $0.error = "\(error)" } }
    func channelInactive(context: ChannelHandlerContext) { self.log.note { $0.isClosed = true } }
}

extension Channel {
    /// Reads from now on.
    func record() async throws -> ReadLog {
        let log = ReadLog()
        try await self.eventLoop.submit { try self.record(log) }.get()
        return log
    }

    /// The same on the channel's loop.
    func record(_ log: ReadLog) throws {
        guard self.isActive else { return log.note { $0.isClosed = true } }
        try self.pipeline.syncOperations.addHandler(ReadLogHandler(log))
        self.read()
    }

    func send(_ text: String) { self.writeAndFlush(ByteBuffer(string: text), promise: nil) }
}

// MARK: Targets

/// What runs at the far node.
enum TestTarget {
    /// A TCP server that greets first, if there is a greeting, sends back what comes, and ends when its client does.
    static func echo(greeting: String = "", host: String = "127.0.0.1") async throws -> any Channel {
        try await self.server(host) { EchoTarget(greeting: greeting) }
    }

    /// A TCP server that answers the end of its input with the count of its bytes.
    static func count() async throws -> any Channel {
        try await self.server { CountTarget() }
    }

    static func server(
        _ host: String = "127.0.0.1",
        _ make: @escaping @Sendable () -> any ChannelHandler & Sendable
    ) async throws -> any Channel {
        try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.backlog, value: 4096)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in channel.pipeline.addHandler(make()) }
            .bind(host: host, port: 0).get()
    }

    /// A UDP server that sends back what comes.
    static func datagrams(host: String = "127.0.0.1") async throws -> any Channel {
        try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelInitializer { channel in channel.pipeline.addHandler(DatagramEcho()) }
            .bind(host: host, port: 0).get()
    }
}

private final class EchoTarget: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let greeting: String

    init(greeting: String) { self.greeting = greeting }

    func channelActive(context: ChannelHandlerContext) {
        guard !self.greeting.isEmpty else { return }
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: self.greeting)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.write(data, promise: nil) }
    func channelReadComplete(context: ChannelHandlerContext) { context.flush() }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

private final class CountTarget: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let count = Atomic<Int>(0)

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.count.add(self.unwrapInboundIn(data).readableBytes, ordering: .relaxed)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case .inputClosed? = event as? ChannelEvent else { return }
        let answer = ByteBuffer(string: "\(self.count.load(ordering: .relaxed)) bytes")
        let channel = context.channel
        channel.writeAndFlush(answer).whenComplete { _ in channel.close(promise: nil) }
    }
}

private final class DatagramEcho: ChannelInboundHandler, Sendable {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = self.unwrapInboundIn(data)
        context.writeAndFlush(NIOAny(envelope), promise: nil)
    }
}
