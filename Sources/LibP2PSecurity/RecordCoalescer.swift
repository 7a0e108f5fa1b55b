import NIOCore

/// Gathers writes until a flush into records, because every record costs a seal and a tag.
///
/// Large writes are passed on as slices; only what has to be joined is copied, and never more than a record is held.
struct RecordCoalescer {
    /// The most plaintext of a record: what TLS takes, and where ChaCha20-Poly1305 of BoringSSL is at its best.
    static let recordLength = 16_384

    /// How many full records are emitted as one, if a write has so many: one for who seals what is emitted, many for who cuts
    /// records of that length on its own.
    private let recordsAtOnce: Int
    private var held: ByteBuffer?
    /// If `held` is a buffer of ours with room for a record, not a slice of someone's write.
    private var isOwn = false

    init(recordsAtOnce: Int = 1) {
        self.recordsAtOnce = recordsAtOnce
    }

    /// Takes a write and gives each record that is certainly full to `emit`.
    mutating func append(_ data: ByteBuffer, _ emit: (ByteBuffer) -> Void) {
        var data = data
        guard data.readableBytes > 0 else { return }
        if var record = self.held {
            self.held = nil
            if record.readableBytes < Self.recordLength {
                if !self.isOwn {
                    var own = ByteBufferAllocator().buffer(capacity: Self.recordLength)
                    own.writeBuffer(&record)
                    record = own
                    self.isOwn = true
                }
                let room = Self.recordLength - record.readableBytes
                if var piece = data.readSlice(length: min(room, data.readableBytes)) { record.writeBuffer(&piece) }
            }
            if data.readableBytes == 0 {
                self.held = record
                return
            }
            emit(record)
        }
        while data.readableBytes > Self.recordLength {
            // Something is left to be held: more may come and join it.
            let records = min((data.readableBytes - 1) / Self.recordLength, self.recordsAtOnce)
            if let full = data.readSlice(length: records * Self.recordLength) { emit(full) }
        }
        self.held = data
        self.isOwn = false
    }

    /// The last record, at a flush; nil if nothing was written since the one before.
    mutating func flush() -> ByteBuffer? {
        defer { self.held = nil }
        return self.held
    }
}
