import ByteStreams
import GatewayRouting
import HashTreeCollections
import KubeModel
import Logging
import MeshCore
import MeshInterfaces
import MeshTesting
import NIOCore
import NIOPosix
import NIOSSL
import ServiceCatalog
import Synchronization

@testable import EdgeGateway

/// A catalog that never changes.
struct FixedCatalog: CatalogReading {
    var snapshot: CatalogSnapshot

    func subscribe(_ receive: @escaping @Sendable (CatalogUpdate) -> Void) -> CatalogSubscription {
        receive(CatalogUpdate(snapshot: self.snapshot, changedServices: Set(self.snapshot.services.keys)))
        return CatalogSubscription {}
    }
}

/// Dials by sockets. `farLoop` moves streams to another loop, as the tunnel's are.
struct LoopbackDialer: EndpointDialing {
    var farLoop: (any EventLoop)?

    func dial(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel> {
        StreamConnector.connect(to: endpoint.transportAddress, on: self.farLoop ?? loop, deadline: deadline) {
            $0.eventLoop.makeSucceededVoidFuture()
        }
        .hop(to: loop)
    }

    func dialDatagrams(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        DatagramBootstrap(group: loop)
            .channelOption(.autoRead, value: false)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(PlainDatagrams())
                }
            }
            .connect(to: SocketAddress(endpoint.transportAddress))
    }
}

/// Datagrams of a connected socket without their addresses.
private final class PlainDatagrams: ChannelDuplexHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.fireChannelRead(self.wrapInboundOut(self.unwrapInboundIn(data).data))
    }
}

let loopback = IPAddress.v4(.loopback)

func serviceName(_ name: String) -> ObjectName { ObjectName(namespace: "shop", name: name) }

/// A service whose endpoints listen on these ports of 127.0.0.1, each a group of its own and a pod `pod-INDEX`.
func makeService(_ name: String, ports: [UInt16], subsets: [String: Set<String>] = [:]) -> Service {
    var object = ServiceObject(name: serviceName(name))
    object.ports = [ServiceObject.Port(port: 80)]
    return Service(
        object: object,
        groups: ports.enumerated().map { index, port in
            let endpoint = Endpoint(address: loopback, nodeName: "a", podName: "pod-\(index)")
            return EndpointGroup(ports: [EndpointPort(port: port)], endpoints: [endpoint])
        },
        policy: nil,
        portPolicies: [:],
        subsets: subsets,
        subsetNames: Set(subsets.keys),
        isProxied: true
    )
}

func backend(_ name: String, _ application: ApplicationProtocol = .http1) -> WeightedBackend {
    var backend = Backend(service: serviceName(name), port: 80)
    backend.application = application
    return WeightedBackend(backend: backend)
}

/// Rules for every host.
func hosts(_ rules: [HTTPRule]) -> HTTPHosts {
    HTTPHosts([HTTPHosts.Host(pattern: .any, rules: rules)])
}

func forwarding(_ name: String, _ application: ApplicationProtocol = .http1) -> HTTPRule {
    HTTPRule(origin: "test", matches: [], action: .forward([backend(name, application)]))
}

/// A gateway on loopback for the time of `body`.
struct GatewayRig: Sendable {
    let service: EdgeGatewayService
    let plans: AsyncStream<GatewayPlan>.Continuation

    static func with<Value: Sendable>(
        _ listeners: [ListenerPlan.Service],
        services: [Service],
        transport: TransportProtocol = .tcp,
        dialer: LoopbackDialer = LoopbackDialer(),
        certificates: @escaping CertificateLookup = { _ in nil },
        limits: GatewayLimits = GatewayLimits(),
        showsReasons: Bool = false,
        _ body: (GatewayRig, [UInt16]) async throws -> Value
    ) async throws -> Value {
        var configuration = EdgeGatewayService.Configuration(limits: limits)
        configuration.showsReasons = showsReasons
        let (plans, continuation) = AsyncStream.makeStream(of: GatewayPlan.self, bufferingPolicy: .bufferingNewest(1))
        let service = EdgeGatewayService(
            configuration: configuration,
            plans: plans,
            certificates: certificates,
            catalog: FixedCatalog(snapshot: CatalogSnapshot(services: services)),
            dialer: dialer,
            loops: [MultiThreadedEventLoopGroup.singleton.next()],
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        )
        let running = Task { try await service.run() }
        let rig = GatewayRig(service: service, plans: continuation)
        do {
            continuation.yield(rig.plan(listeners, transport: transport))
            try await eventually("the gateway listens") { await service.listenEntries.count == listeners.count }
            // In order of their addresses, as the plan has them.
            let ports = await service.listenEntries.map(\.address.address.port)
            let value = try await body(rig, ports)
            running.cancel()
            try await running.value
            return value
        } catch {
            running.cancel()
            try? await running.value
            throw error
        }
    }

