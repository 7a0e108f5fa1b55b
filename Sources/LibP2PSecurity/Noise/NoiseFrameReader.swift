import NIOCore

/// Cuts a stream into Noise messages, each behind its length in two bytes. Holds at most one frame.
struct NoiseFrameReader {
    /// The largest message that is taken.
    var maximumLength: Int
    /// The beginning of a frame of which the rest has not come.
    private var partial = ByteBuffer()

    init(maximumLength: Int) {
        self.maximumLength = maximumLength
    }

    /// If the stream is inside a frame.
    var isInsideFrame: Bool { self.partial.readableBytes > 0 }

    /// The next message of what came before and `bytes`; nil if it is not whole, with all of `bytes` taken.
    ///
    /// A message that lies within `bytes` is a slice of it; only those that were cut by the transport are copied together.
    mutating func next(from bytes: inout ByteBuffer) throws(LibP2PSecurityError) -> ByteBuffer? {
        guard self.isInsideFrame else {
            if let length = try self.length(of: bytes), bytes.readableBytes >= 2 + length {
                bytes.moveReaderIndex(forwardBy: 2)
                return bytes.readSlice(length: length)
            }
            self.partial.clear()
            self.partial.writeBuffer(&bytes)
            return nil
        }
        self.fill(to: 2, from: &bytes)
        guard let length = try self.length(of: self.partial) else { return nil }
        self.fill(to: 2 + length, from: &bytes)
        guard self.partial.readableBytes == 2 + length else { return nil }
        let frame = self.partial.getSlice(at: self.partial.readerIndex + 2, length: length)
        self.partial = ByteBuffer()
        return frame
    }

    private mutating func fill(to count: Int, from bytes: inout ByteBuffer) {
        let missing = max(0, count - self.partial.readableBytes)
        if var piece = bytes.readSlice(length: min(missing, bytes.readableBytes)) { self.partial.writeBuffer(&piece) }
    }

    private func length(of bytes: ByteBuffer) throws(LibP2PSecurityError) -> Int? {
        guard let length = bytes.getInteger(at: bytes.readerIndex, as: UInt16.self).map(Int.init) else { return nil }
        guard length <= self.maximumLength else {
            throw LibP2PSecurityError(
                code: .malformed,
                message: "a Noise message of \(length) bytes is announced, at most \(self.maximumLength) are taken here"
            )
        }
        return length
    }
}
