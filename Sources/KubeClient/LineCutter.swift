import NIOCore

/// Cuts a watch stream into its lines, each of which is one event.
struct LineCutter {
    enum Line: Equatable {
        case complete([UInt8])
        /// Longer than the bound: skipped, with its first bytes kept for the report.
        case oversized(prefix: [UInt8])
    }

    private let lineLimit: Int
    private var line: [UInt8] = []
    private var isOversized = false

    init(lineLimit: Int = ListScanner.itemLimit) {
        self.lineLimit = lineLimit
    }

    /// Takes the next bytes and hands on each line that they complete; empty lines are skipped.
    mutating func feed(_ buffer: ByteBuffer, _ body: (Line) -> Void) {
        var rest = buffer.readableBytesView[...]
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            self.append(rest[..<end])
            rest = rest[(end + 1)...]
            if self.isOversized {
                body(.oversized(prefix: self.line))
            } else if !self.line.allSatisfy({ $0 == 0x20 || $0 == 0x0D }) {
                body(.complete(self.line))
            }
            self.line.removeAll(keepingCapacity: self.line.capacity <= 64 << 10)
            self.isOversized = false
        }
        self.append(rest)
    }

    private mutating func append(_ bytes: ByteBufferView) {
        guard !self.isOversized else { return }
        guard self.line.count + bytes.count <= self.lineLimit else {
            self.isOversized = true
            self.line.append(contentsOf: bytes.prefix(max(0, ListScanner.oversizedPrefix - self.line.count)))
            self.line = Array(self.line.prefix(ListScanner.oversizedPrefix))
            return
        }
        self.line.append(contentsOf: bytes)
    }
}
