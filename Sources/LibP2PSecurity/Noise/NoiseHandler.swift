import NIOCore

/// Makes the Noise handshake, then encrypts and decrypts. Holds at most one frame of the peer's and one unflushed record.
final class NoiseHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// The largest handshake message that is taken; the largest identities and signatures that exist have 2 KiB.
    static let maximumHandshakeMessage = 8192
    private static let fullRecordLength = 2 + RecordCoalescer.recordLength + NoiseCipherState.tagLength
    /// Sealed records are handed on when there are as many as this, also before a flush: they fill a buffer of 128 KiB.
    private static let outputLength = 7 * NoiseHandler.fullRecordLength

    private enum State {
        case handshaking(NoiseHandshakeStateMachine, EventLoopPromise<SecuredPeer>)
        case open
        case failed(LibP2PSecurityError)
    }

    private var state: State
    private var reader = NoiseFrameReader(maximumLength: NoiseHandler.maximumHandshakeMessage)
    private var receiveCipher: NoiseCipherState?
    private var sendCipher: NoiseCipherState?
    private var coalescer = RecordCoalescer()
    private var output: ByteBuffer?
    /// Completes with the next flush.
    private var writePromise: EventLoopPromise<Void>?
    private var context: ChannelHandlerContext?
    private var hasStarted = false
    private var hasDelivered = false

    init(handshake: NoiseHandshakeStateMachine, promise: EventLoopPromise<SecuredPeer>) {
        self.state = .handshaking(handshake, promise)
    }

    // MARK: Handshake

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.start(context) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.end("the connection was given up")
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        self.start(context)
        context.fireChannelActive()
    }

    private func start(_ context: ChannelHandlerContext) {
        guard !self.hasStarted, case .handshaking(var handshake, let promise) = self.state else { return }
        self.hasStarted = true
        do {
            let message = try handshake.start()
            self.state = .handshaking(handshake, promise)
            if let message { self.send(message, context) }
        } catch {
            self.fail(error, context)
        }
    }

    private func send(_ message: [UInt8], _ context: ChannelHandlerContext) {
        var frame = context.channel.allocator.buffer(capacity: 2 + message.count)
        frame.writeInteger(UInt16(clamping: message.count))
        frame.writeBytes(message)
        context.writeAndFlush(self.wrapOutboundOut(frame), promise: nil)
    }

    /// Takes a message of the handshake; with the last one the future completes, and with it the next handler is added.
    private func takeHandshake(_ message: ByteBuffer, _ context: ChannelHandlerContext) throws(LibP2PSecurityError) {
        guard case .handshaking(var handshake, let promise) = self.state else { return }
        let step = try handshake.receive(Array(message.readableBytesView))
        self.state = .handshaking(handshake, promise)
        if let reply = step.reply { self.send(reply, context) }
        guard let session = step.session, case .handshaking = self.state else { return }
        self.state = .open
        self.sendCipher = session.send
        self.receiveCipher = session.receive
        self.reader.maximumLength = Int(UInt16.max)
        promise.succeed(session.peer)
    }

    // MARK: Inbound

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.receive(self.unwrapInboundIn(data))
    }

    /// Takes bytes of the peer's. What they decrypt to goes on as one buffer.
    func receive(_ bytes: ByteBuffer) {
        guard let context else { return }
        var bytes = bytes
        var plain: ByteBuffer?
        var failure: LibP2PSecurityError?
        do {
            while let frame = try self.nextFrame(from: &bytes) {
                guard case .open = self.state else {
                    try self.takeHandshake(frame, context)
                    continue
                }
                var output =
                    plain ?? context.channel.allocator.buffer(capacity: frame.readableBytes + bytes.readableBytes)
                // The copy in `plain` would make writing to `output` copy it.
                plain = nil
                defer { plain = output }
                try self.receiveCipher?.open(frame, into: &output)
            }
        } catch {
            failure = error
        }
        if let plain, plain.readableBytes > 0 {
            self.hasDelivered = true
            context.fireChannelRead(self.wrapInboundOut(plain))
        }
        if let failure { self.fail(failure, context) }
    }

    private func nextFrame(from bytes: inout ByteBuffer) throws(LibP2PSecurityError) -> ByteBuffer? {
        if case .failed = self.state { return nil }
        return try self.reader.next(from: &bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.fireChannelReadComplete()
        // A read that brought no whole frame: without automatic reading nobody else asks for the rest.
        if !self.hasDelivered { context.read() }
        self.hasDelivered = false
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .some(.inputClosed) = event as? ChannelEvent { self.inputEnded(context) }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.inputEnded(context)
        self.end("the connection is closed")
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard case .handshaking = self.state else { return context.fireErrorCaught(error) }
        self.fail(.handshake(error, "the connection failed during the Noise handshake"), context)
    }

    private func inputEnded(_ context: ChannelHandlerContext) {
        switch self.state {
        case .handshaking:
            self.fail(
                LibP2PSecurityError(
                    code: .closed,
                    message: "the peer closed the connection during the Noise handshake"
                ),
                context
            )
        case .open where self.reader.isInsideFrame:
            self.fail(
                LibP2PSecurityError(code: .closed, message: "the connection was cut inside a Noise message"),
                context
            )
        case .open, .failed: break
        }
    }

    // MARK: Outbound

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard case .open = self.state else {
            promise?.fail(self.writeError)
            return
        }
        self.writePromise.setOrCascade(to: promise)
        var failure: LibP2PSecurityError?
        self.coalescer.append(self.unwrapOutboundIn(data)) { record in
            guard failure == nil else { return }
            do throws(LibP2PSecurityError) { try self.seal(record, context) } catch { failure = error }
        }
        if let failure { self.fail(failure, context) }
    }

    func flush(context: ChannelHandlerContext) {
        self.writeOut(context)
        context.flush()
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        // As on any channel, what was written before the output is closed still goes out.
        if mode == .output {
            self.writeOut(context)
            context.flush()
        } else if mode == .all {
            self.end("the connection was closed on this side")
        }
        context.close(mode: mode, promise: promise)
    }

    private func writeOut(_ context: ChannelHandlerContext) {
        guard case .open = self.state else { return }
        do {
            if let record = self.coalescer.flush() { try self.seal(record, context) }
        } catch {
            return self.fail(error, context)
        }
        let promise = self.writePromise
        self.writePromise = nil
        if let output {
            self.output = nil
            context.write(self.wrapOutboundOut(output), promise: promise)
        } else if let promise {
            // Only empty writes since the last flush.
            context.write(self.wrapOutboundOut(ByteBuffer()), promise: promise)
        }
    }

    private func seal(_ record: ByteBuffer, _ context: ChannelHandlerContext) throws(LibP2PSecurityError) {
        let length = record.readableBytes + NoiseCipherState.tagLength
        // Behind a full record there are others: a buffer that grows would be copied.
        let isFull = record.readableBytes == RecordCoalescer.recordLength
        var output = self.output ?? context.channel.allocator.buffer(capacity: isFull ? Self.outputLength : 2 + length)
        self.output = nil
        output.writeInteger(UInt16(clamping: length))
        try self.sendCipher?.seal(record, into: &output)
        if output.readableBytes + Self.fullRecordLength > Self.outputLength {
            context.write(self.wrapOutboundOut(output), promise: nil)
        } else {
            self.output = output
        }
    }

    // MARK: The end

    private var writeError: any Error {
        switch self.state {
        case .failed(let error): error
        case .handshaking:
            LibP2PSecurityError(code: .handshakeFailed, message: "written to before the Noise handshake was done")
        case .open: ChannelError.ioOnClosedChannel
        }
    }

    /// Reports `error` to who waits for the handshake, later in the pipeline, and closes.
    private func fail(_ error: LibP2PSecurityError, _ context: ChannelHandlerContext) {
        let before = self.state
        if case .failed = before { return }
        self.state = .failed(error)
        self.dropWrites(error)
        if case .handshaking(_, let promise) = before { promise.fail(error) } else { context.fireErrorCaught(error) }
        context.close(promise: nil)
    }

    private func end(_ why: String) {
        let error = LibP2PSecurityError(code: .closed, message: why)
        if case .handshaking(_, let promise) = self.state {
            self.state = .failed(error)
            promise.fail(error)
        } else if case .open = self.state {
            self.state = .failed(error)
        }
        self.dropWrites(ChannelError.ioOnClosedChannel)
    }

    private func dropWrites(_ error: any Error) {
        _ = self.coalescer.flush()
        self.output = nil
        let promise = self.writePromise
        self.writePromise = nil
        promise?.fail(error)
    }
}
