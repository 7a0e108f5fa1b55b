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

    private struct Idle {
        let connection: HTTP1Upstream
        let until: NIODeadline
    }

    private let loop: any EventLoop
    private let dialer: any EndpointDialing
    private let certificates: CertificateStore
    private var limits: GatewayLimits
    private var idle: [Key: [Idle]] = [:]
    private(set) var idleCount = 0
    private var http2: [Key: [HTTP2Upstream]] = [:]
    /// Requests that wait for an HTTP/2 connection: no more than there are streams of clients.
    private var waiting: [Key: [((any Error)?) -> Void]] = [:]
    private var sweep: RepeatedTask?
    private var isClosed = false

    init(loop: any EventLoop, dialer: any EndpointDialing, certificates: CertificateStore, limits: GatewayLimits) {
        self.loop = loop
        self.dialer = dialer
        self.certificates = certificates
        self.limits = limits
        let pool = NIOLoopBound(self, eventLoop: loop)
        self.sweep = loop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            pool.value.expire()
        }
    }

    struct Opened {
        var stream: any UpstreamStream
        var isReused: Bool
    }

    /// - Parameters:
    ///   - isFresh: not a connection that was idle, as one has just turned out to be closed.
    ///   - completion: called once, on the loop, perhaps at once.
    func open(
        _ endpoint: ResolvedEndpoint,
        _ backend: Backend,
        origin: FlowOrigin,
        isFresh: Bool,
        deadline: NIODeadline,
        _ completion: @escaping (Result<Opened, any Error>) -> Void
    ) {
        let key = Key(
            address: endpoint.transportAddress,
            node: endpoint.endpoint.nodeName,
            tls: backend.tls,
            application: backend.application
        )
        switch backend.application {
        case .http1:
            if !isFresh, let connection = self.takeIdle(key) {
                return completion(.success(Opened(stream: connection, isReused: true)))
            }
        case .http2:
            if let connection = self.http2[key]?.first(where: \.hasRoom) {
                return connection.open { completion($0.map { Opened(stream: $0, isReused: true) }) }
            }
            return self.connectHTTP2(endpoint, key, origin: origin, deadline: deadline, completion) { error in
                if let error { return completion(.failure(error)) }
                self.open(endpoint, backend, origin: origin, isFresh: isFresh, deadline: deadline, completion)
            }
        }
        self.connect(endpoint, key, origin: origin, deadline: deadline, completion)
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
            let connection = HTTP1Upstream(limits: self.limits.heads, isSecured: tls != nil)
            connection.onIdle = { [weak self] in
                guard let self else { return $0.close() }
                self.putIdle($0, key)
            }
            connection.onClose = { [weak self] connection in self?.forget(connection, key) }
            if tls != nil { try pipeline.addHandler(HandshakeHandler { connection.secured() }) }
            try pipeline.addHandler(connection)
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

    private func takeIdle(_ key: Key) -> HTTP1Upstream? {
        while let idle = self.idle[key]?.popLast() {
            self.idleCount -= 1
            if self.idle[key]?.isEmpty == true { self.idle[key] = nil }
            if idle.connection.isOpen { return idle.connection }
        }
        return nil
    }

    private func putIdle(_ connection: HTTP1Upstream, _ key: Key) {
        guard !self.isClosed, self.idleCount < self.limits.idleBackends,
            self.idle[key]?.count ?? 0 < self.limits.idlePerEndpoint
        else { return connection.close() }
        self.idleCount += 1
        self.idle[key, default: []].append(
            Idle(connection: connection, until: self.loop.now + self.limits.idleBackendTimeout)
        )
    }

    private func forget(_ connection: HTTP1Upstream, _ key: Key) {
        guard let index = self.idle[key]?.firstIndex(where: { $0.connection === connection }) else { return }
        self.idle[key]?.remove(at: index)
        self.idleCount -= 1
        if self.idle[key]?.isEmpty == true { self.idle[key] = nil }
    }

    private func expire() {
        let now = self.loop.now
        for (_, list) in self.idle {
            // The oldest are in front.
            for idle in list.prefix(while: { $0.until <= now }) { idle.connection.close() }
        }
        let since = now - self.limits.idleBackendTimeout
        for connection in self.http2.values.flatMap({ $0 }) where connection.isIdle(since: since) { connection.close() }
    }

    func replaceLimits(_ limits: GatewayLimits) { self.limits = limits }

    func close() {
        self.isClosed = true
        self.sweep?.cancel()
        for idle in self.idle.values.flatMap({ $0 }) { idle.connection.close() }
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
