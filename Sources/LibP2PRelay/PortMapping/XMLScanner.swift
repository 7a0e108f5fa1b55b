/// Reads the little XML that UPnP devices speak: elements and text. Attributes are skipped, namespace prefixes dropped.
///
/// Made for hostile input: no document types, no entities but the five of XML and numbers, bounded depth, no recursion.
struct XMLScanner {
    enum Event: Hashable {
        case start(String)
        case text(String)
        case end(String)
    }

    static let maximumDepth = 32
    private static let maximumNameLength = 128

    private let bytes: [UInt8]
    private var index = 0
    private var open: [String] = []
    /// The end of an element that was written as `<a/>`.
    private var pendingEnd: String?

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// The next element or text that is not blank; nil at the end of a whole document.
    mutating func next() throws(LibP2PRelayError) -> Event? {
        if let name = self.pendingEnd {
            self.pendingEnd = nil
            return .end(name)
        }
        while self.index < self.bytes.count {
            guard self.bytes[self.index] == UInt8(ascii: "<") else {
                let text = try self.readText()
                if text.contains(where: { !$0.isWhitespace }) { return .text(text) }
                continue
            }
            if self.starts(with: "<?") {
                try self.skip(past: "?>")
            } else if self.starts(with: "<!--") {
                try self.skip(past: "-->")
            } else if self.starts(with: "<![CDATA[") {
                let start = self.index + 9
                try self.skip(past: "]]>")
                // The opening of the section may overlap its end in nonsense such as `<![CDATA[]>`.
                guard start <= self.index - 3 else { throw Self.malformed("a bad character data section") }
                return .text(String(decoding: self.bytes[start..<(self.index - 3)], as: UTF8.self))
            } else if self.starts(with: "<!") {
                throw Self.malformed("a document type")
            } else {
                return try self.readTag()
            }
        }
        guard self.open.isEmpty else { throw Self.malformed("an element that does not end") }
        return nil
    }

    private mutating func readTag() throws(LibP2PRelayError) -> Event {
        self.index += 1
        let isEnd = self.index < self.bytes.count && self.bytes[self.index] == UInt8(ascii: "/")
        if isEnd { self.index += 1 }
        let start = self.index
        while self.index < self.bytes.count, !Self.endsName(self.bytes[self.index]) { self.index += 1 }
        let name = String(decoding: self.bytes[start..<self.index], as: UTF8.self)
        guard !name.isEmpty, name.utf8.count <= Self.maximumNameLength else { throw Self.malformed("a bad name") }
        // Attributes, whose quoted values may hold anything.
        var quote: UInt8?
        var last: UInt8 = 0
        while self.index < self.bytes.count {
            let byte = self.bytes[self.index]
            self.index += 1
            if let open = quote {
                if byte == open { quote = nil }
            } else if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") {
                quote = byte
            } else if byte == UInt8(ascii: ">") {
                return try self.finishTag(name, isEnd: isEnd, isEmpty: last == UInt8(ascii: "/"))
            }
            last = byte
        }
        throw Self.malformed("a tag that does not end")
    }

    private mutating func finishTag(_ name: String, isEnd: Bool, isEmpty: Bool) throws(LibP2PRelayError) -> Event {
        let local = name.split(separator: ":").last.map(String.init) ?? name
        if isEnd {
            guard self.open.popLast() == name else { throw Self.malformed("an end of \(name) out of place") }
            return .end(local)
        }
        if isEmpty {
            self.pendingEnd = local
        } else {
            guard self.open.count < Self.maximumDepth else { throw Self.malformed("elements nested too deeply") }
            self.open.append(name)
        }
        return .start(local)
    }

    private mutating func readText() throws(LibP2PRelayError) -> String {
        var text: [UInt8] = []
        while self.index < self.bytes.count, self.bytes[self.index] != UInt8(ascii: "<") {
            let byte = self.bytes[self.index]
            self.index += 1
            guard byte == UInt8(ascii: "&") else {
                text.append(byte)
                continue
            }
            guard let end = self.bytes[self.index...].prefix(10).firstIndex(of: UInt8(ascii: ";")) else {
                throw Self.malformed("a bad entity")
            }
            let name = String(decoding: self.bytes[self.index..<end], as: UTF8.self)
            self.index = end + 1
            text += String(try Self.character(of: name)).utf8
        }
        return String(decoding: text, as: UTF8.self)
    }

    private static func character(of entity: String) throws(LibP2PRelayError) -> Character {
        switch entity {
        case "amp": return "&"
        case "lt": return "<"
        case "gt": return ">"
        case "quot": return "\""
        case "apos": return "'"
        default:
            let code: UInt32? =
                entity.hasPrefix("#x")
                ? UInt32(entity.dropFirst(2), radix: 16) : entity.hasPrefix("#") ? UInt32(entity.dropFirst()) : nil
            guard let scalar = code.flatMap({ Unicode.Scalar($0) }) else { throw Self.malformed("an unknown entity") }
            return Character(scalar)
        }
    }

    private func starts(with text: StaticString) -> Bool {
        let wanted = UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
        return self.bytes[self.index...].starts(with: wanted)
    }

    private mutating func skip(past end: String) throws(LibP2PRelayError) {
        let end = Array(end.utf8)
        while self.index + end.count <= self.bytes.count {
            if self.bytes[self.index..<(self.index + end.count)].elementsEqual(end) {
                self.index += end.count
                return
            }
            self.index += 1
        }
        throw Self.malformed("a section that does not end")
    }

    private static func endsName(_ byte: UInt8) -> Bool {
        byte <= 0x20 || byte == UInt8(ascii: ">") || byte == UInt8(ascii: "/")
    }

    private static func malformed(_ what: String) -> LibP2PRelayError {
        LibP2PRelayError(code: .malformed, message: "the gateway's XML has \(what)")
    }
}

extension XMLScanner {
    /// The texts of the elements of these names, wherever they are, the first of each.
    static func texts(of names: Set<String>, in bytes: [UInt8]) throws(LibP2PRelayError) -> [String: String] {
        var scanner = XMLScanner(bytes)
        var found: [String: String] = [:]
        var current: String?
        while let event = try scanner.next() {
            switch event {
            case .start(let name): current = names.contains(name) ? name : nil
            case .text(let text): if let current, found[current] == nil { found[current] = text }
            case .end: current = nil
            }
        }
        return found
    }
}
