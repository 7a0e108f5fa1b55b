import NIOCore

/// Cuts the body of a Kubernetes list into its items while it arrives, so that no list is ever held whole.
///
/// It looks only at the structure of the JSON; each item is parsed by the caller. All but the contents of `items` is
/// kept, and is a small valid JSON object at the end.
struct ListScanner {
    /// A longer item is skipped and reported by its first bytes.
    static let itemLimit = 4 << 20
    /// The bound on all that is not an item.
    static let envelopeLimit = 256 << 10
    /// How much of an oversized item is shown to the caller.
    static let oversizedPrefix = 8 << 10
    static let depthLimit = 512

    enum Item {
        case complete([UInt8])
        case oversized(prefix: [UInt8])
    }

    private enum Place {
        case envelope
        case betweenItems
        case insideItem
    }

    private let itemLimit: Int
    private var place = Place.envelope
    private var depth = 0
    private var isInString = false
    private var isEscaped = false
    /// The last string at depth 1 of the envelope, while it may be the key `items`.
    private var key: [UInt8] = []
    private var keyIsComplete = false
    private var isAfterItemsColon = false
    private var item: [UInt8] = []
    private var isOversized = false
    private var envelope: [UInt8] = []
    private var isComplete = false

    init(itemLimit: Int = Self.itemLimit) {
        self.itemLimit = itemLimit
    }

    /// Takes the next bytes and hands each item that they complete to `body`.
    mutating func feed(_ buffer: ByteBuffer, _ body: (Item) -> Void) throws {
        try buffer.withUnsafeReadableBytes { bytes in
            for byte in bytes {
                switch self.place {
                case .envelope: try self.scanEnvelope(byte)
                case .betweenItems: try self.scanBetween(byte)
                case .insideItem: try self.scanItem(byte, body)
                }
            }
        }
    }

    /// The list without its items, once the body has ended.
    func finish() throws(KubeError) -> [UInt8] {
        guard self.isComplete else { throw Self.malformed("the list ends before its JSON does") }
        return self.envelope
    }

    private mutating func scanEnvelope(_ byte: UInt8) throws(KubeError) {
        guard !self.isComplete else {
            guard Self.isSpace(byte) else { throw Self.malformed("there is more after the list's end") }
            return
        }
        guard self.envelope.count < Self.envelopeLimit else {
            throw KubeError(.tooLarge, "the list has more than \(Self.envelopeLimit) bytes beside its items")
        }
        self.envelope.append(byte)
        if self.isInString {
            let wasKey = self.depth == 1 && !self.keyIsComplete
            if self.advanceString(byte) {
                self.keyIsComplete = true
            } else if wasKey && self.key.count < 16 {
                self.key.append(byte)
            }
            return
        }
        switch byte {
        case UInt8(ascii: "\""):
            self.isInString = true
            if self.depth == 1 {
                self.key.removeAll(keepingCapacity: true)
                self.keyIsComplete = false
            }
            self.isAfterItemsColon = false
        case UInt8(ascii: ":"):
            self.isAfterItemsColon = self.depth == 1 && self.keyIsComplete && self.key.elementsEqual("items".utf8)
        case UInt8(ascii: "["), UInt8(ascii: "{"):
            guard self.depth > 0 || byte == UInt8(ascii: "{") else { throw Self.malformed("it is no JSON object") }
            try self.deepen()
            if byte == UInt8(ascii: "["), self.isAfterItemsColon { self.place = .betweenItems }
            self.isAfterItemsColon = false
        case UInt8(ascii: "]"), UInt8(ascii: "}"):
            guard self.depth > 0 else { throw Self.malformed("it is no JSON object") }
            self.depth -= 1
            self.isComplete = self.depth == 0
        default:
            guard self.depth > 0 || Self.isSpace(byte) else { throw Self.malformed("it is no JSON object") }
            if !Self.isSpace(byte) { self.isAfterItemsColon = false }
        }
    }

    private mutating func scanBetween(_ byte: UInt8) throws(KubeError) {
        switch byte {
        case UInt8(ascii: "{"):
            self.place = .insideItem
            self.item.removeAll(keepingCapacity: self.item.capacity <= 64 << 10)
            self.item.append(byte)
            self.isOversized = false
            try self.deepen()
        case UInt8(ascii: "]"):
            self.place = .envelope
            self.envelope.append(byte)
            self.depth -= 1
        case UInt8(ascii: ","):
            break
        default:
            guard Self.isSpace(byte) else { throw Self.malformed("an item is no JSON object") }
        }
    }

    private mutating func scanItem(_ byte: UInt8, _ body: (Item) -> Void) throws(KubeError) {
        if self.item.count < (self.isOversized ? Self.oversizedPrefix : self.itemLimit) {
            self.item.append(byte)
        } else if !self.isOversized {
            self.isOversized = true
            self.item = Array(self.item.prefix(Self.oversizedPrefix))
        }
        if self.isInString {
            _ = self.advanceString(byte)
            return
        }
        switch byte {
        case UInt8(ascii: "\""):
            self.isInString = true
        case UInt8(ascii: "["), UInt8(ascii: "{"):
            try self.deepen()
        case UInt8(ascii: "]"), UInt8(ascii: "}"):
            self.depth -= 1
            // Depth 2 is the inside of the `items` array.
            guard self.depth == 2 else { return }
            self.place = .betweenItems
            body(self.isOversized ? .oversized(prefix: self.item) : .complete(self.item))
        default:
            break
        }
    }

    /// Follows a string; true at its closing quote.
    private mutating func advanceString(_ byte: UInt8) -> Bool {
        if self.isEscaped {
            self.isEscaped = false
        } else if byte == UInt8(ascii: "\\") {
            self.isEscaped = true
        } else if byte == UInt8(ascii: "\"") {
            self.isInString = false
            return true
        }
        return false
    }

    private mutating func deepen() throws(KubeError) {
        self.depth += 1
        guard self.depth <= Self.depthLimit else { throw Self.malformed("it nests deeper than \(Self.depthLimit)") }
    }

    private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

    private static func malformed(_ reason: String) -> KubeError {
        KubeError(.malformedResponse, "the server's list is not valid: \(reason)")
    }
}
