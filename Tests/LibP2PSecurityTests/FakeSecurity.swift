import Multiformats
import NIOCore
import PeerIdentity

@testable import LibP2PSecurity

/// A security protocol that encrypts nothing: each side sends one message with its key, its muxers and a signature, then
/// bytes go as they are. For tests of what stands above, and to hold the conformance suite to what it promises.
struct FakeSecurity: SecurityProtocol {
    let protocolID = "/plaintext/test"
    private let identity: KeyPair

    init(identity: KeyPair) {
        self.identity = identity
    }

    func secure(
        _ channel: any Channel,
        role: ConnectionRole,
        expectedPeer: PeerID?,
        muxers: [String],
        received: ByteBuffer?
    ) -> EventLoopFuture<SecuredPeer> {
        let promise = channel.eventLoop.makePromise(of: SecuredPeer.self)
        let handler = Handler(self.identity, role, expectedPeer, muxers, self.protocolID, promise)
        do {
            try channel.pipeline.syncOperations.addHandler(handler)
            if let received { handler.receive(received) }
        } catch {
            promise.fail(LibP2PSecurityError(code: .handshakeFailed, message: "no pipeline", cause: error))
        }
        return promise.futureResult
    }

    private final class Handler: ChannelDuplexHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundIn = ByteBuffer

        private let identity: KeyPair
        private let role: ConnectionRole
        private let expectedPeer: PeerID?
        private let muxers: [String]
        private let protocolID: String
        private var promise: EventLoopPromise<SecuredPeer>?
        private var failed = false
        private var reader = NoiseFrameReader(maximumLength: 4096)
        private var context: ChannelHandlerContext?

        init(
            _ identity: KeyPair,
            _ role: ConnectionRole,
            _ expectedPeer: PeerID?,
            _ muxers: [String],
            _ protocolID: String,
            _ promise: EventLoopPromise<SecuredPeer>
        ) {
            (self.identity, self.role, self.expectedPeer, self.muxers) = (identity, role, expectedPeer, muxers)
            (self.protocolID, self.promise) = (protocolID, promise)
        }

        func handlerAdded(context: ChannelHandlerContext) {
            self.context = context
            if context.channel.isActive { self.start(context) }
        }

        func handlerRemoved(context: ChannelHandlerContext) {
            self.fail(.init(code: .closed, message: "removed"))
            self.context = nil
        }

        func channelActive(context: ChannelHandlerContext) {
            self.start(context)
            context.fireChannelActive()
        }

        private func start(_ context: ChannelHandlerContext) {
            var body = ByteBuffer()
            body.writeVarintPrefixed(ByteBuffer(bytes: self.identity.publicKey.protobuf))
            body.writeVarintPrefixed(ByteBuffer(string: self.muxers.joined(separator: "\n")))
            let signature = try? self.identity.sign(body.readableBytesView)
            body.writeBytes(signature ?? [])
            var frame = ByteBuffer(integer: UInt16(clamping: body.readableBytes))
            frame.writeBuffer(&body)
            context.writeAndFlush(NIOAny(frame), promise: nil)
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.receive(self.unwrapInboundIn(data)) }

        func receive(_ bytes: ByteBuffer) {
            guard let context, !self.failed else { return }
            var bytes = bytes
            do {
                if let promise = self.promise {
                    guard let message = try self.reader.next(from: &bytes) else { return }
                    let peer = try self.peer(in: message)
                    self.promise = nil
                    promise.succeed(peer)
                }
                if bytes.readableBytes > 0 { context.fireChannelRead(NIOAny(bytes)) }
            } catch {
                self.fail(.handshake(error, "not this handshake"))
                context.close(promise: nil)
            }
        }

        private func peer(in message: ByteBuffer) throws -> SecuredPeer {
            var message = message
            let whole = message
            guard let key = try message.readVarintPrefixed(maximumLength: 2048),
                let list = try message.readVarintPrefixed(maximumLength: 2048)
            else { throw LibP2PSecurityError(code: .malformed, message: "too short") }
            let publicKey = try PublicKey(protobuf: key.readableBytesView)
            let signed = whole.readableBytesView.dropLast(message.readableBytes)
            try publicKey.verify(signature: message.readableBytesView, for: signed)
            try LibP2PSecurityError.check(publicKey, is: self.expectedPeer)
            let theirs = String(buffer: list).split(separator: "\n").map(String.init)
            let (initiator, responder) = self.role == .initiator ? (self.muxers, theirs) : (theirs, self.muxers)
            return SecuredPeer(
                remoteKey: publicKey,
                earlyMuxer: initiator.first(where: responder.contains),
                protocolID: self.protocolID
            )
        }

        func channelInactive(context: ChannelHandlerContext) {
            self.fail(.init(code: .closed, message: "closed"))
            context.fireChannelInactive()
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            guard self.promise != nil else { return context.fireErrorCaught(error) }
            self.fail(.handshake(error, "failed"))
            context.close(promise: nil)
        }

        func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            if mode == .all { self.fail(.init(code: .closed, message: "closed here")) }
            context.close(mode: mode, promise: promise)
        }

        private func fail(_ error: LibP2PSecurityError) {
            guard let promise = self.promise else { return }
            self.promise = nil
            self.failed = true
            promise.fail(error)
        }
    }
}
