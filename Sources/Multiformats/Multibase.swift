/// Text forms of bytes. All decoding is bounded: by `maximumLength` where the cost grows with the square of the length.
enum BaseText {
    /// Digits of one alphabet and their values.
    struct Alphabet: Sendable {
        let digits: [UInt8]
        /// The value of each byte, 0xFF if it is no digit.
        let values: [UInt8]

        init(_ text: StaticString, ignoresCase: Bool = false) {
            let digits = text.withUTF8Buffer { Array($0) }
            var values = [UInt8](repeating: 0xFF, count: 256)
            for (value, digit) in digits.enumerated() {
                values[Int(digit)] = UInt8(value)
                if ignoresCase, (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(digit) {
                    values[Int(digit - 0x20)] = UInt8(value)
                }
            }
            self.digits = digits
            self.values = values
        }

        func value(of byte: UInt8, _ name: StaticString) throws(MultiformatsError) -> UInt8 {
            let value = self.values[Int(byte)]
            guard value != 0xFF else {
                throw MultiformatsError(code: .malformed, message: "byte \(byte) is no digit of \(name)")
            }
            return value
        }
    }

    /// The most digits of a base that is no power of two: a peer ID or CID has 64.
    static let maximumLength = 128
}

/// base58btc: the alphabet of Bitcoin, leading zero bytes kept as `1`.
public enum Base58 {
    private static let alphabet = BaseText.Alphabet("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")

    public static func encode(_ bytes: some Collection<UInt8>) -> String {
        Radix.encode(bytes, Self.alphabet)
    }

    /// - Throws: `tooLong` for more than 128 digits, `malformed` for a byte that is no digit.
    public static func decode(_ text: some StringProtocol) throws(MultiformatsError) -> [UInt8] {
        try Radix.decode(text, Self.alphabet, "base58btc")
    }
}

/// base36 in lower case, as names under IPNS write CIDs of keys (`k51…`).
public enum Base36 {
    private static let alphabet = BaseText.Alphabet("0123456789abcdefghijklmnopqrstuvwxyz", ignoresCase: true)

    public static func encode(_ bytes: some Collection<UInt8>) -> String {
        Radix.encode(bytes, Self.alphabet)
    }

    /// - Throws: `tooLong` for more than 128 digits, `malformed` for a byte that is no digit.
    public static func decode(_ text: some StringProtocol) throws(MultiformatsError) -> [UInt8] {
        try Radix.decode(text, Self.alphabet, "base36")
    }
}

/// base32 of RFC 4648 in lower case without padding (multibase `b`).
public enum Base32 {
    private static let alphabet = BaseText.Alphabet("abcdefghijklmnopqrstuvwxyz234567", ignoresCase: true)

    public static func encode(_ bytes: some Collection<UInt8>) -> String {
        Bits.encode(bytes, Self.alphabet, bits: 5)
    }

