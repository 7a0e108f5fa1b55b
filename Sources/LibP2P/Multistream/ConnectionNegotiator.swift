import LibP2PSecurity
import NIOCore

/// Agrees on the next layer of a connection, then leaves the pipeline. Confined to the channel's loop.
///
/// When `agreed` completes, its callbacks add the next layer's handlers behind this one, synchronously; what was read beyond
/// the negotiation is then handed on to them.
final class ConnectionNegotiator: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// A responder proposes these names itself if nothing has been proposed to it after a time.
    struct Initiative {
        let names: [String]
        let patience: TimeAmount
    }

    let agreed: EventLoopPromise<String>
    /// Whether a responder has become the initiator.
    private(set) var hasTakenInitiative = false
    private let initiative: Initiative?
    private var timer: Scheduled<Void>?
    private var machine: MultistreamStateMachine
    private let looksForPrivateNetwork: Bool
    private var input = ByteBuffer()
    private var firstBytes: [UInt8] = []
    private var isDone = false
    private var hasStarted = false

    /// - Parameter looksForPrivateNetwork: a failure is told as what it most likely is if the peer's first bytes look encrypted.
    init(
        role: MultistreamStateMachine.Role,
        initiative: Initiative? = nil,
        looksForPrivateNetwork: Bool,
        agreed: EventLoopPromise<String>
    ) {
        self.machine = MultistreamStateMachine(role: role)
        self.initiative = initiative
        self.looksForPrivateNetwork = looksForPrivateNetwork
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
        if self.firstBytes.count < Self.firstBytesCount {
            self.firstBytes += bytes.readableBytesView.prefix(Self.firstBytesCount - self.firstBytes.count)
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
        guard let initiative = self.initiative else { return }
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: initiative.patience) {
            self.take(initiative, context)
        }
    }

    private func take(_ initiative: Initiative, _ context: ChannelHandlerContext) {
        guard !self.isDone else { return }
        var output = ByteBuffer()
        self.hasTakenInitiative = self.machine.takeInitiative(with: initiative.names, output: &output)
        if self.hasTakenInitiative { context.writeAndFlush(self.wrapOutboundOut(output), promise: nil) }
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
            self.timer?.cancel()
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
        self.timer?.cancel()
        if self.looksForPrivateNetwork, PrivateNetwork.looksEncrypted(self.firstBytes) {
            self.agreed.fail(
                LibP2PError(
                    code: .wrongPreSharedKey,
                    message:
                        "the peer seems to be in a private network, this host is in none: check the pre-shared keys",
                    cause: error
                )
            )
        } else {
            self.agreed.fail(error)
        }
    }

    /// As many as tell random bytes from a protocol.
    private static let firstBytesCount = 20

    private static let closed = LibP2PError(
        code: .connectionClosed,
        message: "the connection was closed during protocol negotiation"
    )
}
