import Glibc
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
        var fields: FramingFields
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
        if case .request = self.kind, self.scanned == 0 {
            try self.skipEmptyLines(&buffer)
            // The first half of an empty line.
            if buffer.readableBytes == 1, buffer.getInteger(at: buffer.readerIndex) == 0x0D as UInt8 { return nil }
        }
        let limit = self.limits.headBytes
        let (start, kind, limits) = (self.scanned, self.kind, self.limits)
        let found = try buffer.withUnsafeReadableBytes { (bytes) throws(HTTP1Error) -> (Int, Head)? in
            let front = UnsafeRawBufferPointer(rebasing: bytes.prefix(limit))
            guard let length = try HeadLines.lengthOfHead(front, from: start) else { return nil }
            let head = UnsafeRawBufferPointer(rebasing: front[..<(length - 2)])
            return (length, try Self.parse(head, kind, limits))
        }
        guard let (length, head) = found else {
            guard buffer.readableBytes < limit else {
                throw HTTP1Error(431, "the head is longer than \(limit) bytes")
            }
            self.scanned = buffer.readableBytes
            return nil
        }
        self.scanned = 0
        self.emptyLines = 0
        buffer.moveReaderIndex(forwardBy: length)
        return head
    }

    /// A client may send an empty line before a request (RFC 9112 section 2.2); two are borne.
    private mutating func skipEmptyLines(_ buffer: inout ByteBuffer) throws(HTTP1Error) {
        while buffer.getInteger(at: buffer.readerIndex) == 0x0D0A as UInt16 {
            self.emptyLines += 1
            guard self.emptyLines <= 2 else { throw HTTP1Error("empty lines before the request") }
            buffer.moveReaderIndex(forwardBy: 2)
        }
    }

    private static func parse(
        _ bytes: UnsafeRawBufferPointer,
        _ kind: Kind,
        _ limits: Limits
    ) throws(HTTP1Error) -> Head {
        var lines = HeadLines(bytes)
        guard let start = lines.next() else { throw HTTP1Error("no start line") }
        var head = try self.startLine(start, kind, limits)
        var count = 0
        while let line = lines.next() {
            guard count < limits.fields else { throw HTTP1Error(431, "more than \(limits.fields) fields") }
            count += 1
            head.fields.add(try self.field(line))
        }
        head.fields.removeNominated()
        return head
    }

    private static func startLine(
        _ line: UnsafeRawBufferPointer,
        _ kind: Kind,
        _ limits: Limits
    ) throws(HTTP1Error) -> Head {
        let firstEnd = line.position(of: 0x20, from: 0) ?? line.count
        let secondEnd = line.position(of: 0x20, from: firstEnd + 1) ?? line.count
        let first = line.part(0, firstEnd)
        let second = line.part(firstEnd + 1, secondEnd)
        let third = line.part(secondEnd + 1, line.count)
        switch kind {
        case .request:
            guard secondEnd < line.count, (1...32).contains(first.count), first.allSatisfy(ASCII.isTokenByte) else {
                throw HTTP1Error("no request line")
            }
            guard second.count <= limits.targetBytes else {
                throw HTTP1Error(414, "the target is longer than \(limits.targetBytes) bytes")
            }
            guard !second.isEmpty, second.allSatisfy({ (0x21...0x7E).contains($0) }) else {
                throw HTTP1Error("a target with characters that no URI has")
            }
        case .response:
            guard second.count == 3, second.allSatisfy({ (0x30...0x39).contains($0) }) else {
                throw HTTP1Error(502, "no status line")
            }
        }
        return Head(
            first: String(decoding: first, as: UTF8.self),
            second: ASCII.text(second),
            // The words behind a status mean nothing.
            third: kind == .request ? String(decoding: third, as: UTF8.self) : "",
            fields: FramingFields(ofRequest: kind == .request)
        )
    }

    /// One line of a header or trailer section.
    static func field(_ line: UnsafeRawBufferPointer) throws(HTTP1Error) -> HeaderFields.Field {
        var colon = 0
        while colon < line.count, ASCII.isTokenByte(line[colon]) { colon += 1 }
        guard colon < line.count, colon > 0, line[colon] == UInt8(ascii: ":") else {
            guard line.contains(UInt8(ascii: ":")) else { throw HTTP1Error("a field without a colon") }
            // A folded line begins with a blank, and so does not begin with a name.
            throw HTTP1Error("a field whose name has a space or another forbidden character")
        }
        var (start, end) = (colon + 1, line.count)
        while start < end, ASCII.isBlank(line[start]) { start += 1 }
        while start < end, ASCII.isBlank(line[end - 1]) { end -= 1 }
        let value = line.part(start, end)
        var bits: UInt8 = 0
        for byte in value {
            guard ASCII.isValueByte(byte) else { throw HTTP1Error("a field's value has a control character") }
            bits |= byte
        }
        return HeaderFields.Field(
            name: ASCII.lowercased(line.part(0, colon)),
            value: bits < 0x80 ? ASCII.text(value) : Self.text(value)
        )
    }

    /// What is no UTF-8 is taken for Latin-1, the only other text that fields have ever had.
    private static func text(_ bytes: UnsafeRawBufferPointer) -> String {
        if let text = String(validating: bytes, as: UTF8.self) { return text }
        return String(String.UnicodeScalarView(bytes.map { UnicodeScalar($0) }))
    }
}

/// The lines of a head, each ended by CRLF.
private struct HeadLines {
    private let bytes: UnsafeRawBufferPointer
    private var start = 0

    /// - Parameter bytes: lines whose ends `lengthOfHead` has seen.
    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func next() -> UnsafeRawBufferPointer? {
        guard let feed = self.bytes.position(of: 0x0A, from: self.start) else { return nil }
        defer { self.start = feed + 1 }
        return self.bytes.part(self.start, feed - 1)
    }

    /// Finds CRLF CRLF; a line feed or carriage return that stands alone is refused where it is met.
    /// - Parameter start: what is before it was looked at before, in vain.
    static func lengthOfHead(_ bytes: UnsafeRawBufferPointer, from start: Int) throws(HTTP1Error) -> Int? {
        var start = start
        while start < bytes.count {
            let feed = bytes.position(of: 0x0A, from: start)
            let end = feed ?? bytes.count
            let isBroken: Bool =
                if let carriage = bytes.part(0, end).position(of: 0x0D, from: max(0, start - 1)) {
                    carriage != end - 1
                } else {
                    feed != nil
                }
            if isBroken { throw HTTP1Error("a line that does not end by CRLF") }
            guard let feed else { return nil }
            if feed >= 3, bytes[feed - 2] == 0x0A { return feed + 1 }
            start = feed + 1
        }
        return nil
    }
}

extension UnsafeRawBufferPointer {
    /// Of the first such byte.
    fileprivate func position(of byte: UInt8, from start: Int) -> Int? {
        guard start < self.count, let base = self.baseAddress,
            let found = memchr(base + start, Int32(byte), self.count - start)
        else { return nil }
        return UnsafeRawPointer(found) - base
    }

    /// Empty where it would begin behind its end.
    fileprivate func part(_ start: Int, _ end: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: self[Swift.min(start, end)..<end])
    }
}
