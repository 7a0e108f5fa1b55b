import Glibc
public import NIOCore

/// Lets a listening socket rest when the process or the machine has no descriptors or memory left for a connection.
///
/// The connection stays in the kernel's queue, and so does the socket's readiness: without a rest the loop would try again
/// without end and serve nobody. It goes on by itself. First in the pipeline of a server channel; confined to its loop.
public final class AcceptPause: ChannelDuplexHandler {
    public typealias InboundIn = any Channel
    public typealias OutboundIn = Never

    /// How long nothing is accepted after a failure.
    public static let duration = TimeAmount.milliseconds(500)

    private let onPause: (_ error: IOError, _ isFirst: Bool) -> Void
    private var wakeup: Scheduled<Void>?
    private var isReadWanted = false
    private var hasFailedSinceAccept = false

    /// - Parameter onPause: called for each pause; `isFirst` is false until a connection was accepted again.
    public init(_ onPause: @escaping (_ error: IOError, _ isFirst: Bool) -> Void) {
        self.onPause = onPause
    }

    public func read(context: ChannelHandlerContext) {
        if self.wakeup == nil { context.read() } else { self.isReadWanted = true }
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
        self.wakeup = context.eventLoop.assumeIsolated().scheduleTask(in: Self.duration) {
            self.wakeup = nil
            guard self.isReadWanted else { return }
            self.isReadWanted = false
            context.read()
        }
    }

    public func handlerRemoved(context: ChannelHandlerContext) {
        self.wakeup?.cancel()
        self.wakeup = nil
    }

    private static func isShortage(_ code: CInt) -> Bool { [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(code) }
}
