import MeshCore

extension Multiaddr.Component: CustomStringConvertible {
    /// The code of the protocol in the table of multicodecs.
    var code: UInt64 {
        switch self {
        case .ip4: 4
        case .tcp: 6
        case .ip6: 41
        case .ip6zone: 42
        case .dns: 53
        case .dns4: 54
        case .dns6: 55
        case .dnsaddr: 56
        case .udp: 273
        case .webRTCDirect: 280
        case .circuit: 290
        case .unix: 400
        case .p2p: 421
        case .tls: 448
        case .sni: 449
        case .quic: 460
        case .quicV1: 461
        case .webTransport: 465
        case .certhash: 466
        case .ws: 477
        case .wss: 478
        case .http: 480
        }
    }

    /// The protocols without a value, by their codes.
    private static let plain: [UInt64: Self] = Dictionary(
        uniqueKeysWithValues: [.webRTCDirect, .circuit, .tls, .quic, .quicV1, .webTransport, .ws, .wss, .http].map {
            ($0.code, $0)
        }
    )

    private static let plainNames: [String: Self] = Dictionary(
        uniqueKeysWithValues: Self.plain.values.map { (String($0.description.dropFirst()), $0) }
    )

    /// The longest host name (RFC 1035), zone or path (`sun_path`) that is read.
    private static let maximumTextLength = 253

    // MARK: Binary

