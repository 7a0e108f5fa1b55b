extension Document {
    /// Reads one JSON text, strictly as RFC 8259 has it; a byte order mark before it is skipped.
    ///
    /// Integers beyond 64 bits and numbers with a fraction or an exponent become `.number`. A key that is repeated in an
    /// object, bytes after the value and text that is not UTF-8 are errors.
    public static func parseJSON(
        _ bytes: some Collection<UInt8>,
        limits: DocumentLimits = .default
    ) throws(DocumentError) -> Document {
        let result =
            bytes.withContiguousStorageIfAvailable { JSONParser.parse($0, limits: limits) }
            ?? Array(bytes).withUnsafeBufferPointer { JSONParser.parse($0, limits: limits) }
        return try result.get()
    }
}

/// A recursive-descent parser over contiguous bytes. Newlines occur only between tokens, so lines are counted there.
struct JSONParser {
    private let bytes: UnsafeBufferPointer<UInt8>
    private let limits: DocumentLimits
    private var index = 0
    private var line = 1
    private var lineStart = 0
    private var values = 0

    static func parse(_ bytes: UnsafeBufferPointer<UInt8>, limits: DocumentLimits) -> Result<Document, DocumentError> {
        do throws(DocumentError) {
            var parser = JSONParser(bytes: bytes, limits: limits)
            return .success(try parser.parseText())
        } catch {
            return .failure(error)
        }
    }

    private init(bytes: UnsafeBufferPointer<UInt8>, limits: DocumentLimits) {
        self.bytes = bytes
        self.limits = limits
    }

    private mutating func parseText() throws(DocumentError) -> Document {
        guard self.bytes.count <= self.limits.bytes else {
            throw self.error(
                .limit,
                "the text has \(self.bytes.count) bytes, more than the \(self.limits.bytes) allowed"
            )
        }
        if self.bytes.starts(with: [0xEF, 0xBB, 0xBF]) {
            self.index = 3
            self.lineStart = 3
        }
        self.skipWhitespace()
        let document = try self.parseValue(depth: 0)
        self.skipWhitespace()
        guard self.index == self.bytes.count else {
            throw self.error(
                .trailingBytes,
                "\(self.found) follows the end of the document; a JSON text holds one value"
            )
        }
        return document
    }

    // MARK: Places and bytes

    private var position: SourcePosition {
        SourcePosition(line: self.line, column: self.index - self.lineStart + 1)
    }

    /// The byte at the cursor; nil at the end.
    private var current: UInt8? {
        self.index < self.bytes.count ? self.bytes[self.index] : nil
    }

    private func error(_ code: DocumentError.Code, _ message: String) -> DocumentError {
        DocumentError(code, message, at: self.position)
    }

    /// An error at the cursor, which says that the text ends if it does.
    private func expected(_ what: String) -> DocumentError {
        guard self.current != nil else {
            return self.error(.unexpectedEnd, "the text ends where \(what) is expected; it may be cut off")
        }
        return self.error(.syntax, "\(self.found) where \(what) is expected")
    }

    /// The byte at the cursor in words.
    private var found: String {
        guard let byte = self.current else { return "the end" }
        return byte > 0x20 && byte < 0x7F ? "'\(Character(UnicodeScalar(byte)))'" : "byte 0x\(String(byte, radix: 16))"
    }

    private mutating func skipWhitespace() {
        while self.index < self.bytes.count {
            switch self.bytes[self.index] {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"):
                self.index += 1
            case UInt8(ascii: "\n"):
                self.index += 1
                self.line += 1
                self.lineStart = self.index
            default:
                return
            }
        }
    }

    /// Steps over `byte` if the cursor is on it.
    private mutating func skip(_ byte: UInt8) -> Bool {
        guard self.index < self.bytes.count, self.bytes[self.index] == byte else { return false }
        self.index += 1
        return true
    }

    // MARK: Values

    private mutating func parseValue(depth: Int) throws(DocumentError) -> Document {
        guard let byte = self.current else { throw self.expected("a value") }
        self.values += 1
        guard self.values <= self.limits.values else {
            throw self.error(.limit, "the text has more than the \(self.limits.values) values allowed")
        }
        let position = self.position
        switch byte {
        case UInt8(ascii: "\""):
            return Document(.string(try self.parseString()), position: position)
        case UInt8(ascii: "{"):
            return Document(.object(try self.parseObject(depth: depth + 1)), position: position)
        case UInt8(ascii: "["):
            return Document(.array(try self.parseArray(depth: depth + 1)), position: position)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            return Document(try self.parseNumber(), position: position)
        case UInt8(ascii: "t"):
            try self.parseWord("true")
            return Document(.bool(true), position: position)
        case UInt8(ascii: "f"):
            try self.parseWord("false")
            return Document(.bool(false), position: position)
        case UInt8(ascii: "n"):
            try self.parseWord("null")
            return Document(.null, position: position)
        default:
            throw self.expected("a value")
        }
    }

