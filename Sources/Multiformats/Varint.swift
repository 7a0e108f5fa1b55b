public import NIOCore

/// Unsigned varints as all multiformats use them: seven bits a byte, least significant first, at most nine bytes (63 bits),
/// in the shortest form (github.com/multiformats/unsigned-varint).
enum Varint {
    static let maximumLength = 9

    enum Step {
        case more
        case value(UInt64)
        case tooLong
        case notShortest
    }

    /// Takes the byte at `index` into `value`, which holds the bits of the bytes before it.
    @inline(__always)
    static func take(_ byte: UInt8, at index: Int, into value: inout UInt64) -> Step {
        value |= UInt64(byte & 0x7F) << UInt64(7 * index)
        if byte & 0x80 == 0 { return byte == 0 && index > 0 ? .notShortest : .value(value) }
        return index + 1 == Self.maximumLength ? .tooLong : .more
    }

    static func append(_ value: UInt64, to bytes: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    static let tooLong = MultiformatsError(code: .malformed, message: "a varint of more than nine bytes")
    static let notShortest = MultiformatsError(code: .malformed, message: "a varint that is not in its shortest form")
}

/// Reads the fields of an encoding from left to right; every read is checked against the end.
struct ByteCursor {
    private let bytes: [UInt8]
    private(set) var offset = 0

    init(_ bytes: some Collection<UInt8>) {
        self.bytes = Array(bytes)
    }

    var isAtEnd: Bool { self.offset == self.bytes.count }

    mutating func readVarint() throws(MultiformatsError) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<Varint.maximumLength {
            guard self.offset < self.bytes.count else { break }
            let byte = self.bytes[self.offset]
            self.offset += 1
            switch Varint.take(byte, at: index, into: &value) {
            case .more: continue
            case .value(let value): return value
            case .tooLong: throw Varint.tooLong
            case .notShortest: throw Varint.notShortest
            }
        }
        throw MultiformatsError(code: .truncated, message: "the bytes end inside a varint")
    }

    mutating func readBytes(_ count: UInt64) throws(MultiformatsError) -> ArraySlice<UInt8> {
        guard count <= UInt64(self.bytes.count - self.offset) else {
            throw MultiformatsError(
                code: .truncated,
                message: "\(count) bytes wanted at \(self.offset) of \(self.bytes.count)"
            )
        }
        defer { self.offset += Int(count) }
        return self.bytes[self.offset..<(self.offset + Int(count))]
    }

    mutating func readRest() -> ArraySlice<UInt8> {
        defer { self.offset = self.bytes.count }
        return self.bytes[self.offset...]
    }
}

extension ByteBuffer {
    /// Reads an unsigned varint of at most nine bytes in its shortest form.
    /// - Returns: nil if the buffer ends inside the varint; nothing is consumed then, and reading may be tried again with more bytes.
    /// - Throws: `malformed`, for what no further byte can mend; nothing is consumed.
    public mutating func readUnsignedVarint() throws(MultiformatsError) -> UInt64? {
        var value: UInt64 = 0
        for index in 0..<min(self.readableBytes, Varint.maximumLength) {
            guard let byte = self.getInteger(at: self.readerIndex + index, as: UInt8.self) else { return nil }
            switch Varint.take(byte, at: index, into: &value) {
            case .more: continue
            case .value(let value):
                self.moveReaderIndex(forwardBy: index + 1)
                return value
            case .tooLong: throw Varint.tooLong
            case .notShortest: throw Varint.notShortest
            }
        }
        return nil
    }

    /// Writes an unsigned varint.
    /// - Returns: The number of bytes written; ten for a value of 64 bits, which only protobuf's readers take.
    @discardableResult
    public mutating func writeUnsignedVarint(_ value: some FixedWidthInteger & UnsignedInteger) -> Int {
        var rest = UInt64(value)
        var count = 1
        while rest >= 0x80 {
            self.writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
            count += 1
        }
        self.writeInteger(UInt8(truncatingIfNeeded: rest))
        return count
    }

    /// Reads one message framed by its length as a varint, as most protocols of libp2p frame theirs.
    /// - Returns: nil if the message is not whole yet; nothing is consumed then.
    /// - Throws: `tooLong` as soon as the announced length exceeds `maximumLength`; `malformed` for a bad varint.
    public mutating func readVarintPrefixed(maximumLength: Int) throws(MultiformatsError) -> ByteBuffer? {
        let start = self.readerIndex
        guard let length = try self.readUnsignedVarint() else { return nil }
        guard length <= UInt64(clamping: maximumLength) else {
            self.moveReaderIndex(to: start)
            throw MultiformatsError(
                code: .tooLong,
                message: "a message of \(length) bytes is announced, at most \(maximumLength) are taken"
            )
        }
        guard let message = self.readSlice(length: Int(length)) else {
            self.moveReaderIndex(to: start)
            return nil
        }
        return message
    }

    /// Writes the readable bytes of `message` behind their length as a varint.
    public mutating func writeVarintPrefixed(_ message: ByteBuffer) {
        self.writeUnsignedVarint(UInt64(message.readableBytes))
        self.writeImmutableBuffer(message)
    }
}
