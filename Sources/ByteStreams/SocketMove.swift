import Glibc
public import NIOCore
import NIOPosix

/// Moves connected sockets between event loops.
///
/// A proxied connection and its server are glued on one loop. The loop of a socket is settled when it is accepted, that of a
/// tunnel's stream by the connection to its peer: where they differ, the socket follows. What the kernel holds of its bytes goes
/// with it; what a channel has read must be carried along by the caller.
public enum SocketMove {
    /// Gives the socket a channel on `loop` and closes the one that it had, of which the peer sees nothing. On the channel's
    /// loop; `initializer` runs on the other. Fails with `ByteStreamsError` or the system's error, and then the socket is closed.
    public static func move(
        _ channel: any Channel,
        to loop: any EventLoop,
        initializer: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        do {
            let descriptor = try self.duplicate(channel)
            // NIO takes it out of its selector before it closes it, so that the copy is in nobody's.
            channel.close(promise: nil)
            return ClientBootstrap(group: loop).channelInitializer(initializer).withConnectedSocket(descriptor)
        } catch {
            channel.close(promise: nil)
            return loop.makeFailedFuture(error)
        }
    }

    private static func duplicate(_ channel: any Channel) throws -> CInt {
        let descriptor = try channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { socket in
            fcntl(socket, F_DUPFD_CLOEXEC, 0)
        }
        guard let descriptor else {
            throw ByteStreamsError(code: .optionRefused, message: "a channel without a socket stays on its event loop")
        }
        guard descriptor >= 0 else { throw IOError(errnoCode: errno, reason: "duplicating a socket") }
        return descriptor
    }
}
