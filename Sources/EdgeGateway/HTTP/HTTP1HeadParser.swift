import NIOCore

/// Reads the heads of HTTP/1 messages, strictly: what two parsers could understand differently is refused (RFC 9112 sections
/// 2.2, 5, 6.3, 11.2). Lines end by CRLF alone, no line is folded, no space stands before a colon, lengths are told once.
///
/// A value without I/O. `limits` bound what is kept.
struct HTTP1HeadParser {
    struct Limits: Sendable, Hashable {
        /// Of the whole head, its start line included.
        var headBytes = 32 * 1024
        var fields = 100
        var targetBytes = 8 * 1024
    }

    enum Kind { case request, response }

    /// A start line and its fields as they came.
    struct Head {
        var first: String
        var second: String
        var third: String
        var fields: HeaderFields
    }

    var limits: Limits
    private let kind: Kind
    /// Bytes that have been looked at without finding the end.
    private var scanned = 0
    private var emptyLines = 0

    init(_ kind: Kind, limits: Limits) {
        self.kind = kind
        self.limits = limits
    }

    /// Whether a part of a head has come.
    var isWithin: Bool { self.scanned > 0 }

    /// Takes a whole head from the front of `buffer`; nil if more bytes are needed.
    mutating func next(_ buffer: inout ByteBuffer) throws(HTTP1Error) -> Head? {
        try self.skipEmptyLines(&buffer)
        // The first half of an empty line.
        if case .request = self.kind, self.scanned == 0, buffer.readableBytesView.elementsEqual([0x0D]) { return nil }
        guard let length = try self.lengthOfHead(buffer) else { return nil }
        self.scanned = 0
        self.emptyLines = 0
        guard let bytes = buffer.readBytes(length: length) else { return nil }
        return try self.parse(bytes)
    }

    /// A client may send an empty line before a request (RFC 9112 section 2.2); two are borne.
    private mutating func skipEmptyLines(_ buffer: inout ByteBuffer) throws(HTTP1Error) {
        guard case .request = self.kind, self.scanned == 0 else { return }
        while let bytes = buffer.getBytes(at: buffer.readerIndex, length: 2), bytes == [0x0D, 0x0A] {
            self.emptyLines += 1
            guard self.emptyLines <= 2 else { throw HTTP1Error("empty lines before the request") }
            buffer.moveReaderIndex(forwardBy: 2)
        }
    }

    /// Finds CRLF CRLF; a line feed or carriage return that stands alone is refused where it is met.
    private mutating func lengthOfHead(_ buffer: ByteBuffer) throws(HTTP1Error) -> Int? {
        let view = buffer.readableBytesView
        let limit = self.limits.headBytes
        let from = self.scanned
        let found: (end: Int?, isBroken: Bool) = view.withUnsafeBytes { bytes in
            var index = from
            let count = min(bytes.count, limit)
            while index < count {
                let byte = bytes[index]
                if byte == 0x0A {
                    guard index > 0, bytes[index - 1] == 0x0D else { return (nil, true) }
                    if index >= 3, bytes[index - 2] == 0x0A { return (index + 1, false) }
                } else if index > 0, bytes[index - 1] == 0x0D {
                    return (nil, true)
                }
                index += 1
            }
            return (nil, false)
        }
        if found.isBroken { throw HTTP1Error("a line that does not end by CRLF") }
        if let end = found.end { return end }
        guard view.count < limit else {
            throw HTTP1Error(431, "the head is longer than \(limit) bytes")
        }
        self.scanned = view.count
        return nil
    }

    private func parse(_ bytes: [UInt8]) throws(HTTP1Error) -> Head {
        var lines = bytes.dropLast(4)[...]
        func nextLine() -> ArraySlice<UInt8>? {
            guard !lines.isEmpty else { return nil }
            guard let end = lines.firstIndex(of: 0x0D) else {
                defer { lines = [] }
                return lines
            }
            defer { lines = lines[(end + 2)...] }
            return lines[..<end]
        }
        guard let start = nextLine() else { throw HTTP1Error("no start line") }
        var head = try self.startLine(start)
        while let line = nextLine() {
            guard head.fields.fields.count < self.limits.fields else {
                throw HTTP1Error(431, "more than \(self.limits.fields) fields")
            }
            head.fields.fields.append(try Self.field(line))
        }
        return head
    }

    private func startLine(_ line: ArraySlice<UInt8>) throws(HTTP1Error) -> Head {
        let parts = line.split(separator: 0x20, maxSplits: 2, omittingEmptySubsequences: false)
        func text(_ part: ArraySlice<UInt8>) -> String { String(decoding: part, as: UTF8.self) }
        switch self.kind {
        case .request:
            guard parts.count == 3, !parts[0].isEmpty, parts[0].count <= 32, parts[0].allSatisfy(ASCII.isTokenByte)
            else {
                throw HTTP1Error("no request line")
            }
            guard parts[1].count <= self.limits.targetBytes else {
                throw HTTP1Error(414, "the target is longer than \(self.limits.targetBytes) bytes")
            }
            guard !parts[1].isEmpty, parts[1].allSatisfy({ (0x21...0x7E).contains($0) }) else {
                throw HTTP1Error("a target with characters that no URI has")
            }
        case .response:
            guard parts.count >= 2, parts[1].count == 3, parts[1].allSatisfy({ (0x30...0x39).contains($0) }) else {
                throw HTTP1Error(502, "no status line")
            }
        }
        return Head(
            first: text(parts[0]),
            second: text(parts[1]),
            third: parts.count == 3 ? text(parts[2]) : "",
            fields: HeaderFields()
        )
    }

    /// One line of a header or trailer section.
    static func field(_ line: ArraySlice<UInt8>) throws(HTTP1Error) -> HeaderFields.Field {
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { throw HTTP1Error("a field without a colon") }
        let name = line[..<colon]
        // A folded line begins with a blank, and so does not begin with a name.
        guard !name.isEmpty, name.allSatisfy(ASCII.isTokenByte) else {
            throw HTTP1Error("a field whose name has a space or another forbidden character")
        }
        let value = ASCII.trimmed(line[(colon + 1)...])
        guard value.allSatisfy(ASCII.isValueByte) else { throw HTTP1Error("a field's value has a control character") }
        return HeaderFields.Field(name: ASCII.lowercased(name), value: Self.text(value))
    }

    /// What is no UTF-8 is taken for Latin-1, the only other text that fields have ever had.
    private static func text(_ bytes: ArraySlice<UInt8>) -> String {
        if let text = String(validating: bytes, as: UTF8.self) { return text }
        return String(String.UnicodeScalarView(bytes.map { UnicodeScalar($0) }))
    }
}
