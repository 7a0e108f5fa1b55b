public import NIOCore

/// Reads the fields of one protobuf message (protobuf.dev, encoding) in the order in which they stand.
/// Messages within are slices of the same buffer. What a caller does not know it skips.
public struct ProtobufReader {
    public struct Field: Hashable, Sendable {
        public enum Value: Hashable, Sendable {
            case varint(UInt64)
            case fixed64(UInt64)
            case bytes(ByteBuffer)
            case fixed32(UInt32)
        }

        public let number: Int
        public let value: Value
    }

    private var buffer: ByteBuffer

    /// The message is what is readable of `buffer`.
    public init(_ buffer: ByteBuffer) {
        self.buffer = buffer
    }

    public init(_ bytes: some Collection<UInt8>) {
        self.buffer = ByteBuffer(bytes: bytes)
    }

    /// The next field, or nil at the end.
    /// - Throws: `truncated` if the message ends inside a field, `malformed` for a bad tag or varint, `unsupported` for groups.
    public mutating func next() throws(MultiformatsError) -> Field? {
        guard self.buffer.readableBytes > 0 else { return nil }
        let tag = try self.readVarint()
        guard let number = Int(exactly: tag >> 3), (1...536_870_911).contains(number) else {
            throw MultiformatsError(code: .malformed, message: "a protobuf field with the number \(tag >> 3)")
        }
        switch tag & 7 {
        case 0: return Field(number: number, value: .varint(try self.readVarint()))
        case 1:
            guard let value = self.buffer.readInteger(endianness: .little, as: UInt64.self) else {
                throw Self.truncated(number)
            }
            return Field(number: number, value: .fixed64(value))
        case 2:
            guard let length = Int(exactly: try self.readVarint()), let bytes = self.buffer.readSlice(length: length)
            else { throw Self.truncated(number) }
            return Field(number: number, value: .bytes(bytes))
        case 5:
            guard let value = self.buffer.readInteger(endianness: .little, as: UInt32.self) else {
                throw Self.truncated(number)
            }
            return Field(number: number, value: .fixed32(value))
        default:
            throw MultiformatsError(code: .unsupported, message: "protobuf field \(number) has wire type \(tag & 7)")
        }
    }

    /// A varint of protobuf: up to ten bytes for 64 bits, also in forms that are not the shortest.
    private mutating func readVarint() throws(MultiformatsError) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<10 {
            guard let byte = self.buffer.readInteger(as: UInt8.self) else {
                throw MultiformatsError(code: .truncated, message: "a protobuf message ends inside a varint")
            }
            guard index < 9 || byte <= 1 else { break }
            value |= UInt64(byte & 0x7F) << UInt64(7 * index)
            if byte & 0x80 == 0 { return value }
        }
        throw MultiformatsError(code: .malformed, message: "a protobuf varint of more than 64 bits")
    }

    private static func truncated(_ number: Int) -> MultiformatsError {
        MultiformatsError(code: .truncated, message: "a protobuf message ends inside field \(number)")
    }
}

extension ProtobufReader.Field {
    private func mismatch(_ wanted: StaticString) -> MultiformatsError {
        MultiformatsError(code: .malformed, message: "protobuf field \(self.number) is no \(wanted)")
    }

    /// The value of a field of type `uint64`, `uint32` or an enumeration.
    public func uint64() throws(MultiformatsError) -> UInt64 {
        guard case .varint(let value) = self.value else { throw self.mismatch("varint") }
        return value
    }

    /// The value of a field of type `int64` or `int32`.
    public func int64() throws(MultiformatsError) -> Int64 {
        Int64(bitPattern: try self.uint64())
    }

    public func bool() throws(MultiformatsError) -> Bool {
        try self.uint64() != 0
    }

    /// The bytes of a field of type `bytes`, or a message within, as a slice of the message.
    public func buffer() throws(MultiformatsError) -> ByteBuffer {
        guard case .bytes(let value) = self.value else { throw self.mismatch("byte string") }
        return value
    }

    public func bytes() throws(MultiformatsError) -> [UInt8] {
        Array(try self.buffer().readableBytesView)
    }

    /// A reader of the message within.
    public func message() throws(MultiformatsError) -> ProtobufReader {
        ProtobufReader(try self.buffer())
    }

    /// Text; bytes that are not UTF-8 are refused.
    public func text() throws(MultiformatsError) -> String {
        guard let text = String(validating: try self.buffer().readableBytesView, as: UTF8.self) else {
            throw self.mismatch("UTF-8 text")
        }
        return text
    }
}

/// Writes a protobuf message, fields in the order of the calls, each in its shortest form.
/// What is written with default values is on the wire too: proto2's writers do so, and signatures need one form.
public struct ProtobufWriter {
    /// The message so far.
    public private(set) var buffer: ByteBuffer

    /// Writes behind what `buffer` holds.
    public init(_ buffer: ByteBuffer = ByteBuffer()) {
        self.buffer = buffer
    }

    public var bytes: [UInt8] { Array(self.buffer.readableBytesView) }

    public mutating func write(varint value: UInt64, to field: Int) {
        self.writeTag(field, 0)
        self.buffer.writeUnsignedVarint(value)
    }

    public mutating func write(bool value: Bool, to field: Int) {
        self.write(varint: value ? 1 : 0, to: field)
    }

    /// Writes a field of type `int64` or `int32`.
    public mutating func write(int64 value: Int64, to field: Int) {
        self.write(varint: UInt64(bitPattern: value), to: field)
    }

    /// Writes a field of type `fixed64`.
    public mutating func write(fixed64 value: UInt64, to field: Int) {
        self.writeTag(field, 1)
        self.buffer.writeInteger(value, endianness: .little)
    }

    public mutating func write(bytes value: some Collection<UInt8>, to field: Int) {
        self.writeTag(field, 2)
        self.buffer.writeUnsignedVarint(UInt64(value.count))
        self.buffer.writeBytes(value)
    }

    public mutating func write(buffer value: ByteBuffer, to field: Int) {
        self.writeTag(field, 2)
        self.buffer.writeVarintPrefixed(value)
    }

    public mutating func write(text value: String, to field: Int) {
        self.write(bytes: value.utf8, to: field)
    }

    /// Writes the message that `body` writes.
    public mutating func write(messageTo field: Int, _ body: (inout ProtobufWriter) -> Void) {
        var inner = ProtobufWriter()
        body(&inner)
        self.write(buffer: inner.buffer, to: field)
    }

    private mutating func writeTag(_ field: Int, _ wireType: UInt64) {
        self.buffer.writeUnsignedVarint(UInt64(clamping: field) << 3 | wireType)
    }
}