    /// Listeners of the same address differ by the loopback address that they ask for.
    func plan(_ services: [ListenerPlan.Service], transport: TransportProtocol = .tcp) -> GatewayPlan {
        GatewayPlan(
            listeners: services.enumerated().map { index, service in
                let address = IPAddress.v4(IPv4Address(rawValue: 0x7F00_0001 + UInt32(index)))
                return ListenerPlan(
                    key: ListenerPlan.Key(transport: transport, address: address, port: 0),
                    service: service,
                    origins: ["test \(index)"]
                )
            }
        )
    }
}

/// What came over a connection until it ended.
final class RawClient: Sendable {
    private struct State {
        var received: [UInt8] = []
        var hasEnded = false
    }

    private let channel: any Channel
    private let state: StateBox

    private final class StateBox: Sendable {
        let state = Mutex(State())
    }

    private init(_ channel: any Channel, _ state: StateBox) {
        self.channel = channel
        self.state = state
    }

    /// - Parameters:
    ///   - host: which loopback address.
    ///   - serverName: speaks TLS, and asks for this name.
    static func connect(
        _ port: UInt16,
        host: String = "127.0.0.1",
        reads: Bool = true,
        serverName: String? = nil
    ) async throws -> RawClient {
        let state = StateBox()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(.autoRead, value: reads)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let serverName {
                        var configuration = TLSConfiguration.makeClientConfiguration()
                        configuration.certificateVerification = .none
                        let context = try NIOSSLContext(configuration: configuration)
                        let tls = try NIOSSLClientHandler(context: context, serverHostname: serverName)
                        try channel.pipeline.syncOperations.addHandler(tls)
                    }
                    try channel.pipeline.syncOperations.addHandler(
                        Collector { bytes, ended in
                            state.state.withLock { state in
                                state.received += bytes
                                if ended { state.hasEnded = true }
                            }
                        }
                    )
                }
            }
            .connect(host: host, port: Int(port)).get()
        return RawClient(channel, state)
    }

    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        let tell: ([UInt8], Bool) -> Void
        init(_ tell: @escaping ([UInt8], Bool) -> Void) { self.tell = tell }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.tell(Array(buffer: self.unwrapInboundIn(data)), false)
        }
        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case .inputClosed? = event as? ChannelEvent { self.tell([], true) }
        }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
        func channelInactive(context: ChannelHandlerContext) { self.tell([], true) }
    }

    var text: String { String(decoding: self.state.state.withLock { $0.received }, as: UTF8.self) }
    var count: Int { self.state.state.withLock { $0.received.count } }
    var hasEnded: Bool { self.state.state.withLock { $0.hasEnded } }

    func send(_ text: String) async throws { try await self.send(Array(text.utf8)) }
    func send(_ bytes: [UInt8]) async throws { try await self.channel.writeAndFlush(ByteBuffer(bytes: bytes)) }
    func setReading(_ reads: Bool) async throws { try await self.channel.setOption(.autoRead, value: reads).get() }
    func endOutput() async throws { try await self.channel.close(mode: .output) }
    func close() { self.channel.close(promise: nil) }
    func reset() async throws {
        try await self.channel.eventLoop.submit { [channel] in channel.closeWithReset() }.get()
    }

    func wait(for text: String) async throws {
        try await eventually("\(text) comes, not \(self.text.prefix(300))") { self.text.contains(text) }
    }

    /// All that came, once the other side has ended.
    func end() async throws -> String {
        try await eventually("the connection ends") { self.hasEnded }
        self.close()
        return self.text
    }

    /// Sends, and returns what came until the gateway ended the connection.
    static func exchange(_ port: UInt16, _ text: String) async throws -> String {
        try await self.exchange(port, Array(text.utf8))
    }

    static func exchange(_ port: UInt16, _ bytes: [UInt8]) async throws -> String {
        let client = try await self.connect(port)
        // It may have answered and ended before it has taken everything.
        try? await client.send(bytes)
        return try await client.end()
    }
}
