import MeshCore

/// What was left to be done on a packet by who handed it over, as a device with offloads would do it.
public struct PacketOffload: Hashable, Sendable {
    /// The checksum of TCP or UDP covers the pseudo header alone.
    public var isChecksumPartial: Bool
    /// The packet stands for several that carry this many bytes of payload each, the last one fewer; zero if it is one.
    public var segmentSize: UInt16

    /// Nothing is left to be done.
    public static let none = PacketOffload()
    /// The most segments that one packet may stand for: segments of 32 bytes, smaller than any that TCP sends.
    public static let maximumSegments = 2048

    public init(isChecksumPartial: Bool = false, segmentSize: UInt16 = 0) {
        self.isChecksumPartial = isChecksumPartial
        self.segmentSize = segmentSize
    }

    /// What matters of the TCP or UDP header of a packet with offloads; offsets as the structure says.
    struct UpperLayer {
        /// From the packet's beginning to the payload of TCP or UDP.
        let headersLength: Int
        /// From the beginning of the TCP or UDP header.
        let checksumOffset: Int
        let hasCongestionFlag: Bool
    }

    /// Nil if there is nothing to do.
    /// - Throws: if the packet is none on which this can be done.
    func upperLayer(of packet: IPPacket, _ bytes: UnsafeRawBufferPointer) throws(PacketError) -> UpperLayer? {
        guard self != .none else { return nil }
        // Who leaves the cutting to others leaves the sums to them, too.
        guard packet.fragment == nil, bytes.count == packet.length, self.isChecksumPartial else {
            throw PacketError(.offload)
        }
        let start = packet.payloadOffset
        let upper: UpperLayer
        switch packet.protocolNumber {
        case IPPacket.tcp:
            guard bytes.count >= start + 20 else { throw PacketError(.offload) }
            let end = start + Int(bytes[start + 12] >> 4) * 4
            guard end >= start + 20, end <= bytes.count else { throw PacketError(.offload) }
            upper = UpperLayer(
                headersLength: end,
                checksumOffset: 16,
                hasCongestionFlag: bytes[start + 13] & 0x80 != 0
            )
        case IPPacket.udp:
            guard bytes.count >= start + 8 else { throw PacketError(.offload) }
            upper = UpperLayer(headersLength: start + 8, checksumOffset: 6, hasCongestionFlag: false)
        default:
            throw PacketError(.offload)
        }
        if self.segmentSize > 0 {
            let payload = bytes.count - upper.headersLength
            guard payload > 0, payload <= Int(self.segmentSize) * Self.maximumSegments else {
                throw PacketError(.offload)
            }
        }
        return upper
    }
}

/// The packets that one with offloads stands for, each whole and with its checksums, for who cannot do that work itself.
public struct PacketSegments: Sendable {
    public let count: Int
    /// Bytes of the longest.
    public let maximumLength: Int
    private let packet: IPPacket
    private let size: Int
    /// Nil if the packet is handed on as it is.
    private let headersLength: Int?
    private let checksumOffset: Int
    private let isChecksumDue: Bool

    public init(_ offload: PacketOffload, of packet: IPPacket, _ bytes: UnsafeRawBufferPointer) throws(PacketError) {
        let upper = try offload.upperLayer(of: packet, bytes)
        self.packet = packet
        self.checksumOffset = packet.payloadOffset + (upper?.checksumOffset ?? 0)
        self.isChecksumDue = upper != nil
        if let upper, offload.segmentSize > 0 {
            let payload = packet.length - upper.headersLength
            self.size = Int(offload.segmentSize)
            self.headersLength = upper.headersLength
            self.count = (payload + self.size - 1) / self.size
            self.maximumLength = upper.headersLength + min(payload, self.size)
        } else {
            self.size = 0
            self.headersLength = nil
            self.count = 1
            self.maximumLength = packet.length
        }
    }

