import NIOCore
import PacketWire

/// Tells frames of packets from messages between the tunnels of two agents, in a stream of both (docs/protocols/packets.md). It hands on
/// whole frames, and holds the beginning of one at most.
struct PacketFrameCutter {
    static let headerLength = 5
    static let partialChecksum: UInt8 = 1
    /// The frame is a message to the tunnel.
    static let message: UInt8 = 2
    /// No header of IP is shorter.
    static let minimumPacket = 20

    enum Piece {
        /// Frames of packets, each whole.
        case frames(ByteBuffer)
        case message(ByteBuffer)
    }

    private var partial = ByteBuffer()

    /// Gives what is whole, in order.
    mutating func take(_ bytes: ByteBuffer) -> [Piece] {
        var (input, pieces) = (bytes, [Piece]())
        if self.partial.readableBytes > 0 {
            // No more is added to the frame that was begun than it lacks: what follows is not copied.
            while case let missing = Self.missing(in: self.partial), missing > 0 {
                guard var piece = input.readSlice(length: min(missing, input.readableBytes)), piece.readableBytes > 0
                else { return [] }
                self.partial.writeBuffer(&piece)
            }
            Self.cut(self.partial, &pieces)
            self.partial = ByteBuffer()
        }
        let rest = Self.cut(input, &pieces)
        self.partial.writeImmutableBuffer(rest)
        return pieces
    }

    /// What the frame at the beginning lacks.
    private static func missing(in bytes: ByteBuffer) -> Int {
        guard let length = bytes.getInteger(at: bytes.readerIndex, as: UInt16.self) else {
            return Self.headerLength - bytes.readableBytes
        }
        return Self.headerLength + Int(length) - bytes.readableBytes
    }

    /// - Returns: what is left: the beginning of a frame.
    @discardableResult
    private static func cut(_ bytes: ByteBuffer, _ pieces: inout [Piece]) -> ByteBuffer {
        var (input, scan) = (bytes, bytes)
        while true {
            let before = scan.readerIndex
            guard let (length, _, flags) = scan.readMultipleIntegers(as: (UInt16, UInt16, UInt8).self),
                let content = scan.readSlice(length: Int(length))
            else {
                scan.moveReaderIndex(to: before)
                break
            }
            guard flags == Self.message else { continue }
            Self.take(before - input.readerIndex, of: &input, &pieces)
            pieces.append(.message(content))
            input.moveReaderIndex(to: scan.readerIndex)
        }
        Self.take(scan.readerIndex - input.readerIndex, of: &input, &pieces)
        return input
    }

    private static func take(_ length: Int, of input: inout ByteBuffer, _ pieces: inout [Piece]) {
        if length > 0, let frames = input.readSlice(length: length) { pieces.append(.frames(frames)) }
    }

    /// A message to the tunnel of the peer; nil if it is too long for a frame.
    static func frame(message: ByteBuffer) -> ByteBuffer? {
        guard let length = UInt16(exactly: message.readableBytes) else { return nil }
        var frame = ByteBuffer()
        frame.writeMultipleIntegers(length, UInt16(0), Self.message)
        frame.writeImmutableBuffer(message)
        return frame
    }

    /// Writes the header of a frame whose packet is the rest of `buffer`; false if that is none.
    static func finish(frameAt start: Int, isChecksumPartial: Bool, of buffer: inout ByteBuffer) -> Bool {
        let length = buffer.writerIndex - start - Self.headerLength
        guard length >= Self.minimumPacket, let length = UInt16(exactly: length) else { return false }
        buffer.setInteger(length, at: start)
        buffer.setInteger(isChecksumPartial ? Self.partialChecksum : 0, at: start + 4)
        return true
    }

    // MARK: What is sent

    /// What is to be done with a packet, and its length, as the header of its frame says.
    struct Head: Equatable {
        var length: Int
        var offload: PacketOffload
    }

    /// The frames of a write.
    enum Write: Equatable {
        /// Whole frames, and nothing else.
        case whole
        /// Whole frames, and then the header of one whose packet is the next write.
        case headed(Head)
        /// Anything else.
        case unknown
    }

    /// What a write consists of.
    static func write(of bytes: UnsafeRawBufferPointer) -> Write {
        var start = 0
        while start < bytes.count {
            guard let head = self.head(of: bytes, at: start) else { return .unknown }
            start += self.headerLength
            if start == bytes.count { return .headed(head) }
            start += head.length
        }
        return start == bytes.count ? .whole : .unknown
    }

    /// Calls `body` with each frame that is whole, and with the packet in it.
    static func forEachFrame(
        in bytes: UnsafeRawBufferPointer,
        _ body: (_ frame: UnsafeRawBufferPointer, _ packet: UnsafeRawBufferPointer, PacketOffload) -> Void
    ) {
        var start = 0
        while let head = self.head(of: bytes, at: start), start + self.headerLength + head.length <= bytes.count {
            let end = start + self.headerLength + head.length
            let frame = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
            body(frame, UnsafeRawBufferPointer(rebasing: frame.dropFirst(self.headerLength)), head.offload)
            start = end
        }
    }

    private static func head(of bytes: UnsafeRawBufferPointer, at start: Int) -> Head? {
        guard bytes.count - start >= self.headerLength, bytes[start + 4] & ~self.partialChecksum == 0 else {
            return nil
        }
        return Head(
            length: Int(bytes[start]) << 8 | Int(bytes[start + 1]),
            offload: PacketOffload(
                isChecksumPartial: bytes[start + 4] & self.partialChecksum != 0,
                segmentSize: UInt16(bytes[start + 2]) << 8 | UInt16(bytes[start + 3])
            )
        )
    }
}
