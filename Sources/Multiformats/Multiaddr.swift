public import MeshCore

/// An address as a path of protocols, outermost first: `/ip4/192.0.2.1/tcp/20006/p2p/12D3Koo…`
/// (github.com/multiformats/multiaddr). Values are kept parsed; the text and binary forms are canonical.
public struct Multiaddr: Hashable, Sendable, CustomStringConvertible {
    /// One protocol with its value. Values made in code must be as the parsers allow: see ``Multiaddr/init(_:)-(some StringProtocol)``.
    public enum Component: Hashable, Sendable {
        case ip4(IPv4Address)
        case ip6(IPv6Address)
        /// The zone (interface) of the IPv6 address that follows.
        case ip6zone(String)
        /// A name that resolves to addresses of either family.
        case dns(String)
        case dns4(String)
        case dns6(String)
        /// A name whose TXT records hold multiaddrs.
        case dnsaddr(String)
        case tcp(UInt16)
        case udp(UInt16)
        /// QUIC draft 29, as v1.17 of the original announces it; not ``quicV1``.
        case quic
        case quicV1
        case webTransport
        /// The multihash of a certificate.
        case certhash([UInt8])
        case webRTCDirect
        case ws
        /// TLS and WebSocket; `/tls/ws` is the newer spelling.
        case wss
        case tls
        case sni(String)
        case http
        case p2p(PeerID)
        /// Through the relay before this component, to the peer after it.
        case circuit
        /// An absolute path; always the last component.
        case unix(String)
    }

    /// The longest binary form that is read.
    public static let maximumLength = 1024
    /// The most components that are read: a relayed WebTransport address with two certificate hashes has a dozen.
    public static let maximumComponents = 24

    public let components: [Component]

    /// Joins components, which must be valid values.
    public init(_ components: [Component]) {
        self.components = components
    }

    /// Reads text such as `/dns4/relay.example/tcp/443/wss/p2p/Qm…`. `/ipfs/` is read as `/p2p/`; slashes at the end are ignored.
    /// - Throws: `unsupported` for a protocol that is not known here, `malformed` for a bad value, `tooLong` past the bounds.
    public init(_ text: some StringProtocol) throws(MultiformatsError) {
        guard text.utf8.count <= 2 * Self.maximumLength else {
            throw MultiformatsError(code: .tooLong, message: "a multiaddr of \(text.utf8.count) bytes of text")
        }
        guard text.utf8.first == UInt8(ascii: "/") else {
            throw MultiformatsError(
                code: .malformed,
                message: "a multiaddr begins with a slash, not as \(String(text.prefix(64)).debugDescription)"
            )
        }
        // By bytes, as a character may be a slash and an accent.
        var parts = text.utf8.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }[...]
        while parts.last == "" { parts.removeLast() }
        var components: [Component] = []
        while let name = parts.popFirst() {
            components.append(try Component(name: name, parts: &parts))
        }
        try self.init(checking: components)
        // Some text is shorter than the bytes that it stands for.
        let length = self.bytes.count
        guard length <= Self.maximumLength else {
            throw MultiformatsError(code: .tooLong, message: "a multiaddr of \(length) bytes")
        }
    }

    /// Reads the binary form.
    /// - Throws: `unsupported` for a protocol that is not known here, `malformed` or `truncated` for a bad value, `tooLong` past the bounds.
    public init(bytes: some Collection<UInt8>) throws(MultiformatsError) {
        guard bytes.count <= Self.maximumLength else {
            throw MultiformatsError(code: .tooLong, message: "a multiaddr of \(bytes.count) bytes")
        }
        var cursor = ByteCursor(bytes)
        var components: [Component] = []
        while !cursor.isAtEnd, components.count <= Self.maximumComponents {
            components.append(try Component(code: try cursor.readVarint(), from: &cursor))
        }
        try self.init(checking: components)
    }

    private init(checking components: [Component]) throws(MultiformatsError) {
        guard !components.isEmpty else {
            throw MultiformatsError(code: .malformed, message: "a multiaddr without a protocol")
        }
        guard components.count <= Self.maximumComponents else {
            throw MultiformatsError(
                code: .tooLong,
                message: "a multiaddr of more than \(Self.maximumComponents) protocols"
            )
        }
        // The text of a path has no end but the end of the address.
        for case .unix in components.dropLast() {
            throw MultiformatsError(code: .malformed, message: "a multiaddr with protocols after a path")
        }
        self.components = components
    }

    public var bytes: [UInt8] {
        var bytes: [UInt8] = []
        for component in self.components { component.append(to: &bytes) }
        return bytes
    }

    /// The canonical text; `/` for an address without components.
    public var description: String {
        self.components.isEmpty ? "/" : self.components.map(\.description).joined()
    }
}