    private mutating func parseWord(_ word: StaticString) throws(DocumentError) {
        let end = self.index + word.utf8CodeUnitCount
        guard end <= self.bytes.count,
            word.withUTF8Buffer({ $0.elementsEqual(self.bytes[self.index..<end]) })
        else { throw self.expected("a value (such as \(word))") }
        self.index = end
    }

    private func checkDepth(_ depth: Int) throws(DocumentError) {
        guard depth <= self.limits.depth else {
            throw self.error(.limit, "arrays and objects nest deeper than the \(self.limits.depth) levels allowed")
        }
    }

    private mutating func parseObject(depth: Int) throws(DocumentError) -> [Document.Member] {
        try self.checkDepth(depth)
        self.index += 1
        self.skipWhitespace()
        if self.skip(UInt8(ascii: "}")) { return [] }
        var builder = ObjectBuilder()
        while true {
            let keyPosition = self.position
            guard self.current == UInt8(ascii: "\"") else { throw self.expected("a key in double quotes") }
            let key = try self.parseString()
            self.skipWhitespace()
            guard self.skip(UInt8(ascii: ":")) else { throw self.expected("':' after a key") }
            self.skipWhitespace()
            try builder.append(Document.Member(key, self.parseValue(depth: depth), keyPosition: keyPosition))
            self.skipWhitespace()
            if self.skip(UInt8(ascii: "}")) { return builder.members }
            guard self.skip(UInt8(ascii: ",")) else { throw self.expected("',' or '}' after a member") }
            self.skipWhitespace()
        }
    }

    private mutating func parseArray(depth: Int) throws(DocumentError) -> [Document] {
        try self.checkDepth(depth)
        self.index += 1
        self.skipWhitespace()
        if self.skip(UInt8(ascii: "]")) { return [] }
        var elements: [Document] = []
        while true {
            elements.append(try self.parseValue(depth: depth))
            self.skipWhitespace()
            if self.skip(UInt8(ascii: "]")) { return elements }
            guard self.skip(UInt8(ascii: ",")) else { throw self.expected("',' or ']' after an element") }
            self.skipWhitespace()
        }
    }

    // MARK: Numbers

    /// Steps over digits and returns how many there were.
    private mutating func skipDigits() -> Int {
        let start = self.index
        while self.index < self.bytes.count, self.bytes[self.index] &- UInt8(ascii: "0") <= 9 { self.index += 1 }
        return self.index - start
    }

    private mutating func parseNumber() throws(DocumentError) -> Document.Content {
        let start = self.index
        let isNegative = self.skip(UInt8(ascii: "-"))
        let digits = self.index
        guard self.skipDigits() > 0 else { throw self.expected("a digit") }
        guard self.bytes[digits] != UInt8(ascii: "0") || self.index == digits + 1 else {
            self.index = digits
            throw self.error(.syntax, "a number starts with a needless 0; JSON has decimal numbers only")
        }
        let integerEnd = self.index
        var isInteger = true
        if self.skip(UInt8(ascii: ".")) {
            isInteger = false
            guard self.skipDigits() > 0 else { throw self.expected("a digit after '.'") }
        }
        if self.skip(UInt8(ascii: "e")) || self.skip(UInt8(ascii: "E")) {
            isInteger = false
            if !self.skip(UInt8(ascii: "+")) { _ = self.skip(UInt8(ascii: "-")) }
            guard self.skipDigits() > 0 else { throw self.expected("a digit in an exponent") }
        }
        if isInteger, let number = self.integer(digits..<integerEnd, isNegative: isNegative) { return .integer(number) }
        let text = String(decoding: self.bytes[start..<self.index], as: UTF8.self)
        guard let number = Double(text), number.isFinite else {
            self.index = start
            throw self.error(.numberOutOfRange, "the number \(text.prefix(40)) is too large")
        }
        return .number(number)
    }

