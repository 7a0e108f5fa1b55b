public import MeshCore

/// What a router tells the sender of a packet that it does not carry on (RFC 792, RFC 4443).
public enum ICMPError: Hashable, Sendable {
    /// It does not fit: the next link takes packets of this many bytes (RFC 1191, RFC 8201).
    case tooBig(mtu: Int)
    /// It was on the way for too many hops.
    case hopLimitExceeded
    /// Nobody knows, or nobody reaches, its destination.
    case unreachable
    /// A rule forbids it.
    case prohibited

    /// The packet that tells the sender of `packet`; nil where the standards want silence: about other errors, about parts that
    /// have no header, and about what was sent to many or by nobody (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    /// - Parameters:
    ///   - bytes: of the packet.
    ///   - router: who tells it.
    public func answer(
        to packet: IPPacket,
        _ bytes: UnsafeRawBufferPointer,
        from router: IPAddress
    ) -> [UInt8]? {
        guard router.family == packet.family, self.mayAnswer(packet, bytes) else { return nil }
        return packet.family == .v4 ? self.version4(packet, bytes, router) : self.version6(packet, bytes, router)
    }

    private func mayAnswer(_ packet: IPPacket, _ bytes: UnsafeRawBufferPointer) -> Bool {
        guard packet.hasUpperLayerHeader, bytes.count == packet.length else { return false }
        let type = packet.payloadOffset < bytes.count ? bytes[packet.payloadOffset] : 0
        switch (packet.source, packet.destination) {
        case (.v4(let source), .v4(let destination)):
            let isError = packet.protocolNumber == 1 && [3, 4, 5, 11, 12].contains(type)
            let first = source.octets.0
            return !isError && first != 0 && first != 127 && first < 224 && destination.octets.0 < 224
        case (.v6(let source), .v6(let destination)):
            // A redirect counts as an error.
            let isError = packet.protocolNumber == 58 && (type < 128 || type == 137)
            let isToMany = destination.high >> 56 == 0xFF
            if case .tooBig = self { return !isError && Self.isUnicast(source) }
            return !isError && !isToMany && Self.isUnicast(source)
        default:
            return false
        }
    }

    private static func isUnicast(_ address: IPv6Address) -> Bool {
        address != .any && address != .loopback && address.high >> 56 != 0xFF
    }

    /// Type, code and the four bytes behind the checksum.
    private var code4: (type: UInt8, code: UInt8, rest: UInt32) {
        switch self {
        case .tooBig(let mtu): (3, 4, UInt32(UInt16(clamping: mtu)))
        case .hopLimitExceeded: (11, 0, 0)
        case .unreachable: (3, 1, 0)
        case .prohibited: (3, 13, 0)
        }
    }

    private var code6: (type: UInt8, code: UInt8, rest: UInt32) {
        switch self {
        case .tooBig(let mtu): (2, 0, UInt32(clamping: mtu))
        case .hopLimitExceeded: (3, 0, 0)
        case .unreachable: (1, 3, 0)
        case .prohibited: (1, 1, 0)
        }
    }

    private func version4(_ packet: IPPacket, _ bytes: UnsafeRawBufferPointer, _ router: IPAddress) -> [UInt8] {
        // RFC 1812 section 4.3.2.3: as much as fits into 576 bytes.
        let quoted = bytes.part(0..<min(packet.length, 576 - 28))
        var answer = [UInt8](repeating: 0, count: 28 + quoted.count)
        answer.withUnsafeMutableBytes { answer in
            // Internetwork control (RFC 1812 section 4.3.2.5); never cut on its way.
            answer.set(UInt32(0x45C0_0000) | UInt32(28 + quoted.count), at: 0)
            answer.set(UInt32(0x0000_4000), at: 4)
            answer.set(UInt32(0x4001_0000), at: 8)
            answer.copyAddresses(from: router, to: packet.source, at: 12)
            var header = InternetChecksum()
            header.add(UnsafeRawBufferPointer(answer).part(0..<20))
            answer.set(header.value, at: 10)
            answer.copyMessage(self.code4, quoting: quoted, at: 20, sum: InternetChecksum())
        }
        return answer
    }

    private func version6(_ packet: IPPacket, _ bytes: UnsafeRawBufferPointer, _ router: IPAddress) -> [UInt8] {
        // RFC 4443 section 3: as much as fits into the smallest MTU.
        let quoted = bytes.part(0..<min(packet.length, 1280 - 48))
        let length = 8 + quoted.count
        var answer = [UInt8](repeating: 0, count: 40 + length)
        answer.withUnsafeMutableBytes { answer in
            answer.set(UInt32(0x6000_0000), at: 0)
            answer.set(UInt16(truncatingIfNeeded: length), at: 4)
            answer.set(UInt16(0x3A40), at: 6)
            answer.copyAddresses(from: router, to: packet.source, at: 8)
            let sum = InternetChecksum(
                source: router,
                destination: packet.source,
                protocolNumber: 58,
                length: length
            )
            answer.copyMessage(self.code6, quoting: quoted, at: 40, sum: sum)
        }
        return answer
    }
}

extension UnsafeMutableRawBufferPointer {
    fileprivate func copyAddresses(from source: IPAddress, to destination: IPAddress, at offset: Int) {
        for (index, byte) in (source.networkBytes + destination.networkBytes).enumerated() {
            self.set(byte, at: offset + index)
        }
    }

    /// - Parameter sum: of what the checksum covers besides the message.
    fileprivate func copyMessage(
        _ message: (type: UInt8, code: UInt8, rest: UInt32),
        quoting quoted: UnsafeRawBufferPointer,
        at offset: Int,
        sum: InternetChecksum
    ) {
        self.set(message.type, at: offset)
        self.set(message.code, at: offset + 1)
        self.set(message.rest, at: offset + 4)
        self.copy(quoted, to: offset + 8)
        var sum = sum
        sum.add(UnsafeRawBufferPointer(self).part(offset..<self.count))
        self.set(sum.value, at: offset + 2)
    }
}
