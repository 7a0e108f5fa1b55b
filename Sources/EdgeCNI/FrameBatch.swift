import NIOCore
import PacketWire

/// Frames one behind the other, for one write.
///
/// Datagrams of one flow that follow each other become one frame, as they would be had their sender's kernel handed them over so: the
/// receiver's kernel takes a large packet for little more than the cost of a small one.
struct FrameBatch: Sendable {
    private(set) var bytes = ByteBuffer()
    /// The last frame, if a datagram may join it.
    private var run: (start: Int, datagrams: DatagramRun)?

    var isEmpty: Bool { self.bytes.readableBytes == 0 }
    var count: Int { self.bytes.readableBytes }

    init() {}

    init(capacity: Int) {
        self.bytes = ByteBufferAllocator().buffer(capacity: capacity)
    }

    /// Adds a packet.
    /// - Parameters:
    ///   - edit: changes the copy of it, which nothing joins then.
    /// - Returns: whether it has joined the last frame.
    @discardableResult
    mutating func append(
        _ packet: IPPacket,
        _ content: UnsafeRawBufferPointer,
        _ offload: PacketOffload,
        edit: ((UnsafeMutableRawBufferPointer) -> Void)? = nil
    ) -> Bool {
        if edit == nil, self.join(packet, content, offload) { return true }
        let start = self.count
        PacketFrame.write(content, offload, to: &self.bytes)
        self.run = nil
        if let edit {
            self.bytes.withUnsafeMutableReadableBytes {
                edit(UnsafeMutableRawBufferPointer(rebasing: $0[(start + PacketFrame.headerLength)...]))
            }
        } else if let datagrams = DatagramRun(packet, offload, content) {
            self.run = (start, datagrams)
        }
        return false
    }

    private mutating func join(
        _ packet: IPPacket,
        _ content: UnsafeRawBufferPointer,
        _ offload: PacketOffload
    ) -> Bool {
        guard let (start, run) = self.run else { return false }
        var datagrams = run
        let first = start + PacketFrame.headerLength
        let isContinued = self.bytes.withUnsafeReadableBytes {
            datagrams.isContinued(by: packet, offload, content, UnsafeRawBufferPointer(rebasing: $0[first...]))
        }
        guard isContinued else { return false }
        self.bytes.writeBytes(content[(packet.payloadOffset + 8)...])
        self.bytes.withUnsafeMutableReadableBytes {
            datagrams.add(length: packet.length, to: UnsafeMutableRawBufferPointer(rebasing: $0[first...]))
        }
        PacketFrame.setHeader(of: datagrams.length, datagrams.offload, in: &self.bytes, at: start)
        self.run = (start, datagrams)
        return true
    }

    /// Adds what precedes a packet that goes on by itself behind the batch.
    mutating func appendHeader(of length: Int, _ offload: PacketOffload) {
        PacketFrame.writeHeader(of: length, offload, to: &self.bytes)
        self.run = nil
    }

    /// Adds packets as they are, without frames.
    mutating func append(plain packet: UnsafeRawBufferPointer) {
        self.bytes.writeBytes(packet)
        self.run = nil
    }

    /// Takes all of it, and leaves room for as much.
    mutating func take() -> ByteBuffer {
        let bytes = self.bytes
        self = FrameBatch(capacity: bytes.readableBytes)
        return bytes
    }

    mutating func clear() { self = FrameBatch() }
}
