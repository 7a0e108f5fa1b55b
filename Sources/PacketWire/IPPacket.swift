public import MeshCore

/// What the headers of an IPv4 (RFC 791) or IPv6 packet (RFC 8200) say. The bytes stay where they are; offsets count from the
/// packet's first byte.
public struct IPPacket: Hashable, Sendable {
    /// Which part of a larger packet this is.
    public struct Fragment: Hashable, Sendable {
        /// Where the part lies in the payload of the larger packet.
        public let offset: Int
        public let isLast: Bool
        /// Common to the parts of one packet.
        public let identification: UInt32
    }

    public let source: IPAddress
    public let destination: IPAddress
    /// Of the whole packet.
    public let length: Int
    /// Where that begins which `protocolNumber` names, behind options and extension headers.
    public let payloadOffset: Int
    /// Of the first header that is none of IPv6's extensions; IANA's number.
    public let protocolNumber: UInt8
    /// TTL in IPv4.
    public let hopLimit: UInt8
    /// Nil if the packet is whole.
    public let fragment: Fragment?
    /// Whether a router may cut it: IPv4 without the DF bit.
    public let isFragmentable: Bool

    public static let maximumExtensionHeaders = 8
    static let tcp: UInt8 = 6
    static let udp: UInt8 = 17

    public var family: IPFamily { self.source.family }

    /// Whether the upper layer's header begins at `payloadOffset`, as it does in whole packets and first fragments.
    public var hasUpperLayerHeader: Bool { self.fragment.map { $0.offset == 0 } ?? true }

    /// Reads the headers of one packet, which `bytes` are all of.
    public init(parsing bytes: UnsafeRawBufferPointer) throws(PacketError) {
        guard let first = bytes.first else { throw PacketError(.truncated) }
        switch first >> 4 {
        case 4: try self.init(version4: bytes)
        case 6: try self.init(version6: bytes)
        default: throw PacketError(.version)
        }
    }

    /// How long the packet is that begins with `bytes`; nil if they are too few to tell. For packets that follow each other in a
    /// stream.
    public static func length(announcedBy bytes: UnsafeRawBufferPointer) throws(PacketError) -> Int? {
        guard let first = bytes.first else { return nil }
        let (offset, headerLength): (Int, Int)
        switch first >> 4 {
        case 4: (offset, headerLength) = (2, 20)
        case 6: (offset, headerLength) = (4, 40)
        default: throw PacketError(.version)
        }
        guard bytes.count >= offset + 2 else { return nil }
        let length = Int(bytes.network(UInt16.self, at: offset)) + (headerLength == 40 ? 40 : 0)
        guard length >= headerLength else { throw PacketError(.length) }
        return length
    }

    // MARK: IPv4

    private init(version4 bytes: UnsafeRawBufferPointer) throws(PacketError) {
        guard bytes.count >= 20 else { throw PacketError(.truncated) }
        let headerLength = Int(bytes[0] & 0xF) * 4
        let length = Int(bytes.network(UInt16.self, at: 2))
        guard headerLength >= 20, length >= headerLength else { throw PacketError(.length) }
        guard bytes.count >= headerLength else { throw PacketError(.truncated) }
        guard length == bytes.count else { throw PacketError(length > bytes.count ? .truncated : .length) }
        var checksum = InternetChecksum()
        checksum.add(bytes.part(0..<headerLength))
        guard checksum.folded == 0xFFFF else { throw PacketError(.checksum) }
        if headerLength > 20 { try Self.check(options: bytes.part(20..<headerLength)) }

        let parts = bytes.network(UInt16.self, at: 6)
        let (offset, hasMore) = (Int(parts & 0x1FFF) * 8, parts & 0x2000 != 0)
        guard offset + length - headerLength <= 65_535 else { throw PacketError(.length) }
        self.fragment =
            offset > 0 || hasMore
            ? Fragment(offset: offset, isLast: !hasMore, identification: UInt32(bytes.network(UInt16.self, at: 4)))
            : nil
        self.isFragmentable = parts & 0x4000 == 0
        self.source = .v4(IPv4Address(rawValue: bytes.network(at: 12)))
        self.destination = .v4(IPv4Address(rawValue: bytes.network(at: 16)))
        self.length = length
        self.payloadOffset = headerLength
        self.protocolNumber = bytes[9]
        self.hopLimit = bytes[8]
    }

