import DequeModule
import NIOCore

/// The receiving half of a connection: bytes in order, bounded by the window. Sans I/O.
struct TCPReceiveQueue {
    private let capacity: Int
    private var ready = Deque<ByteBuffer>()
    private(set) var readyBytes = 0
    /// What came before its turn, by sequence number.
    private var early: [UInt64: TCPSegment] = [:]
    private var earlyBytes = 0
    /// The next byte that is expected.
    private(set) var next: UInt64
    private(set) var isFinished = false
    private var toldWindow: Int

    init(capacity: Int, next: UInt64) {
        self.capacity = capacity
        self.next = next
        self.toldWindow = capacity
    }

    var isEmpty: Bool { self.ready.isEmpty }
    var window: Int { max(0, self.capacity - self.readyBytes - self.earlyBytes) }

    func isInWindow(_ sequence: UInt64) -> Bool {
        sequence >= self.next && sequence <= self.next + UInt64(self.capacity)
    }

    /// The window, as it is written into a segment.
    mutating func tellWindow() -> Int {
        self.toldWindow = self.window
        return self.toldWindow
    }

    /// Whether reading has opened the window so far that the sender should know (RFC 9293 section 3.8.6.2.2).
    var windowIsNews: Bool { self.window - self.toldWindow >= self.capacity / 2 }

    /// Takes bytes and FIN of a segment; false if it brings nothing new in order.
    mutating func receive(_ segment: TCPSegment) -> Bool {
        guard segment.end > self.next else { return false }
        guard segment.sequence <= self.next else {
            let count = segment.bytes.readableBytes
            if self.early[segment.sequence] == nil, count <= self.window {
                self.early[segment.sequence] = segment
                self.earlyBytes += count
            }
            return false
        }
        guard self.take(segment) else { return false }
        while let segment = self.early.removeValue(forKey: self.next) {
            self.earlyBytes -= segment.bytes.readableBytes
            _ = self.take(segment)
        }
        return true
    }

    private mutating func take(_ segment: TCPSegment) -> Bool {
        var bytes = segment.bytes
        bytes.moveReaderIndex(forwardBy: min(Int(self.next - segment.sequence), bytes.readableBytes))
        let count = bytes.readableBytes
        // A sender that ignores the window sends again later.
        guard count == 0 || self.window > 0 else { return false }
        if count > 0 {
            self.ready.append(bytes)
            self.readyBytes += count
            self.next += UInt64(count)
        }
        if segment.flags.contains(.fin), !self.isFinished {
            self.isFinished = true
            self.next += 1
        }
        return true
    }

    /// At most `limit` bytes, of one segment.
    mutating func read(upTo limit: Int) -> ByteBuffer? {
        guard var bytes = self.ready.popFirst() else { return nil }
        if bytes.readableBytes > limit, let head = bytes.readSlice(length: limit) {
            self.ready.prepend(bytes)
            bytes = head
        }
        self.readyBytes -= bytes.readableBytes
        return bytes
    }
}
