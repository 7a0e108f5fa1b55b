import Glibc
public import NIOCore

/// Lets a listening socket rest when the process or the machine has no descriptors or memory left for a connection.
///
/// The connection stays in the kernel's queue, and so does the socket's readiness: without a rest the loop would try again
/// without end and serve nobody. NIO leaves a socket that has accepted nothing registered for reading, so the rest is one of
/// `autoRead`, which has to be on. It goes on by itself. In the pipeline of a server channel; confined to its loop.
public final class AcceptPause: ChannelInboundHandler {
    public typealias InboundIn = any Channel

    /// How long nothing is accepted after a failure.
    public static let duration = TimeAmount.milliseconds(500)

    private let onPause: (_ error: IOError, _ isFirst: Bool) -> Void
    private var wakeup: Scheduled<Void>?
    private var hasFailedSinceAccept = false

    /// - Parameter onPause: called for each pause; `isFirst` is false until a connection was accepted again.
    public init(_ onPause: @escaping (_ error: IOError, _ isFirst: Bool) -> Void) {
        self.onPause = onPause
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.hasFailedSinceAccept = false
        context.fireChannelRead(data)
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard let failure = error as? IOError, Self.isShortage(failure.errnoCode) else {
            return context.fireErrorCaught(error)
        }
        guard self.wakeup == nil else { return }
        self.onPause(failure, !self.hasFailedSinceAccept)
        self.hasFailedSinceAccept = true
        Self.accept(false, on: context.channel)
        self.wakeup = context.eventLoop.assumeIsolated().scheduleTask(in: Self.duration) {
            self.wakeup = nil
            Self.accept(true, on: context.channel)
        }
    }

    public func handlerRemoved(context: ChannelHandlerContext) {
        self.wakeup?.cancel()
        self.wakeup = nil
    }

    private static func accept(_ isOn: Bool, on channel: any Channel) {
        // Fails for a channel that is closed, which accepts nothing anyway.
        try? channel.syncOptions?.setOption(.autoRead, value: isOn)
    }

    private static func isShortage(_ code: CInt) -> Bool { [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(code) }
}
