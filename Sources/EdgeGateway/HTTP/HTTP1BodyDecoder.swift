import NIOCore

/// Takes the content of one HTTP/1 message out of a stream (RFC 9112 sections 6 and 7). A value without I/O: it cuts slices and
/// keeps no bytes but those of a chunk's size line or a trailer section, within bounds.
struct HTTP1BodyDecoder {
    enum Framing: Sendable, Hashable {
        case length(UInt64)
        case chunked
        /// To the end of the connection.
        case untilEnd
    }

    enum Event: Equatable {
        case bytes(ByteBuffer)
        case end(HeaderFields?)
    }

    /// Of a chunk's size with its extensions, which are dropped.
    static let maximumSizeLine = 1024

    private enum State {
        case length(UInt64)
        case untilEnd
        case chunkSize
        case chunk(UInt64)
        case chunkEnd
        case trailers
        case ended
    }

    private var state: State
    private var trailers = HeaderFields()
    private var trailerBytes = 0
    private let limits: HTTP1HeadParser.Limits

    init(_ framing: Framing, limits: HTTP1HeadParser.Limits) {
        self.limits = limits
        switch framing {
        case .length(let length): self.state = .length(length)
        case .chunked: self.state = .chunkSize
        case .untilEnd: self.state = .untilEnd
        }
    }

    /// Whether the message is over when the connection ends here.
    var endsWithConnection: Bool {
        if case .untilEnd = self.state { true } else { false }
    }

    /// The next piece from the front of `buffer`; nil if more bytes are needed. After `end` the rest belongs to the next message.
    mutating func next(_ buffer: inout ByteBuffer) throws(HTTP1Error) -> Event? {
        while true {
            switch self.state {
            case .length(0):
                self.state = .ended
                return .end(nil)
            case .length(let left):
                guard let bytes = Self.take(&buffer, atMost: left) else { return nil }
                self.state = .length(left - UInt64(bytes.readableBytes))
                return .bytes(bytes)
            case .untilEnd:
                return Self.take(&buffer, atMost: .max).map { .bytes($0) }
            case .chunkSize:
                guard let line = try self.line(&buffer, limit: Self.maximumSizeLine) else { return nil }
                let size = try Self.chunkSize(line)
                self.state = size == 0 ? .trailers : .chunk(size)
            case .chunk(let left):
                guard let bytes = Self.take(&buffer, atMost: left) else { return nil }
                let rest = left - UInt64(bytes.readableBytes)
                self.state = rest == 0 ? .chunkEnd : .chunk(rest)
                return .bytes(bytes)
            case .chunkEnd:
                guard let end = buffer.getBytes(at: buffer.readerIndex, length: min(2, buffer.readableBytes)) else {
                    return nil
                }
                guard [0x0D, 0x0A].starts(with: end) else { throw HTTP1Error("a chunk longer than its size") }
                guard end.count == 2 else { return nil }
                buffer.moveReaderIndex(forwardBy: 2)
                self.state = .chunkSize
            case .trailers:
                guard let line = try self.line(&buffer, limit: self.limits.headBytes) else { return nil }
                guard !line.isEmpty else {
                    self.state = .ended
                    self.trailers.removeForbiddenInTrailers()
                    return .end(self.trailers.fields.isEmpty ? nil : self.trailers)
                }
                self.trailerBytes += line.count + 2
                guard self.trailerBytes <= self.limits.headBytes, self.trailers.fields.count < self.limits.fields else {
                    throw HTTP1Error(431, "trailers longer than a head may be")
                }
                self.trailers.fields.append(try Self.field(line))
            case .ended:
                return nil
            }
        }
    }

    private static func field(_ line: [UInt8]) throws(HTTP1Error) -> HeaderFields.Field {
        let result: Result<HeaderFields.Field, HTTP1Error> = line.withUnsafeBytes { bytes in
            do throws(HTTP1Error) { return .success(try HTTP1HeadParser.field(bytes)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    private static func take(_ buffer: inout ByteBuffer, atMost limit: UInt64) -> ByteBuffer? {
        let count = min(UInt64(buffer.readableBytes), limit)
        guard count > 0 else { return nil }
        return buffer.readSlice(length: Int(count))
    }

    /// The bytes before the next CRLF; nil if it has not come.
    private func line(_ buffer: inout ByteBuffer, limit: Int) throws(HTTP1Error) -> [UInt8]? {
        let view = buffer.readableBytesView
        guard let feed = view.prefix(limit).firstIndex(of: 0x0A) else {
            guard view.count < limit else { throw HTTP1Error("a line of a chunked body is too long") }
            return nil
        }
        let length = feed - view.startIndex
        guard length > 0, view[feed - 1] == 0x0D else { throw HTTP1Error("a line that does not end by CRLF") }
        let line = buffer.readBytes(length: length - 1)
        buffer.moveReaderIndex(forwardBy: 2)
        guard let line, line.allSatisfy(ASCII.isValueByte) else {
            throw HTTP1Error("a control character in a chunked body's line")
        }
        return line
    }

    /// One to 15 hexadecimal digits, then nothing or an extension (RFC 9112 section 7.1).
    private static func chunkSize(_ line: [UInt8]) throws(HTTP1Error) -> UInt64 {
        let digits = line.prefix(while: ASCII.isHex)
        let rest = line.dropFirst(digits.count)
        guard (1...15).contains(digits.count) else { throw HTTP1Error("a chunk without a size") }
        guard rest.isEmpty || ASCII.trimmed(rest).first == UInt8(ascii: ";") else {
            throw HTTP1Error("a chunk's size that is no number")
        }
        return digits.reduce(0) { $0 << 4 | (ASCII.hexDigit($1) ?? 0) }
    }
}
