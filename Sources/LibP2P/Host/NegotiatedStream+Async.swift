public import NIOCore

extension NIOAsyncChannel {
    /// Wraps a stream for use in a task. What arrived before is not lost. Throws if the stream has ended already.
    public init(of stream: NegotiatedStream) async throws where Inbound: Sendable {
        let channel = stream.channel
        self = try await channel.eventLoop.submit {
            // It would wait for ever for an end that has been told before.
            guard channel.isActive else { throw ChannelError.alreadyClosed }
            let wrapped = try NIOAsyncChannel(
                wrappingChannelSynchronously: channel,
                configuration: Configuration(isOutboundHalfClosureEnabled: true)
            )
            // Its handler holds reads back while nobody asks for more.
            try channel.syncOptions?.setOption(.autoRead, value: true)
            return wrapped
        }.get()
    }
}
