import Multiformats
import NIOCore

/// Datagrams in a stream of bytes: each behind its length as two bytes, the high one first (docs/protocols/flow.md).
enum DatagramFraming {
    /// What fits into a UDP datagram over IPv4.
    static let maximumLength = 65_507

    static func frame(_ datagram: ByteBuffer, allocator: ByteBufferAllocator) -> ByteBuffer? {
        guard let length = UInt16(exactly: datagram.readableBytes), length <= Self.maximumLength else { return nil }
        var framed = allocator.buffer(capacity: 2 + Int(length))
        framed.writeInteger(length)
        framed.writeImmutableBuffer(datagram)
        return framed
    }
}

/// Cuts a stream into datagrams, however its bytes come. It holds the beginning of one datagram and one read at most.
struct DatagramDecoder {
    private var input = ByteBuffer()

    mutating func append(_ bytes: ByteBuffer) {
        if self.input.readableBytes == 0 {
            self.input = bytes
        } else {
            self.input.writeImmutableBuffer(bytes)
        }
    }

    /// The next datagram that is whole; one of no bytes is a datagram, too.
    mutating func next() throws(MultiformatsError) -> ByteBuffer? {
        guard let length = self.input.getInteger(at: self.input.readerIndex, as: UInt16.self) else { return nil }
        guard length <= DatagramFraming.maximumLength else {
            throw MultiformatsError(code: .tooLong, message: "a datagram of \(length) bytes is announced")
        }
        guard self.input.readableBytes >= 2 + Int(length) else {
            // What was cut off is not kept with the beginning of the next.
            if self.input.readerIndex > 0 { self.input.discardReadBytes() }
            return nil
        }
        self.input.moveReaderIndex(forwardBy: 2)
        return self.input.readSlice(length: Int(length))
    }

    /// A datagram has begun and is not whole.
    var isMidway: Bool { self.input.readableBytes > 0 }
}
