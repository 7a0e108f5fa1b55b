import NIOCore
import NIOSSL
import NIOTLS
import PeerIdentity

/// Sits behind NIO's TLS handler: completes the handshake's future, gathers small writes into full records, and gives every
/// error of TLS as one of this module.
final class TLSConnectionHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// What the peer's certificate proved; nil until it came.
    var verification: Result<PublicKey, LibP2PSecurityError>?
    /// Of the handshake; nil when it is over.
    private var promise: EventLoopPromise<SecuredPeer>?
    private var coalescer = RecordCoalescer(recordsAtOnce: 64)
    /// Completes with the last record of the next flush.
    private var writePromise: EventLoopPromise<Void>?
    private var hasReceived = false

    init(promise: EventLoopPromise<SecuredPeer>) {
        self.promise = promise
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.fail(LibP2PSecurityError(code: .closed, message: "the connection was given up"))
        self.dropWrites()
    }

    // MARK: Inbound

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted(let negotiated) = event as? TLSUserEvent {
            self.completeHandshake(negotiated, context)
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }

    private func completeHandshake(_ negotiated: String?, _ context: ChannelHandlerContext) {
        do {
            // A resumed session would come here without a certificate.
            guard let key = try self.verification?.get() else {
                throw LibP2PSecurityError(code: .handshakeFailed, message: "the peer showed no TLS certificate")
            }
            guard let negotiated else {
                throw LibP2PSecurityError(
                    code: .handshakeFailed,
                    message: "the peer speaks TLS, but does not negotiate libp2p (ALPN)"
                )
            }
            let muxer = negotiated == TLSSecurity.plainApplicationProtocol ? nil : negotiated
            let promise = self.promise
            self.promise = nil
            promise?.succeed(SecuredPeer(remoteKey: key, earlyMuxer: muxer, protocolID: TLSSecurity.protocolID))
        } catch {
            self.fail(.handshake(error, "the TLS handshake failed"))
            context.close(promise: nil)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.hasReceived = true
        context.fireChannelRead(data)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(
            LibP2PSecurityError(code: .closed, message: "the peer closed the connection during the TLS handshake")
        )
        self.dropWrites()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        let error = self.named(error)
        if self.promise != nil {
            self.fail(.handshake(error, "the connection failed during the TLS handshake"))
            context.close(promise: nil)
        } else {
            context.fireErrorCaught(error)
        }
    }

    /// An error of TLS as one of this module; others, as those of the socket, stay what they are.
    private func named(_ error: any Error) -> any Error {
        switch error {
        case is LibP2PSecurityError: return error
        case NIOSSLError.uncleanShutdown:
            return LibP2PSecurityError(
                code: .closed,
                message: "the connection was cut without TLS's notice",
                cause: error
            )
        case NIOSSLError.handshakeFailed(.sslError([.eofDuringHandshake])):
            return LibP2PSecurityError(
                code: .closed,
                message: "the peer closed the connection during the TLS handshake",
                cause: error
            )
        case is NIOSSLError, is BoringSSLError, is NIOSSLCloseTimedOutError:
            if self.promise != nil {
                // Why we refused the peer's certificate says more than that we did.
                if case .failure(let reason) = self.verification { return reason }
                return LibP2PSecurityError(code: .handshakeFailed, message: "the TLS handshake failed", cause: error)
            }
            // A client is done before the server has looked at its certificate.
            return self.hasReceived
                ? LibP2PSecurityError(
                    code: .malformed,
                    message: "what the peer sends is no TLS of this session",
                    cause: error
                )
                : LibP2PSecurityError(code: .handshakeFailed, message: "the peer ended the TLS handshake", cause: error)
        default: return error
        }
    }

    // MARK: Outbound

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard self.promise == nil else {
            promise?.fail(
                LibP2PSecurityError(code: .handshakeFailed, message: "written to before the TLS handshake was done")
            )
            return
        }
        self.writePromise.setOrCascade(to: promise)
        self.coalescer.append(self.unwrapOutboundIn(data)) { context.write(self.wrapOutboundOut($0), promise: nil) }
    }

    func flush(context: ChannelHandlerContext) {
        self.writeOut(context)
        context.flush()
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        switch mode {
        case .output:
            // As on any channel, what was written before the output is closed still goes out.
            self.writeOut(context)
            context.flush()
        case .all:
            self.fail(LibP2PSecurityError(code: .closed, message: "the connection was closed on this side"))
            self.dropWrites()
        case .input: break
        }
        context.close(mode: mode, promise: promise)
    }

    private func writeOut(_ context: ChannelHandlerContext) {
        let promise = self.writePromise
        self.writePromise = nil
        if let record = self.coalescer.flush() {
            context.write(self.wrapOutboundOut(record), promise: promise)
        } else if let promise {
            // Only empty writes since the last flush.
            context.write(self.wrapOutboundOut(ByteBuffer()), promise: promise)
        }
    }

    // MARK: The end

    private func fail(_ error: LibP2PSecurityError) {
        let promise = self.promise
        self.promise = nil
        promise?.fail(error)
    }

    private func dropWrites() {
        _ = self.coalescer.flush()
        let promise = self.writePromise
        self.writePromise = nil
        promise?.fail(ChannelError.ioOnClosedChannel)
    }
}