    /// Reads the value that belongs to the protocol `code`.
    init(code: UInt64, from cursor: inout ByteCursor) throws(MultiformatsError) {
        if let plain = Self.plain[code] {
            self = plain
            return
        }
        switch code {
        case 4:
            self = .ip4(IPv4Address(rawValue: try cursor.readBytes(4).reduce(0) { $0 << 8 | UInt32($1) }))
        case 41:
            let bytes = try cursor.readBytes(16)
            self = .ip6(
                IPv6Address(
                    high: bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) },
                    low: bytes.suffix(8).reduce(0) { $0 << 8 | UInt64($1) }
                )
            )
        case 6: self = .tcp(try cursor.readBytes(2).reduce(0) { $0 << 8 | UInt16($1) })
        case 273: self = .udp(try cursor.readBytes(2).reduce(0) { $0 << 8 | UInt16($1) })
        case 421: self = .p2p(try PeerID(bytes: cursor.readBytes(try cursor.readVarint())))
        case 466: self = .certhash(try Multihash(bytes: cursor.readBytes(try cursor.readVarint())).bytes)
        case 42, 53, 54, 55, 56, 400, 449:
            let bytes = try cursor.readBytes(try cursor.readVarint())
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw MultiformatsError(code: .malformed, message: "a multiaddr whose text is not UTF-8")
            }
            try self.init(code: code, text: text)
        default:
            throw MultiformatsError(code: .unsupported, message: "a multiaddr with the unknown protocol \(code)")
        }
    }

    /// Appends code and value.
    func append(to bytes: inout [UInt8]) {
        Varint.append(self.code, to: &bytes)
        func append(prefixed value: some Collection<UInt8>) {
            Varint.append(UInt64(value.count), to: &bytes)
            bytes.append(contentsOf: value)
        }
        switch self {
        case .ip4(let address): bytes.append(contentsOf: IPAddress.v4(address).networkBytes)
        case .ip6(let address): bytes.append(contentsOf: IPAddress.v6(address).networkBytes)
        case .tcp(let port), .udp(let port):
            bytes.append(UInt8(port >> 8))
            bytes.append(UInt8(truncatingIfNeeded: port))
        case .ip6zone(let text), .dns(let text), .dns4(let text), .dns6(let text), .dnsaddr(let text), .sni(let text),
            .unix(let text):
            append(prefixed: text.utf8)
        case .certhash(let hash): append(prefixed: hash)
        case .p2p(let peer): append(prefixed: peer.bytes)
        case .quic, .quicV1, .webTransport, .webRTCDirect, .ws, .wss, .tls, .http, .circuit: break
        }
    }

    // MARK: Text

    /// Reads the value that belongs to the protocol `name` from the parts that follow it.
    init(name: String, parts: inout ArraySlice<String>) throws(MultiformatsError) {
        if let plain = Self.plainNames[name] {
            self = plain
            return
        }
        if name == "unix" {
            // The path is all that is left.
            try self.init(code: 400, text: "/" + parts.joined(separator: "/"))
            parts.removeAll()
            return
        }
        guard let value = parts.popFirst() else {
            throw MultiformatsError(
                code: .malformed,
                message: "a multiaddr that ends at \(name.prefix(64).debugDescription)"
            )
        }
        func bad() -> MultiformatsError {
            let (name, value) = (name.prefix(64).debugDescription, value.prefix(64).debugDescription)
            return MultiformatsError(code: .malformed, message: "a multiaddr with the bad \(name) value \(value)")
        }
        switch name {
        case "ip4":
            guard let address = IPv4Address(value) else { throw bad() }
            self = .ip4(address)
        case "ip6":
            guard let address = IPv6Address(value) else { throw bad() }
            self = .ip6(address)
        case "tcp", "udp":
            // `UInt16` alone would also read a sign.
            guard value.utf8.allSatisfy({ $0 >= UInt8(ascii: "0") }), let port = UInt16(value) else { throw bad() }
            self = name == "tcp" ? .tcp(port) : .udp(port)
        case "p2p", "ipfs": self = .p2p(try PeerID(value))
        case "certhash": self = .certhash(try Multihash(bytes: Multibase.decode(value)).bytes)
        case "ip6zone": try self.init(code: 42, text: value)
        case "dns": try self.init(code: 53, text: value)
        case "dns4": try self.init(code: 54, text: value)
        case "dns6": try self.init(code: 55, text: value)
        case "dnsaddr": try self.init(code: 56, text: value)
        case "sni": try self.init(code: 449, text: value)
        default:
            throw MultiformatsError(
                code: .unsupported,
                message: "a multiaddr with the unknown protocol \(name.prefix(64).debugDescription)"
            )
        }
    }

    /// Checks and takes the value of a protocol whose value is text.
    private init(code: UInt64, text: String) throws(MultiformatsError) {
        let bytes = text.utf8
        // Names are ASCII as in DNS. Control characters would spoil logs, and a slash in a name would begin a protocol.
        guard
            (1...Self.maximumTextLength).contains(bytes.count),
            bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }),
            code == 400 || bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") })
        else {
            throw MultiformatsError(code: .malformed, message: "a multiaddr with a name or path that cannot be one")
        }
        switch code {
        case 42: self = .ip6zone(text)
        case 53: self = .dns(text)
        case 54: self = .dns4(text)
        case 55: self = .dns6(text)
        case 56: self = .dnsaddr(text)
        case 449: self = .sni(text)
        default:
            // Slashes at the end are no part of an address's text.
            guard bytes.first == UInt8(ascii: "/"), bytes.last != UInt8(ascii: "/") else {
                throw MultiformatsError(code: .malformed, message: "a multiaddr with a path that is not absolute")
            }
            self = .unix(text)
        }
    }

    /// The component's text, with its slash.
    public var description: String {
        switch self {
        case .ip4(let address): "/ip4/\(address)"
        case .ip6(let address): "/ip6/\(address)"
        case .ip6zone(let zone): "/ip6zone/\(zone)"
        case .dns(let name): "/dns/\(name)"
        case .dns4(let name): "/dns4/\(name)"
        case .dns6(let name): "/dns6/\(name)"
        case .dnsaddr(let name): "/dnsaddr/\(name)"
        case .tcp(let port): "/tcp/\(port)"
        case .udp(let port): "/udp/\(port)"
        case .quic: "/quic"
        case .quicV1: "/quic-v1"
        case .webTransport: "/webtransport"
        case .certhash(let hash): "/certhash/u\(Base64.encodeURL(hash))"
        case .webRTCDirect: "/webrtc-direct"
        case .ws: "/ws"
        case .wss: "/wss"
        case .tls: "/tls"
        case .sni(let name): "/sni/\(name)"
        case .http: "/http"
        case .p2p(let peer): "/p2p/\(peer)"
        case .circuit: "/p2p-circuit"
        case .unix(let path): "/unix\(path)"
        }
    }
}
