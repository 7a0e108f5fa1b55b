import EndpointBalancing
import GatewayRouting
import KubeModel
import LoadBalancing
import Logging
import MeshCore
import MeshInterfaces
import NIOCore
import NIOEmbedded
import ServiceCatalog
import Synchronization

@testable import EdgeGateway

extension FuzzTarget {
    /// A connection of a client and those to its backends, in turns: each piece behind a byte for who sends it and its length. With
    /// the first bit of the first byte the client speaks HTTP/2, with the second the backend. Whatever comes, a backend of HTTP/1
    /// gets whole requests only, and nothing is left open.
    static let httpProxy = FuzzTarget(name: "http-proxy") { data, count in
        var bytes = UnsafeRawBufferPointer(start: data, count: count)[...]
        guard let mode = bytes.popFirst() else { return 0 }
        let session = ProxySession(isHTTP2: mode & 1 != 0, hasHTTP2Backend: mode & 2 != 0)
        while let head = bytes.popFirst() {
            let piece = ByteBuffer(bytes: bytes.prefix(Int(head >> 1)))
            bytes = bytes.dropFirst(Int(head >> 1))
            session.feed(piece, fromBackend: head & 1 != 0)
        }
        session.end()
        return 0
    }
}

/// One client before a gateway.
private final class ProxySession {
    private let client: EmbeddedChannel
    private var readers: [RequestReader] = []
    private let isChecked: Bool

    init(isHTTP2: Bool, hasHTTP2Backend: Bool) {
        self.isChecked = !hasHTTP2Backend
        self.client = GatewayFixture.channel()
        GatewayFixture.dialer.channels.withLock { $0 = [] }
        let state = ListenerState(port: 80, service: GatewayFixture.service(hasHTTP2Backend))
        let connection = ClientConnection(
            address: TransportAddress(.v4(IPv4Address(192, 0, 2, 1)), 1000),
            isSecure: false,
            port: 80,
            rules: ConnectionRules(state)
        )
        let sniffer = HTTPSniffer.handler(GatewayFixture.worker.value, connection)
        guard (try? self.client.pipeline.syncOperations.addHandler(sniffer)) != nil else { fatalError("no server") }
        if isHTTP2 {
            // With the client's SETTINGS, which are empty.
            self.feed(ByteBuffer(string: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"), fromBackend: false)
        }
    }

    private var backends: [EmbeddedChannel] { GatewayFixture.dialer.channels.withLock { $0 } }

    func feed(_ piece: ByteBuffer, fromBackend: Bool) {
        guard let channel = fromBackend ? self.backends.last : self.client, channel.isActive else { return }
        channel.pipeline.fireChannelRead(piece)
        channel.pipeline.fireChannelReadComplete()
        self.run()
    }

    private func run() {
        GatewayFixture.loop.run()
        while let sent = try? self.client.readOutbound(as: ByteBuffer.self) { _ = sent }
        for (index, backend) in self.backends.enumerated() {
            if index == self.readers.count { self.readers.append(RequestReader()) }
            while let sent = try? backend.readOutbound(as: ByteBuffer.self) {
                // What is behind an upgrade is no HTTP.
                guard self.isChecked, self.readers[index].messages.last?.head.upgrade == nil else { continue }
                self.readers[index].take(sent)
                precondition(!self.readers[index].isBroken, "a backend gets what is no request")
            }
        }
    }

    func end() {
        self.client.close(promise: nil)
        self.run()
        for channel in [self.client] + self.backends { channel.close(promise: nil) }
        // Longer than any deadline.
        GatewayFixture.loop.advanceTime(by: .minutes(10))
        for channel in [self.client] + self.backends { _ = try? channel.finish(acceptAlreadyClosed: true) }
        GatewayFixture.dialer.channels.withLock { $0 = [] }
        let counters = GatewayFixture.worker.value.counters
        precondition(counters.requestsOpen == 0, "\(counters.requestsOpen) requests are open")
    }
}

private enum GatewayFixture {
    static let loop = EmbeddedEventLoop()
    static let dialer = EmbeddedDialer()

    static let worker: NIOLoopBound<GatewayWorker> = {
        var logger = Logger(label: "fuzz")
        logger.logLevel = .critical
        let backends = BackendDirectory(defaultPolicy: .roundRobin, seed: 1)
        let name = ObjectName(namespace: "a", name: "b")
        var object = ServiceObject(name: name)
        object.ports = [ServiceObject.Port(port: 80)]
        let endpoint = Endpoint(address: .v4(IPv4Address(192, 0, 2, 2)))
        let service = Service(
            object: object,
            groups: [EndpointGroup(ports: [EndpointPort(port: 80)], endpoints: [endpoint])],
            policy: nil,
            portPolicies: [:],
            isProxied: true
        )
        backends.update(CatalogUpdate(snapshot: CatalogSnapshot(services: [service]), changedServices: [name]))
        let worker = GatewayWorker(
            loop: Self.loop,
            environment: GatewayWorker.Environment(
                limits: GatewayLimits(),
                dialer: Self.dialer,
                certificates: CertificateStore { _ in nil },
                backends: backends,
                ledger: ClientLedger(),
                accessLogInterval: 0,
                showsReasons: true,
                logger: logger
            ),
            seed: 1
        )
        return NIOLoopBound(worker, eventLoop: Self.loop)
    }()

    static func service(_ isHTTP2: Bool) -> ListenerPlan.Service {
        var backend = Backend(service: ObjectName(namespace: "a", name: "b"), port: 80)
        backend.application = isHTTP2 ? .http2 : .http1
        var rule = HTTPRule(origin: "", matches: [], action: .forward([WeightedBackend(backend: backend)]))
        rule.retries = RetryPolicy(attempts: 1, conditions: [.gatewayError], backoff: .zero)
        return .http(HTTPHosts([HTTPHosts.Host(pattern: .any, rules: [rule])]))
    }

    static func channel() -> EmbeddedChannel {
        let channel = EmbeddedChannel(loop: Self.loop)
        guard let address = try? SocketAddress(ipAddress: "192.0.2.1", port: 80) else { fatalError("no address") }
        channel.connect(to: address, promise: nil)
        return channel
    }
}

private final class EmbeddedDialer: EndpointDialing {
    let channels = Mutex<[EmbeddedChannel]>([])

    func dial(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline,
        early: EarlyStart?
    ) -> EventLoopFuture<any Channel> {
        let channel = GatewayFixture.channel()
        self.channels.withLock { $0.append(channel) }
        return loop.makeSucceededFuture(channel)
    }

    func dialDatagrams(
        _ endpoint: ResolvedEndpoint,
        for origin: FlowOrigin,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<any Channel> {
        loop.makeFailedFuture(ChannelError.operationUnsupported)
    }
}