    /// Segments of which none is longer than `limit`, those of TCP shorter than their device wants them, as whoever carries them may
    /// choose. Nil if that cannot be.
    public init?(_ offload: PacketOffload, of packet: IPPacket, _ bytes: UnsafeRawBufferPointer, fitting limit: Int) {
        guard let whole = try? Self(offload, of: packet, bytes) else { return nil }
        guard whole.maximumLength > limit else {
            self = whole
            return
        }
        guard let upper = try? offload.upperLayer(of: packet, bytes) else { return nil }
        let room = limit - upper.headersLength
        // One that opens a connection would open as many as there are segments.
        guard packet.protocolNumber == IPPacket.tcp, bytes[packet.payloadOffset + 13] & 0x02 == 0, room > 0,
            let shorter = try? Self(
                PacketOffload(isChecksumPartial: true, segmentSize: UInt16(clamping: room)),
                of: packet,
                bytes
            )
        else { return nil }
        self = shorter
    }

    /// Writes the segment `index`, which is less than `count`, to the beginning of `target`, which has room for `maximumLength`.
    /// - Parameter bytes: of the packet.
    /// - Returns: how long it is.
    public func write(
        _ index: Int,
        of bytes: UnsafeRawBufferPointer,
        to target: UnsafeMutableRawBufferPointer
    ) -> Int {
        precondition(index >= 0 && index < self.count && bytes.count == self.packet.length)
        guard let headersLength else {
            target.copy(bytes)
            if self.isChecksumDue {
                self.finishChecksum(UnsafeMutableRawBufferPointer(rebasing: target[..<bytes.count]))
            }
            return bytes.count
        }
        let start = headersLength + index * self.size
        let end = min(start + self.size, bytes.count)
        let length = headersLength + end - start
        target.copy(bytes.part(0..<headersLength))
        target.copy(bytes.part(start..<end), to: headersLength)
        let segment = UnsafeMutableRawBufferPointer(rebasing: target[..<length])
        self.adaptHeaders(of: segment, index: index, headersLength: headersLength)
        self.finishChecksum(segment)
        return length
    }

    private func adaptHeaders(of segment: UnsafeMutableRawBufferPointer, index: Int, headersLength: Int) {
        let upper = self.packet.payloadOffset
        switch self.packet.family {
        case .v4:
            segment.set(UInt16(truncatingIfNeeded: segment.count), at: 2)
            // Parts of one packet are told from those of another by this number (RFC 6864).
            let identification = segment.network(UInt16.self, at: 4)
            segment.set(identification &+ UInt16(truncatingIfNeeded: index), at: 4)
            segment.set(UInt16(0), at: 10)
            var header = InternetChecksum()
            header.add(UnsafeRawBufferPointer(segment).part(0..<Int(segment[0] & 0xF) * 4))
            segment.set(header.value, at: 10)
        case .v6:
            segment.set(UInt16(truncatingIfNeeded: segment.count - 40), at: 4)
        }
        if self.packet.protocolNumber == IPPacket.udp {
            segment.set(UInt16(truncatingIfNeeded: segment.count - upper), at: upper + 4)
        } else {
            let sequence = segment.network(UInt32.self, at: upper + 4)
            segment.set(sequence &+ UInt32(truncatingIfNeeded: index * self.size), at: upper + 4)
            // FIN and PSH belong to the last segment; CWR, which answers congestion once, to the first (RFC 3168 section 6.1.2).
            if index < self.count - 1 { segment[upper + 13] &= ~0x09 }
            if index > 0 { segment[upper + 13] &= ~0x80 }
        }
    }

    /// Sums TCP or UDP of a whole packet.
    private func finishChecksum(_ segment: UnsafeMutableRawBufferPointer) {
        let start = self.packet.payloadOffset
        segment.set(UInt16(0), at: self.checksumOffset)
        var sum = InternetChecksum(
            source: self.packet.source,
            destination: self.packet.destination,
            protocolNumber: self.packet.protocolNumber,
            length: segment.count - start
        )
        sum.add(UnsafeRawBufferPointer(segment).part(start..<segment.count))
        // A sum of zero would say that there is none in UDP (RFC 768).
        let value = sum.value == 0 && self.packet.protocolNumber == IPPacket.udp ? 0xFFFF : sum.value
        segment.set(value, at: self.checksumOffset)
    }
}
