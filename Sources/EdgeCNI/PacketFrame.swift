import NIOCore
import PacketWire

/// A packet as one agent hands it to another (docs/protocols/packets.md): its length and the size of its segments, each two bytes in
/// the order of the network, one byte of flags, then the packet.
struct PacketFrame: Hashable, Sendable {
    static let headerLength = 5
    /// The checksum is left to the receiver.
    static let partialChecksum: UInt8 = 1
    /// No header of IP is shorter.
    private static let minimumLength = 20

    var offload: PacketOffload
    var packet: ByteBuffer

    /// Appends the frame of a packet.
    static func write(_ packet: UnsafeRawBufferPointer, _ offload: PacketOffload, to buffer: inout ByteBuffer) {
        buffer.writeMultipleIntegers(
            UInt16(clamping: packet.count),
            offload.segmentSize,
            offload.isChecksumPartial ? Self.partialChecksum : 0
        )
        buffer.writeBytes(packet)
    }

    /// Cuts a stream into frames, however its bytes come. It holds the beginning of one frame and one read at most.
    struct Decoder {
        private var input = ByteBuffer()

        mutating func append(_ bytes: ByteBuffer) {
            if self.input.readableBytes == 0 {
                self.input = bytes
            } else {
                self.input.writeImmutableBuffer(bytes)
            }
        }

        /// The next frame that is whole.
        /// - Throws: what cannot be mended by more bytes: the stream is of no more use.
        mutating func next() throws(EdgeCNIError) -> PacketFrame? {
            let start = self.input.readerIndex
            guard self.input.readableBytes >= PacketFrame.headerLength,
                let length = self.input.getInteger(at: start, as: UInt16.self),
                let size = self.input.getInteger(at: start + 2, as: UInt16.self),
                let flags = self.input.getInteger(at: start + 4, as: UInt8.self)
            else { return nil }
            guard length >= PacketFrame.minimumLength, flags & ~PacketFrame.partialChecksum == 0 else {
                throw EdgeCNIError(
                    code: .malformed,
                    message: "a frame of \(length) bytes with flags \(flags): the peer speaks another protocol"
                )
            }
            guard let packet = self.input.getSlice(at: start + PacketFrame.headerLength, length: Int(length)) else {
                // What was taken is not kept with the beginning of the next.
                if start > 0 { self.input.discardReadBytes() }
                return nil
            }
            self.input.moveReaderIndex(forwardBy: PacketFrame.headerLength + Int(length))
            return PacketFrame(
                offload: PacketOffload(
                    isChecksumPartial: flags & PacketFrame.partialChecksum != 0,
                    segmentSize: size
                ),
                packet: packet
            )
        }
    }
}
