import ByteStreams
import GatewayRouting
import KubeModel
import MeshCore
import MeshInterfaces
import NIOCore
import NIOSSL
import NIOTLS
import ServiceCatalog

/// Connections of one loop to backends: idle ones of HTTP/1.1, newest first, and those of HTTP/2. Confined to the loop.
final class UpstreamPool {
    struct Key: Hashable {
        var address: TransportAddress
        /// The same address may be another pod's on another node.
        var node: String?
        var tls: BackendTLS?
        var application: ApplicationProtocol
    }

    /// The connections of HTTP/1.1 to one endpoint. They know it, so that one that is idle again is not looked up.
    private final class EndpointConnections {
        struct Idle {
            let connection: HTTP1Upstream
            let until: NIODeadline
        }
        /// The oldest first.
        var idle: [Idle] = []
        /// Idle or not.
        var connections = 0
    }

    private let loop: any EventLoop
    private let dialer: any EndpointDialing
    private let certificates: CertificateStore
    private var limits: GatewayLimits
    private let spares: SpareBuffers
    private var endpoints: [Key: EndpointConnections] = [:]
    private(set) var idleCount = 0
    private var http2: [Key: [HTTP2Upstream]] = [:]
    /// Requests that wait for an HTTP/2 connection: no more than there are streams of clients.
    private var waiting: [Key: [((any Error)?) -> Void]] = [:]
    private var sweep: RepeatedTask?
    private var isClosed = false

