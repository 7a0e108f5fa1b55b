import NIOCore

/// What became of the packets of a simulation: counts, and a digest that is the same for two runs if all their packets were.
public struct Trace: Sendable, Hashable {
    public private(set) var delivered: UInt64 = 0
    public private(set) var dropped: UInt64 = 0
    /// Bytes of delivered packets, with headers.
    public private(set) var bytes: UInt64 = 0
    public private(set) var digest: UInt64 = 0xCBF2_9CE4_8422_2325

    mutating func record(_ packet: Packet, _ fate: PacketFate, at time: NIODeadline) {
        if case .delivered = fate {
            self.delivered += 1
            self.bytes += UInt64(packet.size)
            self.mix(1)
        } else {
            self.dropped += 1
            self.mix(2)
        }
        self.mix(time.uptimeNanoseconds)
        self.mix(packet.source.digest)
        self.mix(packet.destination.digest)
        self.mix(UInt64(packet.size))
        if case .tcp(let segment) = packet.payload { self.mix(UInt64(segment.flags.rawValue)) }
    }

    /// The round of FNV-1a, over words instead of bytes.
    private mutating func mix(_ word: UInt64) {
        self.digest = (self.digest ^ word) &* 0x0000_0100_0000_01B3
        self.digest ^= self.digest >> 32
    }
}

/// The end of a packet's way over one network.
public enum PacketFate: Sendable, Hashable {
    case delivered
    case dropped(DropReason)
}

public enum DropReason: String, Sendable, Hashable {
    /// The link lost it.
    case loss
    /// The link's queue was full.
    case congestion
    /// It was too long for a link that drops what it cannot carry.
    case tooLong
    /// A link or an interface is down, or two of them are cut off from each other.
    case down
    case noRoute
    case hopLimit
    /// A firewall or a NAT does not let it in.
    case filtered
    /// A NAT has no port left, or does not send packets back inside.
    case untranslatable
}