// MARK: - Parts

extension Multiaddr {
    /// The peer that the address leads to: its last component, if that is `/p2p/`.
    public var peerID: PeerID? {
        guard case .p2p(let peer) = self.components.last else { return nil }
        return peer
    }

    /// The address without the peer that it leads to. The relay of a circuit address remains.
    public var withoutPeerID: Multiaddr {
        self.peerID == nil ? self : Multiaddr(self.components.dropLast())
    }

    /// Whether the address leads through a relay.
    public var isCircuit: Bool { self.components.contains(.circuit) }

    /// What a circuit address leads through: the address up to and with the relay's peer ID, and the peer behind it, if named.
    /// Nil for direct addresses. Of several relays, it is the last that counts.
    public var relay: (address: Multiaddr, target: PeerID?)? {
        guard let index = self.components.lastIndex(of: .circuit) else { return nil }
        return (
            Multiaddr(Array(self.components[..<index])),
            Multiaddr(Array(self.components[(index + 1)...])).peerID
        )
    }

    public func appending(_ component: Component) -> Multiaddr {
        Multiaddr(self.components + [component])
    }

    /// This address with `other` inside it.
    public func encapsulating(_ other: Multiaddr) -> Multiaddr {
        Multiaddr(self.components + other.components)
    }

    /// The IP address that the address begins with (behind a zone); for circuit addresses the relay's.
    public var ipAddress: IPAddress? {
        for component in self.components {
            switch component {
            case .ip4(let address): return .v4(address)
            case .ip6(let address): return .v6(address)
            case .ip6zone: continue
            default: return nil
            }
        }
        return nil
    }

    /// The zone that the address begins with. It means something on this machine only.
    public var zone: String? {
        guard case .ip6zone(let zone) = self.components.first else { return nil }
        return zone
    }

    /// The host name that the address begins with; for circuit addresses the relay's.
    public var hostName: String? {
        switch self.components.first {
        case .dns(let name), .dns4(let name), .dns6(let name), .dnsaddr(let name): name
        default: nil
        }
    }

    /// The first TCP or UDP port; for circuit addresses the relay's.
    public var port: UInt16? {
        for component in self.components {
            switch component {
            case .tcp(let port), .udp(let port): return port
            case .circuit: return nil
            default: continue
            }
        }
        return nil
    }
}

// MARK: - Reach

extension Multiaddr {
    /// Whether the Internet can reach it: a public IP address, or a host name that is not reserved for private use.
    /// A circuit address is as public as its relay.
    public var isPublic: Bool {
        if let address = self.ipAddress { return address.reach == .public }
        guard let name = self.hostName?.lowercased() else { return false }
        // Special-use names (RFC 6761, RFC 6762, RFC 8375).
        return ![".localhost", ".local", ".test", ".invalid", ".home.arpa", ".in-addr.arpa", ".ip6.arpa"].contains {
            name.hasSuffix($0) || name == $0.dropFirst()
        }
    }

    /// Whether it begins with an address of a private network (RFC 1918, RFC 6598, RFC 4193).
    public var isPrivate: Bool { self.ipAddress?.reach == .private }
    public var isLoopback: Bool { self.ipAddress?.reach == .loopback }
    public var isLinkLocal: Bool { self.ipAddress?.reach == .linkLocal }
}
