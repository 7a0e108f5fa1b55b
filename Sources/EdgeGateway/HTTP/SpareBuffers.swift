import ByteStreams
import NIOCore

/// Buffers that are done with and serve again, so that a short request allocates none. Confined to its loop.
final class SpareBuffers {
    /// What is read or written is nearly always done with before the next: few are under way at a time.
    static let most = 8
    static let largest = 64 * 1024

    private let allocator = ByteBufferAllocator()
    private var spares: [ByteBuffer] = []

    var count: Int { self.spares.count }

    /// An empty buffer with room for so many bytes.
    func take(_ capacity: Int) -> ByteBuffer {
        guard var buffer = self.spares.popLast() else { return self.allocator.buffer(capacity: capacity) }
        // If somebody holds its bytes yet, it leaves them to him and gets others.
        buffer.clear(minimumCapacity: capacity)
        return buffer
    }

    func give(_ buffer: ByteBuffer) {
        guard self.spares.count < Self.most, (1...Self.largest).contains(buffer.storageCapacity) else { return }
        self.spares.append(buffer)
    }
}

/// Reads into spare buffers, but for a channel's first, which NIO keeps.
struct SpareReceiveAllocator: RecvByteBufferAllocator {
    private var sizes: GlueReceiveAllocator
    private var isFirst = true
    private let spares: NIOLoopBound<SpareBuffers>

    /// - Parameter limit: the largest size.
    init(limit: Int, spares: SpareBuffers, on loop: any EventLoop) {
        self.sizes = GlueReceiveAllocator(limit: limit)
        self.spares = NIOLoopBound(spares, eventLoop: loop)
    }

    func buffer(allocator: ByteBufferAllocator) -> ByteBuffer {
        self.isFirst ? self.sizes.buffer(allocator: allocator) : self.spares.value.take(self.sizes.size)
    }

    mutating func record(actualReadBytes: Int) -> Bool {
        self.isFirst = false
        return self.sizes.record(actualReadBytes: actualReadBytes)
    }
}
