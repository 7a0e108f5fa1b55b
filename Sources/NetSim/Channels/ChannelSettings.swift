import Glibc
public import NIOCore

/// The options of a simulated channel that matter; those of real sockets that tune them are taken and ignored.
struct ChannelSettings {
    var autoRead = true
    var allowsRemoteHalfClosure = false
    var messagesPerRead = 4
    var waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 32 * 1024, high: 64 * 1024)
    /// SO_LINGER with a time of zero.
    var resetsOnClose = false

    mutating func set<Option: ChannelOption>(_ option: Option, _ value: Option.Value) throws {
        switch (option, value) {
        case (_ as ChannelOptions.Types.AutoReadOption, let value as Bool): self.autoRead = value
        case (_ as ChannelOptions.Types.AllowRemoteHalfClosureOption, let value as Bool):
            self.allowsRemoteHalfClosure = value
        case (_ as ChannelOptions.Types.MaxMessagesPerReadOption, let value as UInt):
            self.messagesPerRead = max(1, Int(clamping: value))
        case (
            _ as ChannelOptions.Types.WriteBufferWaterMarkOption, let value as ChannelOptions.Types.WriteBufferWaterMark
        ):
            self.waterMark = value
        case (_ as ChannelOptions.Types.RecvAllocatorOption, _), (_ as ChannelOptions.Types.WriteSpinOption, _),
            (_ as ChannelOptions.Types.SocketOption, _):
            break
        default: throw ChannelError.operationUnsupported
        }
    }

    func get<Option: ChannelOption>(_ option: Option, bufferedBytes: Int) throws -> Option.Value {
        let value: Any? =
            switch option {
            case _ as ChannelOptions.Types.AutoReadOption: self.autoRead
            case _ as ChannelOptions.Types.AllowRemoteHalfClosureOption: self.allowsRemoteHalfClosure
            case _ as ChannelOptions.Types.MaxMessagesPerReadOption: UInt(self.messagesPerRead)
            case _ as ChannelOptions.Types.WriteBufferWaterMarkOption: self.waterMark
            case _ as ChannelOptions.Types.BufferedWritableBytesOption: bufferedBytes
            default: nil
            }
        guard let value = value as? Option.Value else { throw ChannelError.operationUnsupported }
        return value
    }
}

extension SimulatedChannel {
    public func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) -> EventLoopFuture<Void> {
        if self.loop.inEventLoop { return self.loop.makeCompletedFuture { try self.setOption0(option, value) } }
        return self.loop.submit { try self.setOption0(option, value) }
    }

    public func getOption<Option: ChannelOption>(_ option: Option) -> EventLoopFuture<Option.Value> {
        if self.loop.inEventLoop { return self.loop.makeCompletedFuture { try self.getOption0(option) } }
        return self.loop.submit { try self.getOption0(option) }
    }

    private func setOption0<Option: ChannelOption>(_ option: Option, _ value: Option.Value) throws {
        self.loop.preconditionInEventLoop()
        let wasAutoRead = self.settings.autoRead
        try self.settings.set(option, value)
        if self.settings.autoRead, !wasAutoRead, self.isActive { self.pipeline.read() }
    }

    private func getOption0<Option: ChannelOption>(_ option: Option) throws -> Option.Value {
        self.loop.preconditionInEventLoop()
        return try self.settings.get(option, bufferedBytes: self.bufferedBytes)
    }

    public var syncOptions: (any NIOSynchronousChannelOptions)? { SynchronousOptions(channel: self) }

    private struct SynchronousOptions: NIOSynchronousChannelOptions {
        let channel: SimulatedChannel

        func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) throws {
            try self.channel.setOption0(option, value)
        }

        func getOption<Option: ChannelOption>(_ option: Option) throws -> Option.Value {
            try self.channel.getOption0(option)
        }
    }
}

/// Of the options of sockets only SO_LINGER does anything, and none can be read.
extension SimulatedChannel: SocketOptionProvider {
    public func unsafeSetSocketOption<Value: Sendable>(
        level: NIOBSDSocket.OptionLevel,
        name: NIOBSDSocket.Option,
        value: Value
    ) -> EventLoopFuture<Void> {
        guard self.loop.inEventLoop else {
            return self.loop.flatSubmit { self.unsafeSetSocketOption(level: level, name: name, value: value) }
        }
        if level == .socket, name == .so_linger, let value = value as? linger {
            self.settings.resetsOnClose = value.l_onoff != 0 && value.l_linger == 0
        }
        return self.loop.makeSucceededVoidFuture()
    }

    public func unsafeGetSocketOption<Value: Sendable>(
        level: NIOBSDSocket.OptionLevel,
        name: NIOBSDSocket.Option
    ) -> EventLoopFuture<Value> {
        self.loop.makeFailedFuture(ChannelError.operationUnsupported)
    }

    public func unsafeSetSocketOption<Value: Sendable>(
        level: SocketOptionLevel,
        name: SocketOptionName,
        value: Value
    ) -> EventLoopFuture<Void> {
        self.unsafeSetSocketOption(
            level: NIOBSDSocket.OptionLevel(rawValue: CInt(level)),
            name: NIOBSDSocket.Option(rawValue: CInt(name)),
            value: value
        )
    }

    public func unsafeGetSocketOption<Value: Sendable>(
        level: SocketOptionLevel,
        name: SocketOptionName
    ) -> EventLoopFuture<Value> {
        self.loop.makeFailedFuture(ChannelError.operationUnsupported)
    }
}