    init(
        loop: any EventLoop,
        dialer: any EndpointDialing,
        certificates: CertificateStore,
        limits: GatewayLimits,
        spares: SpareBuffers
    ) {
        self.loop = loop
        self.dialer = dialer
        self.certificates = certificates
        self.limits = limits
        self.spares = spares
        let pool = NIOLoopBound(self, eventLoop: loop)
        self.sweep = loop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            pool.value.expire()
        }
    }

    struct Opened {
        var stream: any UpstreamStream
        var isReused: Bool
    }

    /// An idle connection of HTTP/1.1; nil if there is none, or the backend speaks HTTP/2.
    func reuse(_ endpoint: ResolvedEndpoint, _ backend: Backend) -> (any UpstreamStream)? {
        guard case .http1 = backend.application, let connections = self.endpoints[Self.key(endpoint, backend)] else {
            return nil
        }
        while let idle = connections.idle.popLast() {
            self.idleCount -= 1
            if idle.connection.isOpen { return idle.connection }
        }
        return nil
    }

    private static func key(_ endpoint: ResolvedEndpoint, _ backend: Backend) -> Key {
        Key(
            address: endpoint.transportAddress,
            node: endpoint.endpoint.nodeName,
            tls: backend.tls,
            application: backend.application
        )
    }

    /// A stream of a new connection, or of one of HTTP/2.
    /// - Parameter completion: called once, on the loop, perhaps at once.
    func open(
        _ endpoint: ResolvedEndpoint,
        _ backend: Backend,
        origin: FlowOrigin,
        deadline: NIODeadline,
        _ completion: @escaping (Result<Opened, any Error>) -> Void
    ) {
        let key = Self.key(endpoint, backend)
        guard case .http2 = backend.application else {
            return self.connect(endpoint, key, origin: origin, deadline: deadline, completion)
        }
        if let connection = self.http2[key]?.first(where: \.hasRoom) {
            return connection.open { completion($0.map { Opened(stream: $0, isReused: true) }) }
        }
        self.connectHTTP2(endpoint, key, origin: origin, deadline: deadline, completion) { error in
            if let error { return completion(.failure(error)) }
            self.open(endpoint, backend, origin: origin, deadline: deadline, completion)
        }
    }

    /// Requests that come while a connection is made wait for it, and then share it.
    private func connectHTTP2(
        _ endpoint: ResolvedEndpoint,
        _ key: Key,
        origin: FlowOrigin,
        deadline: NIODeadline,
        _ completion: @escaping (Result<Opened, any Error>) -> Void,
        retry: @escaping ((any Error)?) -> Void
    ) {
        guard self.waiting[key] == nil else {
            self.waiting[key]?.append(retry)
            return
        }
        self.waiting[key] = []
        self.connect(endpoint, key, origin: origin, deadline: deadline) { result in
            let waiting = self.waiting.removeValue(forKey: key) ?? []
            completion(result)
            var problem: (any Error)?
            if case .failure(let error) = result { problem = error }
            for retry in waiting { retry(problem) }
        }
    }

    private func connect(
        _ endpoint: ResolvedEndpoint,
        _ key: Key,
        origin: FlowOrigin,
        deadline: NIODeadline,
        _ completion: @escaping (Result<Opened, any Error>) -> Void
    ) {
        let tls: NIOSSLContext?
        do {
            tls = try key.tls.map { try self.certificates.clientContext($0, key.application) }
        } catch {
            return completion(.failure(error))
        }
        let loop = self.loop
        self.dialer.dial(endpoint, for: origin, on: loop, deadline: deadline)
            .flatMap { LoopBridge.bring($0, to: loop) }
            .assumeIsolated()
            .whenComplete { result in
                switch result {
                case .failure(let error): completion(.failure(error))
                case .success(let channel):
                    do {
                        try self.adopt(channel, key, tls, completion)
                    } catch {
                        channel.close(promise: nil)
                        completion(.failure(error))
                    }
                }
            }
    }

    private func adopt(
        _ channel: any Channel,
        _ key: Key,
        _ tls: NIOSSLContext?,
        _ completion: @escaping (Result<Opened, any Error>) -> Void
    ) throws {
        let pipeline = channel.pipeline.syncOperations
        if let tls, let backend = key.tls {
            try pipeline.addHandler(try NIOSSLClientHandler(context: tls, serverHostname: backend.name))
        }
        switch key.application {
        case .http1:
            let connection = HTTP1Upstream(limits: self.limits.heads, isSecured: tls != nil, spares: self.spares)
            let buffers = SpareReceiveAllocator(limit: GlueReceiveAllocator.maximum, spares: self.spares, on: self.loop)
            try channel.syncOptions?.setOption(.recvAllocator, value: buffers)
            if tls != nil { try pipeline.addHandler(HandshakeHandler { connection.secured() }) }
            try pipeline.addHandler(connection)
            let endpoint = self.endpoints[key] ?? EndpointConnections()
            self.endpoints[key] = endpoint
            endpoint.connections += 1
            connection.onIdle = { self.putIdle($0, endpoint) }
            connection.onClose = { self.forget($0, endpoint, key) }
            completion(.success(Opened(stream: connection, isReused: false)))
        case .http2:
            let connection = try HTTP2Upstream(on: channel, limits: self.limits)
            self.http2[key, default: []].append(connection)
            let pool = NIOLoopBound(self, eventLoop: self.loop)
            let bound = NIOLoopBound(connection, eventLoop: self.loop)
            channel.closeFuture.whenComplete { _ in
                pool.value.http2[key]?.removeAll { $0 === bound.value }
                if pool.value.http2[key]?.isEmpty == true { pool.value.http2[key] = nil }
            }
            connection.open { completion($0.map { Opened(stream: $0, isReused: false) }) }
        }
    }

    // MARK: Idle connections

    private func putIdle(_ connection: HTTP1Upstream, _ endpoint: EndpointConnections) {
        guard !self.isClosed, self.idleCount < self.limits.idleBackends,
            endpoint.idle.count < self.limits.idlePerEndpoint
        else { return connection.close() }
        self.idleCount += 1
        endpoint.idle.append(
            EndpointConnections.Idle(connection: connection, until: self.loop.now + self.limits.idleBackendTimeout)
        )
    }

    private func forget(_ connection: HTTP1Upstream, _ endpoint: EndpointConnections, _ key: Key) {
        endpoint.connections -= 1
        if endpoint.connections == 0 { self.endpoints[key] = nil }
        guard let index = endpoint.idle.firstIndex(where: { $0.connection === connection }) else { return }
        endpoint.idle.remove(at: index)
        self.idleCount -= 1
    }

    private func expire() {
        let now = self.loop.now
        for endpoint in self.endpoints.values {
            for idle in endpoint.idle.prefix(while: { $0.until <= now }) { idle.connection.close() }
        }
        let since = now - self.limits.idleBackendTimeout
        for connection in self.http2.values.flatMap({ $0 }) where connection.isIdle(since: since) { connection.close() }
    }

    func replaceLimits(_ limits: GatewayLimits) { self.limits = limits }

    func close() {
        self.isClosed = true
        self.sweep?.cancel()
        for idle in self.endpoints.values.flatMap(\.idle) { idle.connection.close() }
        for connection in self.http2.values.flatMap({ $0 }) { connection.close() }
    }
}

/// Tells when TLS is up.
final class HandshakeHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private var onSecured: (() -> Void)?

    init(_ onSecured: @escaping () -> Void) { self.onSecured = onSecured }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted? = event as? TLSUserEvent {
            self.onSecured?()
            self.onSecured = nil
        }
        context.fireUserInboundEventTriggered(event)
    }
}
