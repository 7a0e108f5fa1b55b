import Glibc
public import MeshCore
public import NIOCore

extension SocketAddress {
    public init(_ address: TransportAddress) {
        switch address.address {
        case .v4(let v4):
            var raw = sockaddr_in()
            raw.sin_family = sa_family_t(AF_INET)
            raw.sin_port = address.port.bigEndian
            raw.sin_addr.s_addr = v4.rawValue.bigEndian
            self.init(raw)
        case .v6(let v6):
            var raw = sockaddr_in6()
            raw.sin6_family = sa_family_t(AF_INET6)
            raw.sin6_port = address.port.bigEndian
            withUnsafeMutableBytes(of: &raw.sin6_addr) { bytes in
                bytes.storeBytes(of: v6.high.bigEndian, as: UInt64.self)
                bytes.storeBytes(of: v6.low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
            self.init(raw)
        }
    }
}

extension TransportAddress {
    /// Nil for a Unix socket. An IPv4-mapped IPv6 address becomes the IPv4 address.
    public init?(_ address: SocketAddress) {
        switch address {
        case .v4(let v4): self.init(v4.address)
        case .v6(let v6): self.init(v6.address)
        case .unixDomainSocket: return nil
        }
    }

    init(_ raw: sockaddr_in) {
        self.init(.v4(IPv4Address(rawValue: UInt32(bigEndian: raw.sin_addr.s_addr))), UInt16(bigEndian: raw.sin_port))
    }

    init(_ raw: sockaddr_in6) {
        let address = withUnsafeBytes(of: raw.sin6_addr) { bytes in
            IPv6Address(
                high: UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            )
        }
        self.init(address.mappedIPv4.map { .v4($0) } ?? .v6(address), UInt16(bigEndian: raw.sin6_port))
    }
}