    /// - Throws: `malformed` for a byte that is no digit, or an end that no bytes encode to.
    public static func decode(_ text: some StringProtocol) throws(MultiformatsError) -> [UInt8] {
        try Bits.decode(text.utf8, Self.alphabet, bits: 5, "base32")
    }
}

/// base64 of RFC 4648.
public enum Base64 {
    private static let standard = BaseText.Alphabet("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    private static let url = BaseText.Alphabet("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

    /// Encodes with padding.
    public static func encode(_ bytes: some Collection<UInt8>) -> String {
        let text = Bits.encode(bytes, Self.standard, bits: 6)
        return text + String(repeating: "=", count: (4 - text.utf8.count % 4) % 4)
    }

    /// Encodes in the alphabet for URLs without padding (multibase `u`).
    public static func encodeURL(_ bytes: some Collection<UInt8>) -> String {
        Bits.encode(bytes, Self.url, bits: 6)
    }

    /// Decodes text with or without padding; what padding there is must be complete.
    /// - Throws: `malformed` for a byte that is no digit, or an end that no bytes encode to.
    public static func decode(_ text: some StringProtocol) throws(MultiformatsError) -> [UInt8] {
        let digits = Array(text.utf8)
        var end = digits.count
        while end > 0, digits.count - end < 2, digits[end - 1] == UInt8(ascii: "=") { end -= 1 }
        guard end == digits.count || digits.count % 4 == 0 else {
            throw MultiformatsError(code: .malformed, message: "base64 text with padding that does not fit its length")
        }
        return try Bits.decode(digits[..<end], Self.standard, bits: 6, "base64")
    }

    public static func decodeURL(_ text: some StringProtocol) throws(MultiformatsError) -> [UInt8] {
        try Bits.decode(text.utf8, Self.url, bits: 6, "base64url")
    }
}

/// Text that begins with the letter of its base (github.com/multiformats/multibase).
public enum Multibase {
    /// Decodes the bases that peer IDs, CIDs and certificate hashes come in: base58btc (`z`), base32 (`b`), base36 (`k`),
    /// base64 (`m`) and base64url (`u`).
    /// - Throws: `unsupported` for other bases, and what the base throws.
    public static func decode(_ text: some StringProtocol) throws(MultiformatsError) -> [UInt8] {
        let digits = text.dropFirst()
        switch text.first {
        case "z": return try Base58.decode(digits)
        case "b", "B": return try Base32.decode(digits)
        case "k", "K": return try Base36.decode(digits)
        case "m": return try Base64.decode(digits)
        case "u": return try Base64.decodeURL(digits)
        default: throw MultiformatsError(code: .unsupported, message: "text in no known base of multibase")
        }
    }
}

/// Bases that are no power of two: the bytes are one large number. The cost grows with the square of the length.
private enum Radix {
    static func encode(_ bytes: some Collection<UInt8>, _ alphabet: BaseText.Alphabet) -> String {
        let radix = UInt32(alphabet.digits.count)
        let zeros = bytes.prefix { $0 == 0 }.count
        // Least significant first.
        var digits: [UInt8] = []
        for byte in bytes.dropFirst(zeros) {
            var carry = UInt32(byte)
            for index in digits.indices {
                carry += UInt32(digits[index]) << 8
                digits[index] = UInt8(truncatingIfNeeded: carry % radix)
                carry /= radix
            }
            while carry > 0 {
                digits.append(UInt8(truncatingIfNeeded: carry % radix))
                carry /= radix
            }
        }
        var text = [UInt8](repeating: alphabet.digits[0], count: zeros)
        text.append(contentsOf: digits.reversed().map { alphabet.digits[Int($0)] })
        return String(decoding: text, as: UTF8.self)
    }

    static func decode(
        _ text: some StringProtocol,
        _ alphabet: BaseText.Alphabet,
        _ name: StaticString
    ) throws(MultiformatsError) -> [UInt8] {
        guard text.utf8.count <= BaseText.maximumLength else {
            throw MultiformatsError(code: .tooLong, message: "more than \(BaseText.maximumLength) digits of \(name)")
        }
        let radix = UInt32(alphabet.digits.count)
        let zeros = text.utf8.prefix { $0 == alphabet.digits[0] }.count
        // Least significant first.
        var bytes: [UInt8] = []
        for digit in text.utf8.dropFirst(zeros) {
            var carry = UInt32(try alphabet.value(of: digit, name))
            for index in bytes.indices {
                carry += UInt32(bytes[index]) * radix
                bytes[index] = UInt8(truncatingIfNeeded: carry)
                carry >>= 8
            }
            while carry > 0 {
                bytes.append(UInt8(truncatingIfNeeded: carry))
                carry >>= 8
            }
        }
        return [UInt8](repeating: 0, count: zeros) + bytes.reversed()
    }
}

/// Bases of two to the power of `bits`.
private enum Bits {
    static func encode(_ bytes: some Collection<UInt8>, _ alphabet: BaseText.Alphabet, bits: UInt32) -> String {
        let mask = UInt32(1) << bits - 1
        var text: [UInt8] = []
        text.reserveCapacity(bytes.count * 8 / Int(bits) + 1)
        var held: UInt32 = 0
        var count: UInt32 = 0
        for byte in bytes {
            held = held << 8 | UInt32(byte)
            count += 8
            while count >= bits {
                count -= bits
                text.append(alphabet.digits[Int(held >> count & mask)])
            }
        }
        if count > 0 { text.append(alphabet.digits[Int(held << (bits - count) & mask)]) }
        return String(decoding: text, as: UTF8.self)
    }

    static func decode(
        _ text: some Collection<UInt8>,
        _ alphabet: BaseText.Alphabet,
        bits: UInt32,
        _ name: StaticString
    ) throws(MultiformatsError) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count * Int(bits) / 8)
        var held: UInt32 = 0
        var count: UInt32 = 0
        for digit in text {
            held = held << bits | UInt32(try alphabet.value(of: digit, name))
            count += bits
            if count >= 8 {
                count -= 8
                bytes.append(UInt8(truncatingIfNeeded: held >> count))
            }
        }
        // What is left over is less than a digit and zero, or the text was cut or has a second spelling.
        guard count < bits, held & (UInt32(1) << count - 1) == 0 else {
            throw MultiformatsError(code: .malformed, message: "\(name) text that ends inside a byte")
        }
        return bytes
    }
}
