import MeshInterfaces
import NIOCore
import PacketWire

/// Cuts a stream of bytes into packets. An error cannot be mended by more bytes: the stream is of no more use.
struct PacketStream {
    private let form: PacketChannel.Form
    /// The beginning of a packet whose rest has not come: less than 64 KiB.
    private var partial = ByteBuffer()

    init(form: PacketChannel.Form) {
        self.form = form
    }

    /// Calls `body` with each packet that is whole, in order, and what was left to be done on it. The bytes are valid until it returns.
    mutating func take(
        _ buffer: ByteBuffer,
        _ body: (UnsafeRawBufferPointer, PacketOffload) -> Void
    ) throws {
        var buffer = buffer
        if self.partial.readableBytes > 0, try !self.complete(&buffer, body) { return }
        let used = try buffer.withUnsafeReadableBytes { bytes in
            var start = 0
            while let head = try self.head(UnsafeRawBufferPointer(rebasing: bytes[start...])),
                start + head.total <= bytes.count
            {
                body(
                    UnsafeRawBufferPointer(rebasing: bytes[(start + head.skipped)..<(start + head.total)]),
                    head.offload
                )
                start += head.total
            }
            return start
        }
        buffer.moveReaderIndex(forwardBy: used)
        self.partial.writeBuffer(&buffer)
    }

    /// Adds to the packet that was begun no more than it lacks, so that what follows it is not copied.
    /// - Returns: whether it is whole now.
    private mutating func complete(
        _ buffer: inout ByteBuffer,
        _ body: (UnsafeRawBufferPointer, PacketOffload) -> Void
    ) throws -> Bool {
        while true {
            let head = try self.partial.withUnsafeReadableBytes { try self.head($0) }
            if let head, head.total == self.partial.readableBytes {
                self.partial.withUnsafeReadableBytes {
                    body(UnsafeRawBufferPointer(rebasing: $0[head.skipped...]), head.offload)
                }
                self.partial.clear()
                return true
            }
            let missing = (head?.total ?? self.partial.readableBytes + 1) - self.partial.readableBytes
            guard var piece = buffer.readSlice(length: min(missing, buffer.readableBytes)), piece.readableBytes > 0
            else { return false }
            self.partial.writeBuffer(&piece)
        }
    }

    /// Bytes before the packet, and up to its end.
    private struct Head {
        var skipped: Int
        var total: Int
        var offload: PacketOffload
    }

    private func head(_ bytes: UnsafeRawBufferPointer) throws(PacketError) -> Head? {
        switch self.form {
        case .framed:
            guard let (length, offload) = try PacketFrame.head(bytes) else { return nil }
            return Head(skipped: PacketFrame.headerLength, total: PacketFrame.headerLength + length, offload: offload)
        case .original:
            // It knows IPv4 alone.
            guard bytes.first.map({ $0 >> 4 == 4 }) ?? true else { throw PacketError(.version) }
            return try IPPacket.length(announcedBy: bytes).map { Head(skipped: 0, total: $0, offload: .none) }
        }
    }
}