    private static func check(options: UnsafeRawBufferPointer) throws(PacketError) {
        var offset = 0
        while offset < options.count {
            switch options[offset] {
            case 0: return
            case 1: offset += 1
            case 131, 137: throw PacketError(.sourceRoute)
            default:
                guard offset + 1 < options.count else { throw PacketError(.length) }
                let length = Int(options[offset + 1])
                guard length >= 2, offset + length <= options.count else { throw PacketError(.length) }
                offset += length
            }
        }
    }

    // MARK: IPv6

    private init(version6 bytes: UnsafeRawBufferPointer) throws(PacketError) {
        guard bytes.count >= 40 else { throw PacketError(.truncated) }
        // A length of zero with a payload is a jumbogram (RFC 2675), which no tunnel's packet is.
        let length = 40 + Int(bytes.network(UInt16.self, at: 4))
        guard length == bytes.count else { throw PacketError(length > bytes.count ? .truncated : .length) }
        self.source = .v6(IPv6Address(high: bytes.network(at: 8), low: bytes.network(at: 16)))
        self.destination = .v6(IPv6Address(high: bytes.network(at: 24), low: bytes.network(at: 32)))
        self.length = length
        self.hopLimit = bytes[7]
        self.isFragmentable = false

        var next = bytes[6]
        var offset = 40
        var fragment: Fragment?
        var headers = 0
        while let kind = ExtensionHeader(rawValue: next) {
            // What a later fragment goes on with is no header.
            if let fragment, fragment.offset > 0 { break }
            headers += 1
            guard headers <= Self.maximumExtensionHeaders else { throw PacketError(.extensionHeaders) }
            guard offset + 8 <= length else { throw PacketError(.truncated) }
            var headerLength = 8
            switch kind {
            case .fragment:
                let parts = bytes.network(UInt16.self, at: offset + 2)
                fragment = Fragment(
                    offset: Int(parts & 0xFFF8),
                    isLast: parts & 1 == 0,
                    identification: bytes.network(at: offset + 4)
                )
            case .authentication:
                headerLength = (Int(bytes[offset + 1]) + 2) * 4
            case .routing where bytes[offset + 2] == 0 && bytes[offset + 3] > 0:
                throw PacketError(.sourceRoute)
            case .hopByHop, .routing, .destinationOptions, .mobility, .hostIdentity, .shim:
                headerLength = (Int(bytes[offset + 1]) + 1) * 8
            }
            next = bytes[offset]
            offset += headerLength
            guard offset <= length else { throw PacketError(.truncated) }
        }
        if let fragment, fragment.offset + length - offset > 65_535 { throw PacketError(.length) }
        self.fragment = fragment
        self.payloadOffset = offset
        self.protocolNumber = next
    }

    /// IANA's registry of IPv6 extension headers, without ESP: nothing can be read behind that.
    private enum ExtensionHeader: UInt8 {
        case hopByHop = 0
        case routing = 43
        case fragment = 44
        case authentication = 51
        case destinationOptions = 60
        case mobility = 135
        case hostIdentity = 139
        case shim = 140
    }
}

extension IPPacket {
    /// A number that the packets of one flow share, and the parts of one packet do. Other flows may share it by chance, or by
    /// intent of who sends them: it spreads load, and decides nothing else.
    public func flowHash(in bytes: UnsafeRawBufferPointer) -> UInt32 {
        var hash: UInt64 = UInt64(self.protocolNumber)
        func mix(_ value: UInt64) {
            hash = (hash ^ value) &* 0x9E37_79B9_7F4A_7C15
            hash ^= hash >> 29
        }
        for address in [self.source, self.destination] {
            switch address {
            case .v4(let address):
                mix(UInt64(address.rawValue))
            case .v6(let address):
                mix(address.high)
                mix(address.low)
            }
        }
        let hasPorts = self.protocolNumber == Self.tcp || self.protocolNumber == Self.udp
        if hasPorts, self.fragment == nil, self.payloadOffset + 4 <= bytes.count {
            mix(UInt64(bytes.network(UInt32.self, at: self.payloadOffset)))
        }
        return UInt32(truncatingIfNeeded: hash >> 32)
    }
}

extension IPPacket {
    /// Whether it carries UDP.
    public var isDatagram: Bool { self.protocolNumber == Self.udp }
}
