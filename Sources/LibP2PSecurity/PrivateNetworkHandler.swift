import NIOCore

/// Encrypts and decrypts a connection with the pre-shared key. Holds no bytes but a nonce on its way.
final class PrivateNetworkHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let key: PreSharedKey
    private let makeNonce: () -> [UInt8]
    private var receiver: PrivateNetworkReceiver
    /// Set by the first write.
    private var sender: XSalsa20?
    private var failure: LibP2PSecurityError?
    private var isClosedHere = false

    /// - Parameter makeNonce: gives 24 bytes that no other connection has; drawn at random unless a test sets them.
    init(key: PreSharedKey, makeNonce: @escaping () -> [UInt8] = PrivateNetworkHandler.randomNonce) {
        self.key = key
        self.makeNonce = makeNonce
        self.receiver = PrivateNetworkReceiver(key: key)
    }

    private static func randomNonce() -> [UInt8] {
        (0..<XSalsa20.nonceLength).map { _ in UInt8.random(in: 0...255) }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        if let failure {
            promise?.fail(failure)
            return
        }
        let encrypted = self.encrypt(self.unwrapOutboundIn(data), allocator: context.channel.allocator)
        context.write(self.wrapOutboundOut(encrypted), promise: promise)
    }

    private func encrypt(_ plain: ByteBuffer, allocator: ByteBufferAllocator) -> ByteBuffer {
        if let sender {
            var output = allocator.buffer(capacity: plain.readableBytes)
            sender.apply(to: plain, into: &output)
            return output
        }
        let nonce = self.makeNonce()
        let sender = XSalsa20(key: self.key.bytes, nonce: nonce)
        self.sender = sender
        var output = allocator.buffer(capacity: nonce.count + plain.readableBytes)
        output.writeBytes(nonce)
        sender.apply(to: plain, into: &output)
        return output
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        if mode == .all { self.isClosedHere = true }
        context.close(mode: mode, promise: promise)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.failure == nil else { return }
        do {
            let plain = try self.receiver.receive(self.unwrapInboundIn(data), allocator: context.channel.allocator)
            if let plain { context.fireChannelRead(self.wrapInboundOut(plain)) }
        } catch {
            self.fail(with: error, context: context)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.fireChannelReadComplete()
        // What was read may have been all nonce: without automatic reading nobody else asks for more.
        if !self.receiver.isOpen, self.failure == nil { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .some(.inputClosed) = event as? ChannelEvent { self.reportEarlyEnd(context: context) }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.reportEarlyEnd(context: context)
        context.fireChannelInactive()
    }

    private func fail(with failure: PrivateNetworkReceiver.Failure, context: ChannelHandlerContext) {
        // A side that spoke first must not be left without an answer: from ours it can tell the same.
        if self.sender == nil {
            let answer = self.encrypt(ByteBuffer(bytes: PrivateNetwork.header), allocator: context.channel.allocator)
            context.writeAndFlush(self.wrapOutboundOut(answer), promise: nil)
        }
        let peer = Self.name(of: context)
        let error =
            switch failure {
            case .anotherKey:
                LibP2PSecurityError(
                    code: .wrongPreSharedKey,
                    message:
                        "\(peer) has another pre-shared key: what it sends does not decrypt to the header of libp2p. "
                        + "Compare the PSK files of both nodes byte by byte, a newline at the end counts (sha256sum)"
                )
            case .noKey:
                LibP2PSecurityError(
                    code: .wrongPreSharedKey,
                    message: "\(peer) has no pre-shared key, this node has one: it sends libp2p's header unencrypted. "
                        + "Check that both nodes have psk.enable set alike, and the same PSK file"
                )
            }
        self.failure = error
        context.fireErrorCaught(error)
        context.close(promise: nil)
    }

    /// The peer ends although we have sent our header and it has not shown a whole one.
    private func reportEarlyEnd(context: ChannelHandlerContext) {
        guard self.failure == nil, !self.isClosedHere, self.sender != nil, !self.receiver.isOpen else { return }
        let error = LibP2PSecurityError(
            code: .suspectedPreSharedKey,
            message:
                "\(Self.name(of: context)) closed before a valid header: most often it has another pre-shared key, or "
                + "none. Compare the PSK files of both nodes byte by byte (sha256sum), and see its log"
        )
        self.failure = error
        context.fireErrorCaught(error)
        context.close(promise: nil)
    }

    private static func name(of context: ChannelHandlerContext) -> String {
        context.remoteAddress.map { "the peer at \($0)" } ?? "the peer"
    }
}
