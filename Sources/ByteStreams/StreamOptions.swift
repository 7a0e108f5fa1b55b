public import NIOCore

/// How both sockets of a proxied connection are set up.
public enum StreamOptions {
    /// Bytes that may wait in user space for a slow reader, beside one read of at most `GlueReceiveAllocator.maximum`.
    public static let highWaterMark = 128 * 1024
    public static let lowWaterMark = 32 * 1024

    /// Sets what `GlueHandler` needs: nothing is read before it asks, half-closure is allowed, reads take one buffer
    /// each. On the channel's event loop, before it is registered.
    public static func apply(to channel: any Channel) throws {
        guard let options = channel.syncOptions else {
            throw ByteStreamsError(
                code: .optionRefused,
                message: "a channel without synchronous options cannot be glued"
            )
        }
        try options.setOption(.autoRead, value: false)
        try options.setOption(.allowRemoteHalfClosure, value: true)
        try options.setOption(.maxMessagesPerRead, value: 1)
        try options.setOption(.recvAllocator, value: GlueReceiveAllocator())
        try options.setOption(
            .writeBufferWaterMark,
            value: ChannelOptions.Types.WriteBufferWaterMark(low: Self.lowWaterMark, high: Self.highWaterMark)
        )
    }
}

/// Receive buffers that grow with the traffic and are given back after each read.
///
/// NIO keeps the first buffer of a channel for its whole life and, as long as the allocator offers no size of its own and
/// says that it may grow, allocates the others for one read each. So the first is small, and an idle connection holds
/// half a kilobyte whatever it moved before. The largest size halves the CPU time per byte against 16 KiB: each write wakes
/// the receiver once. It stays below malloc's mmap threshold, where a read would cost page faults.
public struct GlueReceiveAllocator: RecvByteBufferAllocator {
    public static let initial = 512
    public static let minimum = 2 * 1024
    public static let maximum = 256 * 1024

    private let limit: Int
    /// Of the next buffer.
    public private(set) var size = Self.initial
    private var shortReads: UInt8 = 0

    /// - Parameter limit: the largest size.
    public init(limit: Int = GlueReceiveAllocator.maximum) {
        self.limit = limit
    }

    public func buffer(allocator: ByteBufferAllocator) -> ByteBuffer {
        allocator.buffer(capacity: self.size)
    }

    public mutating func record(actualReadBytes: Int) -> Bool {
        if actualReadBytes >= self.size {
            self.size = min(self.limit, max(Self.minimum, self.size * 8))
            self.shortReads = 0
        } else if self.size <= Self.minimum {
            self.size = Self.minimum
        } else if actualReadBytes < self.size / 4 {
            self.shortReads &+= 1
            if self.shortReads >= 4 {
                self.size = max(Self.minimum, self.size / 4)
                self.shortReads = 0
            }
        } else {
            self.shortReads = 0
        }
        return true
    }
}
