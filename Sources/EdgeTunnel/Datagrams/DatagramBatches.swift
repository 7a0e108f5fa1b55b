import MeshCore
import NIOCore

/// Datagrams on their way out, joined into batches that the kernel cuts (UDP_SEGMENT): all of a batch have one length, but for the last.
struct DatagramBatches {
    private var whole: [DatagramPort.Batch] = []
    private var open: DatagramPort.Batch?
    private var count = 0

    /// Appends a datagram of `length` bytes, which `write` writes.
    /// - Returns: what `write` does: false if there is none, and nothing was written.
    mutating func append(
        length: Int,
        to target: TransportAddress,
        _ write: (inout ByteBuffer) -> Bool
    ) -> Bool {
        if let batch = self.open,
            batch.target != target || length > batch.segmentSize || self.count >= DatagramPort.maximumSegments
                || batch.bytes.readableBytes % batch.segmentSize != 0
                || batch.bytes.readableBytes + length > DatagramPort.maximumBatchBytes
        {
            self.close()
        }
        var batch = self.open.take() ?? DatagramPort.Batch(bytes: ByteBuffer(), segmentSize: length, target: target)
        let isWritten = write(&batch.bytes)
        if batch.bytes.readableBytes > 0 { self.open = batch }
        if isWritten { self.count += 1 }
        return isWritten
    }

    /// All that was appended, in order.
    mutating func finish() -> [DatagramPort.Batch] {
        self.close()
        defer { self.whole = [] }
        return self.whole
    }

    private mutating func close() {
        if let batch = self.open.take() { self.whole.append(batch) }
        self.count = 0
    }
}
