/// An IPv6 address, kept as two 64-bit halves in host order.
public struct IPv6Address: Hashable, Sendable, Comparable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64

    public static let any = IPv6Address(high: 0, low: 0)
    public static let loopback = IPv6Address(high: 0, low: 1)

    @inlinable
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Reads the text forms of RFC 4291 section 2.2: eight groups, one `::`, an embedded IPv4 tail.
    /// Zone suffixes (`%eth0`) are refused. Returns nil for anything else.
    public init?(_ text: some StringProtocol) {
        let bytes = Array(text.utf8)
        guard bytes.count >= 2, bytes.count <= 45 else { return nil }
        var groups: [UInt16] = []
        var gap: Int?
        var index = 0
        if bytes[0] == UInt8(ascii: ":") {
            guard bytes[1] == UInt8(ascii: ":") else { return nil }
            gap = 0
            index = 2
        }
        while index < bytes.count {
            let start = index
            var value: UInt32 = 0
            while index < bytes.count, let digit = hexDigit(bytes[index]) {
                value = value << 4 | UInt32(digit)
                index += 1
                guard index - start <= 4 else { return nil }
            }
            if index < bytes.count, bytes[index] == UInt8(ascii: ".") {
                // The tail is an IPv4 address.
                guard let tail = IPv4Address(String(decoding: bytes[start...], as: UTF8.self)), groups.count <= 6 else {
                    return nil
                }
                groups.append(UInt16(truncatingIfNeeded: tail.rawValue >> 16))
                groups.append(UInt16(truncatingIfNeeded: tail.rawValue))
                index = bytes.count
                break
            }
            guard index > start, groups.count < 8 else { return nil }
            groups.append(UInt16(truncatingIfNeeded: value))
            guard index < bytes.count else { break }
            guard bytes[index] == UInt8(ascii: ":") else { return nil }
            index += 1
            guard index < bytes.count else { return nil }
            if bytes[index] == UInt8(ascii: ":") {
                guard gap == nil else { return nil }
                gap = groups.count
                index += 1
            }
        }
        if let gap {
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: repeatElement(0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        self.high = groups[0..<4].reduce(0) { $0 << 16 | UInt64($1) }
        self.low = groups[4..<8].reduce(0) { $0 << 16 | UInt64($1) }
    }

    /// The 16-bit group at `index`, 0 being the most significant.
    func group(_ index: Int) -> UInt16 {
        let half = index < 4 ? self.high : self.low
        return UInt16(truncatingIfNeeded: half >> UInt64((3 - index % 4) * 16))
    }

    /// The IPv4 address inside `::ffff:a.b.c.d`, if this is one (RFC 4291 section 2.5.5.2).
    public var mappedIPv4: IPv4Address? {
        guard self.high == 0, self.low >> 32 == 0xFFFF else { return nil }
        return IPv4Address(rawValue: UInt32(truncatingIfNeeded: self.low))
    }

    /// The canonical text of RFC 5952.
    public var description: String {
        if let mapped = self.mappedIPv4 { return "::ffff:\(mapped)" }
        var longest = 0..<0
        var index = 0
        while index < 8 {
            let start = index
            while index < 8, self.group(index) == 0 { index += 1 }
            if index - start > max(1, longest.count) { longest = start..<index }
            index += 1
        }
        func text(_ range: Range<Int>) -> String {
            range.map { String(self.group($0), radix: 16) }.joined(separator: ":")
        }
        guard !longest.isEmpty else { return text(0..<8) }
        return text(0..<longest.lowerBound) + "::" + text(longest.upperBound..<8)
    }

    @inlinable
    public static func < (lhs: IPv6Address, rhs: IPv6Address) -> Bool { (lhs.high, lhs.low) < (rhs.high, rhs.low) }
}

/// The value of one hexadecimal digit in ASCII, or nil.
func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
}
