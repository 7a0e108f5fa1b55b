/// The path and query of a request, brought into the one form that is both matched and sent on, so that the gateway and what is
/// behind it cannot read a path differently.
///
/// 1. It begins with `/`, or is `*`. Control characters, spaces, `#` and bytes beyond ASCII are refused, as is a `%` without two
///    hexadecimal digits after it, and `%00`.
/// 2. `%41` and other escapes of letters, digits, `-`, `.`, `_` and `~` are undone; the digits of others become upper case.
/// 3. `%2F` and `%5C` stay as they are: they are no separators, here or in a match.
/// 4. `\` counts as `/`; several `/` count as one; `.` and `..` are resolved, and a path that leads above `/` is refused.
///
/// The query stays as it is but for rule 1.
public struct RequestTarget: Sendable, Hashable {
    public static let maximumBytes = 16_384

    public enum Failure: String, Error, Sendable, Hashable {
        case tooLong = "the request's path is longer than 16384 bytes"
        case badForm = "the request's path must begin with /"
        case badCharacter = "the request's path holds a character that must be written as %XX"
        case badEscape = "the request's path holds a % without two hexadecimal digits, or %00"
        case aboveRoot = "the request's path leads above /"
    }

    public let path: String
    /// Without its `?`.
    public let query: String?

    /// - Parameter target: the request target in origin form.
    public init(_ target: some StringProtocol) throws(Failure) { try self.init(String(target)) }

    /// - Parameter target: the request target in origin form.
    public init(_ target: String) throws(Failure) {
        if Self.isNormal(target) {
            self.path = target
            self.query = nil
            return
        }
        let text = target[...]
        guard text.utf8.count <= Self.maximumBytes else { throw .tooLong }
        let mark = text.utf8.firstIndex(of: UInt8(ascii: "?"))
        let query = mark.map { text[text.utf8.index(after: $0)...] }
        for byte in (query ?? "").utf8 where !Self.isAllowed(byte) { throw .badCharacter }
        self.query = query.map { String($0) }
        let path = text[..<(mark ?? text.endIndex)]
        self.path = path == "*" ? "*" : try Self.normalized(Array(path.utf8))
    }

    /// Whether it is a path without a query and stays as it is, as most do: each `/` but the last goes before an unreserved character
    /// that is no dot, and the others are unreserved.
    private static func isNormal(_ target: String) -> Bool {
        var last = UInt8(ascii: "x")
        for byte in target.utf8 {
            let isFirst = last == UInt8(ascii: "/")
            guard
                byte == UInt8(ascii: "/")
                    ? !isFirst : Self.isUnreserved(byte) && !(isFirst && byte == UInt8(ascii: "."))
            else { return false }
            last = byte
        }
        return target.utf8.first == UInt8(ascii: "/") && target.utf8.count <= Self.maximumBytes
    }

    private static func isAllowed(_ byte: UInt8) -> Bool { byte > 0x20 && byte < 0x7F && byte != UInt8(ascii: "#") }

    private static func normalized(_ bytes: [UInt8]) throws(Failure) -> String {
        guard bytes.first == UInt8(ascii: "/") else { throw .badForm }
        let slash = UInt8(ascii: "/")
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        var index = 0
        while index < bytes.count {
            let byte = bytes[index]
            index += 1
            switch byte {
            case slash, UInt8(ascii: "\\"):
                try Self.resolveDots(&result)
                if result.last != slash { result.append(slash) }
            case UInt8(ascii: "%"):
                guard index + 1 < bytes.count, let value = Self.value(bytes[index], bytes[index + 1]), value != 0 else {
                    throw .badEscape
                }
                index += 2
                if Self.isUnreserved(value) {
                    result.append(value)
                } else {
                    result += [byte, Self.digit(value >> 4), Self.digit(value & 15)]
                }
            case _ where Self.isAllowed(byte): result.append(byte)
            default: throw .badCharacter
            }
        }
        try Self.resolveDots(&result)
        return String(decoding: result, as: UTF8.self)
    }

    /// Takes `.` and `..` off the end of a path, with what they undo; the slash in front stays.
    private static func resolveDots(_ path: inout [UInt8]) throws(Failure) {
        guard let slash = path.lastIndex(of: UInt8(ascii: "/")) else { return }
        let element = path[(slash + 1)...]
        if element.elementsEqual(".".utf8) {
            path.removeLast(1)
        } else if element.elementsEqual("..".utf8) {
            guard let parent = path[..<slash].lastIndex(of: UInt8(ascii: "/")) else { throw .aboveRoot }
            path.removeSubrange((parent + 1)...)
        }
    }

    private static func value(_ high: UInt8, _ low: UInt8) -> UInt8? {
        func digit(_ byte: UInt8) -> UInt8? {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
            default: nil
            }
        }
        guard let high = digit(high), let low = digit(low) else { return nil }
        return high << 4 | low
    }

    private static func digit(_ value: UInt8) -> UInt8 { value < 10 ? 0x30 + value : 0x37 + value }

    /// RFC 3986 section 2.3.
    public static func isUnreserved(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "~"):
            true
        default: false
        }
    }
}
