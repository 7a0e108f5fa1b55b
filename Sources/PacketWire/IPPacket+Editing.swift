import MeshCore

extension IPPacket {
    /// Takes one from the hop limit, in the packet that this was read from.
    /// - Returns: false if the packet has no hop left; it is unchanged then.
    public func decrementHopLimit(in bytes: UnsafeMutableRawBufferPointer) -> Bool {
        guard self.hopLimit > 1 else { return false }
        switch self.family {
        case .v4:
            let old = bytes.network(UInt16.self, at: 8)
            let new = old &- 0x0100
            bytes.set(new, at: 8)
            bytes.set(InternetChecksum.updated(bytes.network(at: 10), from: old, to: new), at: 10)
        case .v6:
            bytes[7] = self.hopLimit &- 1
        }
        return true
    }

    /// Whether the sender of a packet says that both ends understand when they are told of congestion (ECN, RFC 3168).
    /// - Parameter bytes: a packet whose headers are sound.
    public static func understandsCongestion(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count >= 20 else { return false }
        return bytes[1] & (bytes[0] >> 4 == 6 ? 0x30 : 0x03) != 0
    }

    /// Tells the receiver of a packet that it met congestion, if both ends understand that. Of a packet that stands for several it
    /// tells all of them.
    /// - Parameter bytes: a packet whose headers are sound.
    /// - Returns: whether the packet tells it now.
    public static func markCongestion(in bytes: UnsafeMutableRawBufferPointer) -> Bool {
        guard Self.understandsCongestion(UnsafeRawBufferPointer(bytes)) else { return false }
        if bytes[0] >> 4 == 6 {
            bytes[1] |= 0x30
            return true
        }
        let old = bytes.network(UInt16.self, at: 0)
        bytes.set(old | 0x03, at: 0)
        bytes.set(InternetChecksum.updated(bytes.network(at: 10), from: old, to: old | 0x03), at: 10)
        return true
    }

    /// Whether it is a SYN of TCP: with or without ACK.
    public func opensConnection(in bytes: UnsafeRawBufferPointer) -> Bool {
        guard self.protocolNumber == Self.tcp, self.hasUpperLayerHeader, bytes.count >= self.payloadOffset + 20 else {
            return false
        }
        return bytes[self.payloadOffset + 13] & 0x02 != 0
    }

    /// The largest TCP segment that fits into packets of `mtu` bytes without options.
    public static func maximumSegmentSize(mtu: Int, isVersion6: Bool) -> UInt16 {
        UInt16(clamping: mtu - (isVersion6 ? 60 : 40))
    }

    /// Lowers the maximum segment size that a TCP SYN announces (RFC 9293 section 3.7.1), so that neither side sends what does
    /// not pass. Anything else is left as it is.
    /// - Parameter isChecksumPartial: the checksum field holds the pseudo header's sum alone; the rest is added later.
    /// - Returns: whether the packet was changed.
    @discardableResult
    public func clampSegmentSize(
        in bytes: UnsafeMutableRawBufferPointer,
        to limit: UInt16,
        isChecksumPartial: Bool = false
    ) -> Bool {
        guard self.opensConnection(in: UnsafeRawBufferPointer(bytes)) else { return false }
        let start = self.payloadOffset
        let end = start + Int(bytes[start + 12] >> 4) * 4
        guard end <= bytes.count else { return false }
        var offset = start + 20
        while offset < end {
            let kind = bytes[offset]
            if kind == 0 { return false }
            if kind == 1 {
                offset += 1
                continue
            }
            guard offset + 1 < end else { return false }
            let length = Int(bytes[offset + 1])
            guard length >= 2, offset + length <= end else { return false }
            if kind == 2, length == 4 {
                let old = bytes.network(UInt16.self, at: offset + 2)
                guard old > limit else { return false }
                bytes.set(limit, at: offset + 2)
                guard !isChecksumPartial else { return true }
                // At an odd offset its bytes lie in two words, each in the other's place.
                let isOdd = (offset - start) & 1 != 0
                let checksum = InternetChecksum.updated(
                    bytes.network(at: start + 16),
                    from: isOdd ? old.byteSwapped : old,
                    to: isOdd ? limit.byteSwapped : limit
                )
                bytes.set(checksum, at: start + 16)
                return true
            }
            offset += length
        }
        return false
    }
}
