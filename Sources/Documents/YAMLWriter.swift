extension Document {
    /// This document as block-style YAML, which `parseYAML` reads back as the same document. Ends with a newline.
    public func yamlText() -> String {
        var writer = TextWriter()
        writer.writeYAML(self, indent: 0)
        writer.write("\n")
        return String(decoding: writer.bytes, as: UTF8.self)
    }
}

extension TextWriter {
    /// Writes a value at the cursor; further lines of it start at column `indent`.
    fileprivate mutating func writeYAML(_ document: Document, indent: Int) {
        switch document.content {
        case .null: self.write("null")
        case .bool(let flag): self.write(flag ? "true" : "false")
        case .integer(let number): self.write(String(number))
        case .number(let number): self.write(Self.yamlNumber(number))
        case .string(let text): self.writeYAMLString(text)
        case .array(let elements):
            if elements.isEmpty { self.write("[]") }
            for (index, element) in elements.enumerated() {
                if index > 0 { self.newline(indent: indent) }
                self.write("- ")
                self.writeYAML(element, indent: indent + 2)
            }
        case .object(let members):
            if members.isEmpty { self.write("{}") }
            for (index, member) in members.enumerated() {
                if index > 0 { self.newline(indent: indent) }
                self.writeYAMLMember(member, indent: indent)
            }
        }
    }

    private mutating func writeYAMLMember(_ member: Document.Member, indent: Int) {
        // A reader looks for the colon within 1024 characters, unless a question mark announces a key.
        let isLong = member.key.utf8.count > 128
        if isLong { self.write("? ") }
        self.writeYAMLString(member.key)
        if isLong { self.newline(indent: indent) }
        self.write(":")
        switch member.value.content {
        case .array(let elements) where !elements.isEmpty:
            // The dashes of a list in an object stand below its key.
            self.newline(indent: indent)
            self.writeYAML(member.value, indent: indent)
        case .object(let members) where !members.isEmpty:
            self.newline(indent: indent + 2)
            self.writeYAML(member.value, indent: indent + 2)
        default:
            self.write(" ")
            self.writeYAML(member.value, indent: indent)
        }
    }

    private static func yamlNumber(_ number: Double) -> String {
        if number.isNaN { return ".nan" }
        return number.isFinite ? String(number) : number < 0 ? "-.inf" : ".inf"
    }

    private mutating func writeYAMLString(_ text: String) {
        if Self.isSafePlainScalar(text) { self.write(text) } else { self.writeQuoted(text) }
    }

    /// Whether every YAML reader takes the bare text for this very string; when in doubt it is quoted.
    private static func isSafePlainScalar(_ text: String) -> Bool {
        guard let first = text.utf8.first, let last = text.utf8.last, case .string = YAMLScalar.resolve(text) else {
            return false
        }
        switch first {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "/"),
            UInt8(ascii: "_"):
            break
        case UInt8(ascii: "0")...UInt8(ascii: "9"):
            // Digits with colons are numbers to the base of 60 for some readers.
            if text.utf8.contains(UInt8(ascii: ":")) { return false }
        default:
            return false
        }
        if last == UInt8(ascii: ":") || last == UInt8(ascii: " ") { return false }
        if ["y", "Y", "n", "N"].contains(text) { return false }
        var previous: UInt8 = 0
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                break
            case UInt8(ascii: " "):
                if previous == UInt8(ascii: ":") { return false }
            default:
                guard "-_./:@+=()%*".utf8.contains(byte) else { return false }
            }
            previous = byte
        }
        return true
    }
}
