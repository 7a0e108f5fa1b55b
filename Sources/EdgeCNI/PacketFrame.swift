import NIOCore
import PacketWire

/// A packet as one agent hands it to another (docs/protocols/packets.md): its length and the size of its segments, each two bytes in
/// the order of the network, one byte of flags, then the packet.
struct PacketFrame: Hashable, Sendable {
    static let headerLength = 5
    /// The checksum is left to the receiver.
    static let partialChecksum: UInt8 = 1
    /// No header of IP is shorter.
    static let minimumLength = 20

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
}

/// Cuts a stream into frames. An error cannot be mended by more bytes: the stream is of no more use.
struct PacketFrameDecoder: NIOSingleStepByteToMessageDecoder {
    typealias InboundOut = PacketFrame

    mutating func decode(buffer: inout ByteBuffer) throws -> PacketFrame? {
        var head = buffer
        guard let (length, size, flags) = head.readMultipleIntegers(as: (UInt16, UInt16, UInt8).self) else {
            return nil
        }
        guard length >= PacketFrame.minimumLength, flags & ~PacketFrame.partialChecksum == 0 else {
            throw PacketError(.frame)
        }
        guard let packet = head.readSlice(length: Int(length)) else { return nil }
        buffer.moveReaderIndex(to: head.readerIndex)
        let isPartial = flags & PacketFrame.partialChecksum != 0
        return PacketFrame(offload: PacketOffload(isChecksumPartial: isPartial, segmentSize: size), packet: packet)
    }

    mutating func decodeLast(buffer: inout ByteBuffer, seenEOF: Bool) throws -> PacketFrame? {
        try self.decode(buffer: &buffer)
    }
}
