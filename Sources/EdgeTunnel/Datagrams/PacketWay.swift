import Documents
import MeshCore
import PacketDatagrams

/// What the packets of a channel go by, and why.
struct PacketWay: Sendable, Hashable {
    /// Why the stream carries them.
    enum Reason: String, Sendable, CaseIterable {
        /// This agent does not send by datagrams, or has no port for them.
        case off
        /// The agent there is one of v1.17.
        case original
        /// The two have no keys: the other agent does not send by datagrams, or has not answered yet.
        case notAgreed
        /// No way for datagrams is proven: UDP does not pass, or is being tried.
        case noWay
        /// The way is so short that the stream carries more.
        case near
    }

    /// Nil: datagrams carry them.
    var reason: Reason?
    var address: TransportAddress?
    var roundTrip: Duration?
    /// Bytes of a packet that fits into a datagram.
    var maximumPacket: Int?
    var usesAES: Bool?
    var counters = DatagramLink.Counters()

    var document: Document {
        [
            "by": .string(self.reason == nil ? "datagrams" : "stream"),
            "reason": self.reason.map { .string($0.rawValue) } ?? nil,
            "address": self.address.map { .string("\($0)") } ?? nil,
            "rttMilliseconds": self.roundTrip.map { .init(.number(($0.inSeconds * 1e6).rounded() / 1e3)) } ?? nil,
            "longestPacket": self.maximumPacket.map { .integer($0) } ?? nil,
            "cipher": self.usesAES.map { .string($0 ? "AES-256-GCM" : "ChaCha20-Poly1305") } ?? nil,
        ]
    }
}

extension DatagramLink.Counters {
    static func += (sum: inout Self, more: Self) {
        sum.combine(more, &+)
    }

    static func -= (sum: inout Self, less: Self) {
        sum.combine(less, &-)
    }

    private mutating func combine(_ other: Self, _ body: (UInt64, UInt64) -> UInt64) {
        for field in [\Self.sent, \.received, \.refused, \.agreements, \.waysTaken, \.waysLost] {
            self[keyPath: field] = body(self[keyPath: field], other[keyPath: field])
        }
    }
}
