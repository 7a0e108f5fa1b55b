extension Document {
    /// This document as JSON text (RFC 8259); numbers that JSON cannot hold (infinities, NaN) become null.
    public func jsonText(pretty: Bool = false) -> String {
        String(decoding: self.jsonBytes(pretty: pretty), as: UTF8.self)
    }

    /// As `jsonText`, as bytes. Pretty text has an indent of two spaces and ends with a newline.
    public func jsonBytes(pretty: Bool = false) -> [UInt8] {
        var writer = TextWriter()
        writer.writeJSON(self, pretty: pretty, indent: 0)
        if pretty { writer.write("\n") }
        return writer.bytes
    }
}

/// Bytes of text being written: what the JSON and the YAML writer share.
struct TextWriter {
    private(set) var bytes: [UInt8] = []

    mutating func write(_ text: String) {
        self.bytes.append(contentsOf: text.utf8)
    }

    mutating func newline(indent: Int) {
        self.bytes.append(UInt8(ascii: "\n"))
        self.bytes.append(contentsOf: repeatElement(UInt8(ascii: " "), count: indent))
    }

    mutating func writeJSON(_ document: Document, pretty: Bool, indent: Int) {
        switch document.content {
        case .null: self.write("null")
        case .bool(let flag): self.write(flag ? "true" : "false")
        case .integer(let number): self.write(String(number))
        case .number(let number): self.write(number.isFinite ? String(number) : "null")
        case .string(let text): self.writeQuoted(text)
        case .array(let elements):
            self.writeList(elements, between: "[", "]", pretty: pretty, indent: indent) { writer, element in
                writer.writeJSON(element, pretty: pretty, indent: indent + 2)
            }
        case .object(let members):
            self.writeList(members, between: "{", "}", pretty: pretty, indent: indent) { writer, member in
                writer.writeQuoted(member.key)
                writer.write(pretty ? ": " : ":")
                writer.writeJSON(member.value, pretty: pretty, indent: indent + 2)
            }
        }
    }

    private mutating func writeList<Element>(
        _ elements: [Element],
        between opening: String,
        _ closing: String,
        pretty: Bool,
        indent: Int,
        writeElement: (inout TextWriter, Element) -> Void
    ) {
        self.write(opening)
        for (index, element) in elements.enumerated() {
            if index > 0 { self.write(",") }
            if pretty { self.newline(indent: indent + 2) }
            writeElement(&self, element)
        }
        if pretty, !elements.isEmpty { self.newline(indent: indent) }
        self.write(closing)
    }

    /// Writes a string in double quotes. Beyond what JSON demands, the characters are escaped that a YAML stream may not
    /// hold or would take for a line break, so that the result is the same string in both languages.
    mutating func writeQuoted(_ text: String) {
        self.bytes.append(UInt8(ascii: "\""))
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": self.write("\\\"")
            case "\\": self.write("\\\\")
            case "\n": self.write("\\n")
            case "\r": self.write("\\r")
            case "\t": self.write("\\t")
            case " "..."~": self.bytes.append(UInt8(truncatingIfNeeded: scalar.value))
            case ..<" ", "\u{7F}"..."\u{9F}", "\u{2028}", "\u{2029}", "\u{FEFF}", "\u{FFFE}", "\u{FFFF}":
                let digits = String(scalar.value, radix: 16)
                self.write("\\u" + String(repeating: "0", count: 4 - digits.count) + digits)
            default:
                self.bytes.append(contentsOf: scalar.utf8)
            }
        }
        self.bytes.append(UInt8(ascii: "\""))
    }
}
