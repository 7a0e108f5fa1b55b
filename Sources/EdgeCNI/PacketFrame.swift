import NIOCore
import PacketWire

/// A packet as one agent hands it to another (docs/protocols/packets.md): its length and the size of its segments, each two bytes in
/// the order of the network, one byte of flags, then the packet.
enum PacketFrame {
    static let headerLength = 5
    /// The checksum is left to the receiver.
    static let partialChecksum: UInt8 = 1
    /// No header of IP is shorter.
    static let minimumLength = 20

    /// Appends the frame of a packet.
    static func write(_ packet: UnsafeRawBufferPointer, _ offload: PacketOffload, to buffer: inout ByteBuffer) {
        self.writeHeader(of: packet.count, offload, to: &buffer)
        buffer.writeBytes(packet)
    }

    /// Appends what precedes a packet of `length` bytes.
    static func writeHeader(of length: Int, _ offload: PacketOffload, to buffer: inout ByteBuffer) {
        buffer.writeMultipleIntegers(
            UInt16(clamping: length),
            offload.segmentSize,
            Self.flags(offload)
        )
    }

    private static func flags(_ offload: PacketOffload) -> UInt8 {
        offload.isChecksumPartial ? Self.partialChecksum : 0
    }

    /// Replaces the header that begins `offset` bytes behind the buffer's first one.
    static func setHeader(of length: Int, _ offload: PacketOffload, in buffer: inout ByteBuffer, at offset: Int) {
        let index = buffer.readerIndex + offset
        buffer.setInteger(UInt16(clamping: length), at: index)
        buffer.setInteger(offload.segmentSize, at: index + 2)
        buffer.setInteger(Self.flags(offload), at: index + 4)
    }

    /// What the header says: how long the packet behind it is, and what was left to be done on it; nil if it is not all there.
    static func head(_ bytes: UnsafeRawBufferPointer) throws(PacketError) -> (length: Int, offload: PacketOffload)? {
        guard bytes.count >= Self.headerLength else { return nil }
        let length = Int(bytes[0]) << 8 | Int(bytes[1])
        let flags = bytes[4]
        guard length >= Self.minimumLength, flags & ~Self.partialChecksum == 0 else { throw PacketError(.frame) }
        let offload = PacketOffload(
            isChecksumPartial: flags & Self.partialChecksum != 0,
            segmentSize: UInt16(bytes[2]) << 8 | UInt16(bytes[3])
        )
        return (length, offload)
    }
}
