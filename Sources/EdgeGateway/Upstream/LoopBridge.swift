import ByteStreams
import CLinux
import Glibc
import NIOCore
import NIOPosix

/// Brings a byte stream that lives on another loop to this one: a stream of the tunnel lives where the connection to its node
/// does. A socket pair joins the two, with its back-pressure and half-closes, as HTTP's connections cannot move for each
/// request.
enum LoopBridge {
    /// The channel itself if it is on `loop`; else one that has its bytes, set up as `EndpointDialing` has it.
    static func bring(_ channel: any Channel, to loop: any EventLoop) -> EventLoopFuture<any Channel> {
        guard channel.eventLoop !== loop else { return loop.makeSucceededFuture(channel) }
        var sockets: [CInt] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &sockets) == 0 else {
            channel.close(promise: nil)
            return loop.makeFailedFuture(
                GatewayError(.descriptors, "no descriptors are left for a stream of the tunnel")
            )
        }
        // The halves stand before the socket can be read: what comes with its end is read unasked, and would find nobody.
        let far = self.adopt(sockets[0], on: channel.eventLoop) { local in
            let pair = GlueHandler.matchedPair(counters: GlueCounters())
            try local.pipeline.syncOperations.addHandler(pair.client)
            try channel.pipeline.syncOperations.addHandler(pair.server)
        }
        .flatMapThrowing { try $0.pipeline.syncOperations.handler(type: GlueHandler.self).start() }
        far.whenFailure { _ in channel.close(promise: nil) }
        return self.adopt(sockets[1], on: loop)
    }

    private static func adopt(
        _ socket: CInt,
        on loop: any EventLoop,
        initialize: @escaping @Sendable (any Channel) throws -> Void = { _ in }
    ) -> EventLoopFuture<any Channel> {
        ClientBootstrap(group: loop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try StreamOptions.apply(to: channel)
                    try initialize(channel)
                }
            }
            .withConnectedSocket(socket)
    }
}