    /// The value of checked digits; nil if it exceeds 64 bits.
    private func integer(_ digits: Range<Int>, isNegative: Bool) -> Int64? {
        var value: Int64 = 0
        for index in digits {
            let digit = Int64(self.bytes[index] &- UInt8(ascii: "0"))
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            // Negative throughout for a negative number, so that Int64.min fits.
            let (sum, overflowOfSum) =
                isNegative ? product.subtractingReportingOverflow(digit) : product.addingReportingOverflow(digit)
            if overflow || overflowOfSum { return nil }
            value = sum
        }
        return value
    }

    // MARK: Strings

    /// Reads the string whose opening quote is at the cursor.
    private mutating func parseString() throws(DocumentError) -> String {
        let opening = self.index
        self.index += 1
        let start = self.index
        var union: UInt8 = 0
        while self.index < self.bytes.count {
            let byte = self.bytes[self.index]
            if byte == UInt8(ascii: "\"") {
                let content = UnsafeBufferPointer(rebasing: self.bytes[start..<self.index])
                self.index += 1
                if union < 0x80 { return String(decoding: content, as: UTF8.self) }
                return try self.validated(content, from: opening)
            }
            if byte == UInt8(ascii: "\\") { return try self.parseEscapedString(from: start) }
            guard byte >= 0x20 else { throw self.controlCharacter }
            union |= byte
            self.index += 1
        }
        throw self.endOfString(from: opening)
    }

    private var controlCharacter: DocumentError {
        self.error(.syntax, "\(self.found) inside a string; write control characters as \\n, \\t or \\u00XX")
    }

    private mutating func endOfString(from opening: Int) -> DocumentError {
        self.index = opening
        return self.error(.unexpectedEnd, "the text ends inside the string that starts here; it may be cut off")
    }

    private mutating func validated(
        _ content: some Collection<UInt8>,
        from opening: Int
    ) throws(DocumentError) -> String {
        guard let text = String(validating: content, as: UTF8.self) else {
            self.index = opening
            throw self.error(.invalidUTF8, "the string that starts here is not UTF-8")
        }
        return text
    }

    /// The slow path: the cursor is on the first backslash of the string that starts at `start`.
    private mutating func parseEscapedString(from start: Int) throws(DocumentError) -> String {
        var content = Array(self.bytes[start..<self.index])
        while let byte = self.current {
            switch byte {
            case UInt8(ascii: "\""):
                self.index += 1
                return try self.validated(content, from: start - 1)
            case UInt8(ascii: "\\"):
                content.append(contentsOf: try self.parseEscape().utf8)
            case ..<0x20:
                throw self.controlCharacter
            default:
                content.append(byte)
                self.index += 1
            }
        }
        throw self.endOfString(from: start - 1)
    }

    private mutating func parseEscape() throws(DocumentError) -> UnicodeScalar {
        self.index += 1
        guard let byte = self.current else { throw self.expected("the rest of an escape") }
        let scalar: UnicodeScalar
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): scalar = UnicodeScalar(byte)
        case UInt8(ascii: "b"): scalar = "\u{8}"
        case UInt8(ascii: "f"): scalar = "\u{C}"
        case UInt8(ascii: "n"): scalar = "\n"
        case UInt8(ascii: "r"): scalar = "\r"
        case UInt8(ascii: "t"): scalar = "\t"
        case UInt8(ascii: "u"): return try self.parseUnicodeEscape()
        default: throw self.expected("one of \" \\ / b f n r t u after a backslash")
        }
        self.index += 1
        return scalar
    }

    /// The cursor is on the `u` of an escape; characters beyond U+FFFF are written as two of them.
    private mutating func parseUnicodeEscape() throws(DocumentError) -> UnicodeScalar {
        let first = try self.parseFourHexDigits()
        if let scalar = UnicodeScalar(first) { return scalar }
        if first < 0xDC00, self.skip(UInt8(ascii: "\\")), self.current == UInt8(ascii: "u") {
            let second = try self.parseFourHexDigits()
            if (0xDC00...0xDFFF).contains(second),
                let scalar = UnicodeScalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00))
            {
                return scalar
            }
        }
        throw self.error(.syntax, "half a surrogate pair, \\u\(String(first, radix: 16)), without its other half")
    }

    private mutating func parseFourHexDigits() throws(DocumentError) -> UInt32 {
        self.index += 1
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = self.current, let digit = Character(UnicodeScalar(byte)).hexDigitValue else {
                throw self.expected("a hexadecimal digit of \\uXXXX")
            }
            value = value << 4 | UInt32(digit)
            self.index += 1
        }
        return value
    }
}
