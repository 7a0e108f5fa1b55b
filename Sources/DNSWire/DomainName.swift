/// A domain name in wire form: length-prefixed labels up to the root's zero octet. The case is kept; comparing and
/// hashing ignore it (RFC 4343). At most 255 octets, each label at most 63.
public struct DomainName: Hashable, Sendable, CustomStringConvertible {
    /// The labels with their length octets, ending in zero; never compressed.
    public let wire: [UInt8]

    public static let root = DomainName(uncheckedWire: [0])
    static let maximumLength = 255

    /// Takes bytes that a reader has checked.
    init(uncheckedWire wire: [UInt8]) {
        self.wire = wire
    }

    /// Reads the text form of RFC 1035 section 5.1: labels between dots, `\.` and `\065` as escapes, the last dot optional.
    public init(_ text: some StringProtocol) throws(DNSWireError) {
        var labels: [[UInt8]] = []
        var label: [UInt8] = []
        var bytes = Array(text.utf8)[...]
        if bytes.elementsEqual([UInt8(ascii: ".")]) { bytes = [] }
        while let byte = bytes.popFirst() {
            switch byte {
            case UInt8(ascii: "."):
                guard !label.isEmpty else { throw DNSWireError(.invalidName, "empty label in '\(text)'") }
                labels.append(label)
                label = []
            case UInt8(ascii: "\\"):
                guard let escaped = DomainName.unescape(&bytes) else {
                    throw DNSWireError(.invalidName, "bad escape in '\(text)'")
                }
                label.append(escaped)
            default:
                label.append(byte)
            }
        }
        if !label.isEmpty { labels.append(label) }
        try self.init(labels: labels)
    }

    /// Joins labels, the leftmost first.
    public init(labels: some Sequence<some Collection<UInt8>>) throws(DNSWireError) {
        var wire: [UInt8] = []
        for label in labels {
            guard label.count > 0, label.count <= 63 else {
                throw DNSWireError(.invalidName, "a label has \(label.count) octets; 1 to 63 are allowed")
            }
            wire.append(UInt8(label.count))
            wire.append(contentsOf: label)
        }
        wire.append(0)
        guard wire.count <= DomainName.maximumLength else {
            throw DNSWireError(.invalidName, "a name has \(wire.count) octets; 255 are allowed")
        }
        self.wire = wire
    }

    private static func unescape(_ bytes: inout ArraySlice<UInt8>) -> UInt8? {
        guard let first = bytes.popFirst() else { return nil }
        guard (0x30...0x39).contains(first) else { return first }
        var value = Int(first) - 0x30
        for _ in 0..<2 {
            guard let digit = bytes.popFirst(), (0x30...0x39).contains(digit) else { return nil }
            value = value * 10 + Int(digit) - 0x30
        }
        return UInt8(exactly: value)
    }

    /// The labels, the leftmost first, without the root.
    public var labels: [ArraySlice<UInt8>] {
        var labels: [ArraySlice<UInt8>] = []
        var offset = 0
        while offset < self.wire.count, self.wire[offset] != 0 {
            let end = offset + 1 + Int(self.wire[offset])
            labels.append(self.wire[(offset + 1)..<end])
            offset = end
        }
        return labels
    }

    /// The labels left of `ancestor`; empty if the names are equal, nil if this name does not lie at or below it.
    public func labels(below ancestor: DomainName) -> [ArraySlice<UInt8>]? {
        let mine = self.labels
        let theirs = ancestor.labels
        guard mine.count >= theirs.count else { return nil }
        for (left, right) in zip(mine.suffix(theirs.count), theirs) where !equalIgnoringCase(left, right) { return nil }
        return Array(mine.dropLast(theirs.count))
    }

    /// This name with labels put in front, the leftmost first.
    public func prepending(_ labels: String...) throws(DNSWireError) -> DomainName {
        try DomainName(labels: labels.map { Array($0.utf8)[...] } + self.labels)
    }

    public var lowercased: DomainName { DomainName(uncheckedWire: self.wire.map(lowercasedASCII)) }

    /// Presentation form with the last dot.
    public var description: String {
        guard self.wire.count > 1 else { return "." }
        var text = ""
        for label in self.labels {
            for byte in label {
                switch byte {
                case UInt8(ascii: "."), UInt8(ascii: "\\"):
                    text += "\\" + String(UnicodeScalar(byte))
                case 0x21...0x7E:
                    text.unicodeScalars.append(UnicodeScalar(byte))
                default:
                    let digits = String(byte)
                    text += "\\" + String(repeating: "0", count: 3 - digits.count) + digits
                }
            }
            text += "."
        }
        return text
    }

    public static func == (lhs: DomainName, rhs: DomainName) -> Bool { equalIgnoringCase(lhs.wire[...], rhs.wire[...]) }

    public func hash(into hasher: inout Hasher) {
        for byte in self.wire { hasher.combine(lowercasedASCII(byte)) }
    }
}

/// Length octets (at most 63) are not letters, so this may be applied to a whole name in wire form.
func lowercasedASCII(_ byte: UInt8) -> UInt8 { byte &- 0x41 < 26 ? byte | 0x20 : byte }

func equalIgnoringCase(_ lhs: ArraySlice<UInt8>, _ rhs: ArraySlice<UInt8>) -> Bool {
    lhs.count == rhs.count && zip(lhs, rhs).allSatisfy { lowercasedASCII($0) == lowercasedASCII($1) }
}
