import Glibc
public import NIOCore

/// Triggered as an outbound event on a stream's channel, resets the stream.
public struct YamuxStreamReset: Sendable, Hashable {
    /// Told to peers that know error codes; zero is none.
    public var code: UInt32

    public init(code: UInt32 = 0) {
        self.code = code
    }
}

/// Set on a stream's channel, makes it carry messages: each write up to `YamuxConfiguration.maximumPayloadBytes` leaves as one
/// frame, which waits until the peer's window takes it whole, and each frame up to `wholePayloadBytes` that comes is one read.
/// For protocols that rely on the frames of the multiplexer for theirs.
public struct YamuxMessageBoundaries: ChannelOption {
    public typealias Value = Bool

    public init() {}
}

extension YamuxStreamChannel {
    func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) -> EventLoopFuture<Void> {
        if self.eventLoop.inEventLoop {
            return self.eventLoop.makeCompletedFuture { try self.setOption0(option, value: value) }
        }
        return self.eventLoop.submit { try self.setOption0(option, value: value) }
    }

    func getOption<Option: ChannelOption>(_ option: Option) -> EventLoopFuture<Option.Value> {
        if self.eventLoop.inEventLoop {
            return self.eventLoop.makeCompletedFuture { try self.getOption0(option) }
        }
        return self.eventLoop.submit { try self.getOption0(option) }
    }

    private func setOption0<Option: ChannelOption>(_ option: Option, value: Option.Value) throws {
        self.eventLoop.preconditionInEventLoop()
        switch (option, value) {
        case (_ as ChannelOptions.Types.AutoReadOption, let value as Bool):
            let before = self.flags.contains(.autoRead)
            self.set(.autoRead, value)
            if value, !before, self.flags.contains(.isActivated) { self.pipeline.read() }
        case (_ as ChannelOptions.Types.AllowRemoteHalfClosureOption, let value as Bool):
            self.set(.allowsRemoteHalfClosure, value)
        case (_ as YamuxMessageBoundaries, let value as Bool):
            self.set(.keepsMessages, value)
        case (
            _ as ChannelOptions.Types.WriteBufferWaterMarkOption, let value as ChannelOptions.Types.WriteBufferWaterMark
        ):
            self.waterMark = value
        case (_ as ChannelOptions.Types.MaxMessagesPerReadOption, _),
            (_ as ChannelOptions.Types.RecvAllocatorOption, _):
            // Reads are slices of the connection's, so there is nothing to set. Code that sets up sockets need not care.
            break
        default:
            throw ChannelError.operationUnsupported
        }
    }

    private func set(_ flag: Flags, _ value: Bool) {
        if value { self.flags.insert(flag) } else { self.flags.remove(flag) }
    }

    private func getOption0<Option: ChannelOption>(_ option: Option) throws -> Option.Value {
        self.eventLoop.preconditionInEventLoop()
        let value: Any? =
            switch option {
            case _ as ChannelOptions.Types.AutoReadOption: self.flags.contains(.autoRead)
            case _ as ChannelOptions.Types.AllowRemoteHalfClosureOption: self.flags.contains(.allowsRemoteHalfClosure)
            case _ as ChannelOptions.Types.WriteBufferWaterMarkOption: self.waterMark
            case _ as ChannelOptions.Types.BufferedWritableBytesOption: self.unsentBytes
            case _ as ChannelOptions.Types.MaxMessagesPerReadOption: UInt(1)
            default: nil
            }
        guard let value = value as? Option.Value else { throw ChannelError.operationUnsupported }
        return value
    }

    private struct SynchronousOptions: NIOSynchronousChannelOptions {
        let channel: YamuxStreamChannel

        func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) throws {
            try self.channel.setOption0(option, value: value)
        }

        func getOption<Option: ChannelOption>(_ option: Option) throws -> Option.Value {
            try self.channel.getOption0(option)
        }
    }

    var syncOptions: (any NIOSynchronousChannelOptions)? { SynchronousOptions(channel: self) }
}

/// Only SO_LINGER: a zero linger time makes `close()` a reset, as it does for TCP sockets. So code that resets sockets resets
/// streams, too.
extension YamuxStreamChannel: SocketOptionProvider {
    func unsafeSetSocketOption<Value: Sendable>(
        level: NIOBSDSocket.OptionLevel,
        name: NIOBSDSocket.Option,
        value: Value
    ) -> EventLoopFuture<Void> {
        guard self.eventLoop.inEventLoop else {
            return self.eventLoop.flatSubmit { self.unsafeSetSocketOption(level: level, name: name, value: value) }
        }
        guard level == .socket, name == .so_linger, let value = value as? linger else {
            return self.eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
        }
        self.set(.resetOnClose, value.l_onoff != 0 && value.l_linger == 0)
        return self.eventLoop.makeSucceededVoidFuture()
    }

    func unsafeGetSocketOption<Value: Sendable>(
        level: NIOBSDSocket.OptionLevel,
        name: NIOBSDSocket.Option
    ) -> EventLoopFuture<Value> {
        self.eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
    }

    func unsafeSetSocketOption<Value: Sendable>(
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

    func unsafeGetSocketOption<Value: Sendable>(
        level: SocketOptionLevel,
        name: SocketOptionName
    ) -> EventLoopFuture<Value> {
        self.eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
    }
}
