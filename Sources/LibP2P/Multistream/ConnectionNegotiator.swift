import NIOCore

/// Agrees on the next layer of a connection, then leaves the pipeline. Confined to the channel's loop.
///
/// When `agreed` completes, its callbacks add the next layer's handlers behind this one, synchronously; what was read beyond
/// the negotiation is then handed on to them.
final class ConnectionNegotiator: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundOut = ByteBuffer

    let agreed: EventLoopPromise<String>
    private var machine: MultistreamStateMachine
    private var input: ByteBuffer
    private var isDone = false
    private var hasStarted = false

    /// - Parameter received: bytes that were read before the handler came.
    init(role: MultistreamStateMachine.Role, received: ByteBuffer?, agreed: EventLoopPromise<String>) {
        self.machine = MultistreamStateMachine(role: role)
        self.input = received ?? ByteBuffer()
        self.agreed = agreed
    }

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { self.start(context) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.fail(Self.closed)
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        self.start(context)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = self.unwrapInboundIn(data)
        guard !self.isDone else {
            context.fireChannelRead(self.wrapInboundOut(bytes))
            return
        }
        self.input.writeBuffer(&bytes)
        self.advance(context)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.fail(Self.closed)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.fail(error)
        context.fireErrorCaught(error)
    }

    private func start(_ context: ChannelHandlerContext) {
        guard !self.hasStarted else { return }
        self.hasStarted = true
        var output = ByteBuffer()
        self.machine.start(to: &output)
        if output.readableBytes > 0 { context.writeAndFlush(self.wrapOutboundOut(output), promise: nil) }
        if self.input.readableBytes > 0 { self.advance(context) }
    }

    private func advance(_ context: ChannelHandlerContext) {
        var output = ByteBuffer()
        let result: Result<MultistreamStateMachine.Outcome, LibP2PError>
        do throws(LibP2PError) {
            result = .success(try self.machine.receive(&self.input, output: &output))
        } catch {
            result = .failure(error)
        }
        if output.readableBytes > 0 { context.writeAndFlush(self.wrapOutboundOut(output), promise: nil) }
        switch result {
        case .success(.needsMore): break
        case .success(.agreed(let name)):
            guard !self.isDone else { return }
            self.isDone = true
            self.agreed.succeed(name)
            if self.input.readableBytes > 0 {
                context.fireChannelRead(self.wrapInboundOut(self.input))
                context.fireChannelReadComplete()
                self.input = ByteBuffer()
            }
            context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
        case .failure(let error):
            self.fail(error)
            context.close(promise: nil)
        }
    }

    private func fail(_ error: any Error) {
        guard !self.isDone else { return }
        self.isDone = true
        self.agreed.fail(error)
    }

    private static let closed = LibP2PError(
        code: .connectionClosed,
        message: "the connection was closed during protocol negotiation"
    )
}
