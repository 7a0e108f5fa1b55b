/// What a plain (unquoted) YAML scalar means.
///
/// The rules are those of the reader that Kubernetes tools use (YAML 1.1 as go-yaml v2 has it): `yes`, `no`, `on` and
/// `off` are booleans, a leading 0 means octal, underscores in numbers are ignored, timestamps stay text.
enum YAMLScalar {
    static func resolve(_ text: String) -> Document.Content {
        switch text {
        case "", "~", "null", "Null", "NULL": return .null
        case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON": return .bool(true)
        case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF": return .bool(false)
        case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF": return .number(.infinity)
        case "-.inf", "-.Inf", "-.INF": return .number(-.infinity)
        case ".nan", ".NaN", ".NAN": return .number(.nan)
        default: return self.number(text) ?? .string(text)
        }
    }

    private static func number(_ text: String) -> Document.Content? {
        guard let first = text.utf8.first, "0123456789+-.".utf8.contains(first) else { return nil }
        let digits = text.utf8.contains(UInt8(ascii: "_")) ? text.filter { $0 != "_" } : text
        if let number = self.integer(digits) { return .integer(number) }
        guard self.isDecimal(digits), let number = Double(digits), number.isFinite else { return nil }
        return .number(number)
    }

    /// Decimal, `0x`, `0o`, `0b` or, with a leading 0, octal; nil if it is none of these or exceeds 64 bits.
    private static func integer(_ text: String) -> Int64? {
        var digits = Substring(text)
        var sign = ""
        if let first = digits.first, first == "-" || first == "+" {
            sign = String(first)
            digits = digits.dropFirst()
        }
        var radix = 10
        if digits.first == "0", digits.utf8.count > 1 {
            digits = digits.dropFirst()
            switch digits.first {
            case "x", "X": radix = 16
            case "b", "B": radix = 2
            case "o", "O": radix = 8
            default:
                radix = 8
                digits = text.suffix(digits.utf8.count + 1)
            }
            if digits.first?.isLetter == true { digits = digits.dropFirst() }
        }
        // `Int64(_:radix:)` would take a second sign.
        guard let first = digits.utf8.first, first != UInt8(ascii: "+"), first != UInt8(ascii: "-") else { return nil }
        return Int64(sign + digits, radix: radix)
    }

    /// Whether the text is `[-+] digits [. digits] [e [-+] digits]` with a digit before the exponent: `Double` alone
    /// would also read words such as `infinity` and hexadecimal.
    private static func isDecimal(_ text: String) -> Bool {
        var bytes = Substring(text).utf8
        func skipSign() { if let byte = bytes.first, byte == 0x2B || byte == 0x2D { bytes.removeFirst() } }
        func skipDigits() -> Int {
            let rest = bytes.drop { $0 >= 0x30 && $0 <= 0x39 }
            defer { bytes = rest }
            return bytes.count - rest.count
        }
        skipSign()
        var digits = skipDigits()
        if bytes.first == UInt8(ascii: ".") {
            bytes.removeFirst()
            digits += skipDigits()
        }
        guard digits > 0 else { return false }
        if let byte = bytes.first, byte == UInt8(ascii: "e") || byte == UInt8(ascii: "E") {
            bytes.removeFirst()
            skipSign()
            guard skipDigits() > 0 else { return false }
        }
        return bytes.isEmpty
    }
}
