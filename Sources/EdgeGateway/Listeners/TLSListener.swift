import ByteStreams
import GatewayRouting
import MeshCore
import NIOCore
import NIOSSL
import NIOTLS

/// Looks at the ClientHello of a connection, and puts what serves the name that it asks for behind it: TLS with the right
/// certificate, or a stream of the bytes as they are.
struct TLSListener {
    let worker: GatewayWorker
    let listener: ListenerState
    let client: TransportAddress

    func handler() -> FirstBytesHandler {
        FirstBytesHandler(
            timeout: self.worker.limits.headTimeout,
            onRefused: { self.worker.handshakeFailed($0, self.client) },
            decide: { context, handler, received in
                guard let hello = try ClientHello.parse(received.readableBytesView) else { return false }
                try self.serve(hello, context, behind: handler)
                return true
            }
        )
    }

    private func serve(
        _ hello: ClientHello,
        _ context: ChannelHandlerContext,
        behind handler: FirstBytesHandler
    ) throws {
        guard case .tls(let servers) = self.listener.service,
            let server = self.listener.names.position(of: hello.serverName).map({ servers[$0] })
        else {
            throw GatewayError(
                .clientHello,
                "nothing is served for \(hello.serverName ?? "a client that names no host")"
            )
        }
        let pipeline = context.pipeline.syncOperations
        if let termination = server.termination {
            let tls = try self.worker.certificates.serverContext(termination, for: hello.serverName)
            let secured = SecuredHandler(listener: self, serverName: hello.serverName, server: server)
            try pipeline.addHandler(secured, position: .after(handler))
            try pipeline.addHandler(NIOSSLServerHandler(context: tls), position: .after(handler))
        } else {
            guard case .stream(let route) = server.service else {
                throw GatewayError(.clientHello, "TLS that is passed on as it is can only be a stream")
            }
            try pipeline.addHandler(
                StreamConnection(worker: self.worker, client: self.client, route: route),
                position: .after(handler)
            )
        }
    }
}

/// Waits for the end of the TLS handshake and puts there what the client and the plan agree on.
final class SecuredHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private let worker: GatewayWorker
    private let listener: ListenerState
    private let client: TransportAddress
    private let serverName: String?
    private let server: TLSServer
    private var deadline: LazyDeadline?

    init(listener: TLSListener, serverName: String?, server: TLSServer) {
        self.worker = listener.worker
        self.listener = listener.listener
        self.client = listener.client
        self.serverName = serverName
        self.server = server
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        let worker = self.worker
        self.deadline = LazyDeadline(on: context.eventLoop) {
            worker.counters.handshakesFailed += 1
            channel.close(promise: nil)
        }
        self.deadline?.set(worker.limits.headTimeout)
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.deadline?.cancel() }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted(let negotiated)? = event as? TLSUserEvent {
            do {
                try self.completed(context, negotiated)
            } catch {
                self.worker.handshakeFailed(error, self.client)
                context.close(promise: nil)
            }
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.worker.handshakeFailed(error, self.client)
        context.close(promise: nil)
    }

    private func completed(_ context: ChannelHandlerContext, _ negotiated: String?) throws {
        if let termination = self.server.termination, termination.clientCertificates != .ignored,
            !termination.subjectAltNames.isEmpty
        {
            let certificate = try context.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self)
                .peerCertificate
            // One that is optional and was not shown is none that is wrong.
            let isAllowed =
                certificate.map { CertificateNames.holds($0, oneOf: termination.subjectAltNames) }
                ?? (termination.clientCertificates == .optional)
            guard isAllowed else {
                throw GatewayError(.certificate, "the client's certificate holds none of the names that are allowed")
            }
        }
        switch self.server.service {
        case .http:
            let client = ClientConnection(
                address: self.client,
                isSecure: true,
                port: self.listener.port,
                rules: ConnectionRules(self.listener, serverName: self.serverName)
            )
            try self.worker.installHTTP(on: context.channel, client, isHTTP2: negotiated == "h2")
        case .stream(let route):
            try context.pipeline.syncOperations.addHandler(
                StreamConnection(worker: self.worker, client: self.client, route: route)
            )
        }
        // Bytes behind the handshake come to what was put there.
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
        context.channel.read()
    }
}
