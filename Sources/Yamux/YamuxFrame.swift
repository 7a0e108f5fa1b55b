import NIOCore

/// Why a session ends, as its peer is told (specification, "Go Away").
public struct GoAwayCode: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt32

    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    public static let normal = GoAwayCode(rawValue: 0)
    public static let protocolError = GoAwayCode(rawValue: 1)
    public static let internalError = GoAwayCode(rawValue: 2)
}

/// The twelve bytes before each frame, big endian: version, type, flags, stream, length.
struct YamuxFrameHeader: Hashable, Sendable {
    static let byteCount = 12

    enum Kind: UInt8 {
        case data, windowUpdate, ping, goAway
    }

    struct Flags: OptionSet, Hashable, Sendable {
        let rawValue: UInt16
        static let syn = Flags(rawValue: 1)
        static let ack = Flags(rawValue: 2)
        static let fin = Flags(rawValue: 4)
        static let rst = Flags(rawValue: 8)
    }

    var kind: Kind
    /// Bits that no specification names are ignored, as other implementations do.
    var flags: Flags
    var streamID: UInt32
    /// Bytes of payload, a window's growth, a ping's value, or the code of an end.
    var length: UInt32

    init(_ kind: Kind, _ flags: Flags = [], streamID: UInt32 = 0, length: UInt32 = 0) {
        self.kind = kind
        self.flags = flags
        self.streamID = streamID
        self.length = length
    }

    /// Reads a header; nil, with nothing read, if fewer than twelve bytes are there.
    init?(reading buffer: inout ByteBuffer) throws(YamuxError) {
        typealias Fields = (UInt8, UInt8, UInt16, UInt32, UInt32)
        guard
            let (version, kind, flags, streamID, length) = buffer.readMultipleIntegers(
                endianness: .big,
                as: Fields.self
            )
        else { return nil }
        guard version == 0 else {
            throw .violation("a frame of version \(version): the peer does not speak yamux")
        }
        guard let kind = Kind(rawValue: kind) else {
            throw .violation("a frame of unknown type \(kind)")
        }
        let belongsToStream = kind == .data || kind == .windowUpdate
        guard belongsToStream == (streamID != 0) else {
            throw .violation("a frame of type \(kind) on stream \(streamID)")
        }
        self.init(kind, Flags(rawValue: flags), streamID: streamID, length: length)
    }

    func write(to buffer: inout ByteBuffer) {
        buffer.writeMultipleIntegers(
            UInt8(0),
            self.kind.rawValue,
            self.flags.rawValue,
            self.streamID,
            self.length,
            endianness: .big
        )
    }
}

/// Cuts the bytes of a connection into headers and payloads, without copying payloads.
///
/// A payload is passed on as a slice of what was read. One of at most `wholePayloadBytes` is always passed on whole, gathered if
/// reads cut it: peers let the bounds of small frames carry datagrams. A longer one comes in pieces.
struct YamuxFrameParser {
    enum Element: Equatable {
        case header(YamuxFrameHeader)
        case payload(ByteBuffer, isLast: Bool)
    }

    private let wholePayloadBytes: Int
    /// The bytes of a header that a read cut.
    private var cutHeader = ByteBuffer()
    private var gathered: ByteBuffer?
    private var remaining = 0
    private var isWhole = false

    init(wholePayloadBytes: Int) {
        self.wholePayloadBytes = wholePayloadBytes
    }

    /// Takes the next element from the front of `buffer`; nil if it is used up.
    mutating func next(from buffer: inout ByteBuffer) throws(YamuxError) -> Element? {
        if self.remaining > 0 { return self.nextPayload(from: &buffer) }
        guard let header = try self.nextHeader(from: &buffer) else { return nil }
        if header.kind == .data {
            self.remaining = Int(header.length)
            self.isWhole = self.remaining <= self.wholePayloadBytes
        }
        return .header(header)
    }

    /// The payload of the header that came last is not wanted: it is passed on as it comes and never gathered.
    mutating func skipPayload() {
        self.isWhole = false
    }

    private mutating func nextHeader(from buffer: inout ByteBuffer) throws(YamuxError) -> YamuxFrameHeader? {
        if self.cutHeader.readableBytes == 0 {
            if let header = try YamuxFrameHeader(reading: &buffer) { return header }
            self.cutHeader.clear()
        }
        let missing = min(YamuxFrameHeader.byteCount - self.cutHeader.readableBytes, buffer.readableBytes)
        if var part = buffer.readSlice(length: missing) { self.cutHeader.writeBuffer(&part) }
        return try YamuxFrameHeader(reading: &self.cutHeader)
    }

    private mutating func nextPayload(from buffer: inout ByteBuffer) -> Element? {
        guard buffer.readableBytes > 0, var part = buffer.readSlice(length: min(self.remaining, buffer.readableBytes))
        else { return nil }
        self.remaining -= part.readableBytes
        if var gathered = self.gathered.take() {
            gathered.writeBuffer(&part)
            if self.remaining == 0 { return .payload(gathered, isLast: true) }
            self.gathered = gathered
            return nil
        }
        if self.remaining > 0, self.isWhole {
            var gathered = ByteBuffer()
            gathered.reserveCapacity(part.readableBytes + self.remaining)
            gathered.writeBuffer(&part)
            self.gathered = gathered
            return nil
        }
        return .payload(part, isLast: self.remaining == 0)
    }
}

extension Optional {
    /// The value, leaving nil behind, so that the value stays uniquely referenced.
    fileprivate mutating func take() -> Wrapped? {
        let value = self
        self = nil
        return value
    }
}
