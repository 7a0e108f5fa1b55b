public import MeshCore
public import NIOCore

/// An IP packet, or the run of packets that carries one segment of TCP.
public struct Packet: Sendable {
    public enum Payload: Sendable {
        case tcp(TCPSegment)
        case udp(ByteBuffer)
        /// ICMP's destination unreachable, about a packet that the receiver has sent.
        case unreachable(Unreachable)
    }

    public var source: TransportAddress
    public var destination: TransportAddress
    public var payload: Payload
    public var hopLimit: UInt8 = 64

    public init(from source: TransportAddress, to destination: TransportAddress, _ payload: Payload) {
        self.source = source
        self.destination = destination
        self.payload = payload
    }

    /// Nil for ICMP.
    public var transport: TransportProtocol? {
        switch self.payload {
        case .tcp: .tcp
        case .udp: .udp
        case .unreachable: nil
        }
    }

    /// Bytes on a link, with the headers of IP and of the transport protocol.
    public var size: Int {
        let ip = self.source.address.family == .v4 ? 20 : 40
        return switch self.payload {
        case .tcp(let segment): ip + 20 + segment.bytes.readableBytes
        case .udp(let bytes): ip + 8 + bytes.readableBytes
        case .unreachable: ip + 8 + ip + 8
        }
    }

    /// Answers that the destination of this packet cannot be reached; nil for ICMP, which is not answered.
    func unreachable(_ reason: Unreachable.Reason, from router: IPAddress) -> Packet? {
        guard let transport = self.transport else { return nil }
        let about = Unreachable(
            reason: reason,
            transport: transport,
            source: self.source,
            destination: self.destination
        )
        return Packet(from: TransportAddress(router, 0), to: self.source, .unreachable(about))
    }
}

/// The message of ICMP and ICMPv6, with what it quotes.
public struct Unreachable: Sendable, Hashable {
    public enum Reason: Sendable, Hashable { case network, host, port, prohibited }

    public var reason: Reason
    public var transport: TransportProtocol
    /// Of the packet that did not arrive.
    public var source: TransportAddress
    public var destination: TransportAddress
}

extension TransportAddress {
    /// The same in all runs, which hash values are not.
    var digest: UInt64 {
        switch self.address {
        case .v4(let v4): UInt64(v4.rawValue) << 16 | UInt64(self.port)
        case .v6(let v6): (v6.high &* 0x9E37_79B9_7F4A_7C15) ^ v6.low ^ (UInt64(self.port) << 48)
        }
    }
}
