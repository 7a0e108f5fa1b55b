public import NIOCore

/// A segment of TCP (RFC 9293 section 3.1), as far as it matters here. Sequence numbers do not wrap.
public struct TCPSegment: Sendable, Hashable {
    public struct Flags: OptionSet, Sendable, Hashable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let fin = Flags(rawValue: 1)
        public static let syn = Flags(rawValue: 2)
        public static let rst = Flags(rawValue: 4)
        public static let ack = Flags(rawValue: 16)
    }

    public var flags: Flags
    public var sequence: UInt64
    public var acknowledgement: UInt64
    public var window: Int
    /// Up to 64 KiB: a run of packets that are lost or arrive together.
    public var bytes: ByteBuffer
    /// The longest of those packets.
    public var pathMTU: Int

    public init(
        _ flags: Flags,
        sequence: UInt64,
        acknowledgement: UInt64 = 0,
        window: Int = 0,
        bytes: ByteBuffer = ByteBuffer(),
        pathMTU: Int = 1500
    ) {
        self.flags = flags
        self.sequence = sequence
        self.acknowledgement = acknowledgement
        self.window = window
        self.bytes = bytes
        self.pathMTU = pathMTU
    }

    /// What it takes of the sequence space: SYN and FIN count as a byte each.
    var length: UInt64 {
        UInt64(self.bytes.readableBytes) + (self.flags.contains(.syn) ? 1 : 0) + (self.flags.contains(.fin) ? 1 : 0)
    }

    var end: UInt64 { self.sequence + self.length }

    /// The RST of whoever has no such connection (RFC 9293 section 3.10.7.1); nil for an RST.
    var refusal: TCPSegment? {
        if self.flags.contains(.rst) { return nil }
        if self.flags.contains(.ack) { return TCPSegment(.rst, sequence: self.acknowledgement) }
        return TCPSegment([.rst, .ack], sequence: 0, acknowledgement: self.end)
    }
}

/// The numbers of a machine's TCP; the defaults are those of Linux.
public struct TCPConfiguration: Sendable, Hashable {
    /// How often a SYN is sent again before the connection fails; 6 take two minutes.
    public var synRetries = 6
    /// How often a segment is sent again before the connection fails; 15 take a quarter of an hour.
    public var retries = 15
    /// Before the first round trip is measured.
    public var initialTimeout: TimeAmount = .seconds(1)
    public var minimumTimeout: TimeAmount = .milliseconds(200)
    public var maximumTimeout: TimeAmount = .seconds(120)
    /// Bytes that wait for a slow reader at most.
    public var receiveBuffer = 512 * 1024
    /// Bytes that wait for acknowledgement, or for their turn, at most.
    public var sendBuffer = 512 * 1024
    /// After both ends have closed, and for an end that nobody reads any more.
    public var lingerTime: TimeAmount = .seconds(60)
    public var mtu = 1500

    static let maximumSegment = 64 * 1024

    public init() {}
}
