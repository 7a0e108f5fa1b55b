public import MeshCore
public import NIOCore
import NIOPosix

/// Dials TCP by address; a host name never gets here, so no resolver can hold up a loop.
public enum StreamConnector {
    /// Connects on `loop` without blocking it. `configure` runs after `StreamOptions` are set and before the channel reads.
    /// The future fails with `ByteStreamsError.Code.deadlineExceeded` when `deadline` passes.
    /// - Parameter mark: the firewall mark of the connection's packets; nil for none.
    public static func connect(
        to address: TransportAddress,
        on loop: any EventLoop,
        deadline: NIODeadline,
        mark: Int? = nil,
        configure: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        let timeout = deadline - .now()
        guard timeout > .zero else { return loop.makeFailedFuture(self.late(address)) }
        return ClientBootstrap(group: loop)
            .connectTimeout(timeout)
            .channelInitializer { channel in
                do {
                    try StreamOptions.apply(to: channel)
                    CongestionControl.ofHost.begin(channel)
                    if let mark {
                        try channel.syncOptions?.setOption(
                            SocketOption.mark,
                            value: ChannelOptions.Types.SocketOption.Value(mark)
                        )
                    }
                    return configure(channel)
                } catch {
                    return channel.eventLoop.makeFailedFuture(error)
                }
            }
            .connect(to: SocketAddress(address))
            .map { channel in
                CongestionControl.ofHost.settle(channel)
                return channel
            }
            .flatMapErrorThrowing { error in
                if case .connectTimeout? = error as? ChannelError { throw self.late(address) }
                throw error
            }
    }

    private static func late(_ address: TransportAddress) -> ByteStreamsError {
        ByteStreamsError(
            code: .deadlineExceeded,
            message: "no answer from \(address): check that it runs and that no firewall drops its packets"
        )
    }
}
