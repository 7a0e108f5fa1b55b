/// Why bytes are no packet that is carried on.
public struct PacketError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable, CaseIterable {
        /// Neither IPv4 nor IPv6.
        case version
        /// A header is longer than the bytes that are there.
        case truncated
        /// A length field contradicts another, or the bytes that are there.
        case length
        /// The checksum of the IPv4 header does not fit it.
        case checksum
        /// The sender chose the way (RFC 791 loose and strict routes, RFC 5095): what such a packet reaches cannot be judged by
        /// its destination.
        case sourceRoute
        /// More extension headers than `IPPacket.maximumExtensionHeaders`.
        case extensionHeaders
        /// What a device says of the packet's segments or its checksum does not fit the packet.
        case offload
        /// What a peer sends are no packets in frames.
        case frame
    }

    public let code: Code

    public init(_ code: Code) {
        self.code = code
    }

    public var message: String {
        switch self.code {
        case .version: "neither an IPv4 nor an IPv6 packet"
        case .truncated: "the packet ends inside a header"
        case .length: "the lengths in the packet contradict each other"
        case .checksum: "the checksum of the IPv4 header is wrong"
        case .sourceRoute: "the packet carries a route that its sender chose"
        case .extensionHeaders: "more than \(IPPacket.maximumExtensionHeaders) extension headers"
        case .offload: "the packet is not cut, or not summed, as its device says"
        case .frame: "no packets in frames: the peer speaks another protocol"
        }
    }

    public var description: String { self.message }
}
