import Glibc
public import MeshCore
public import NIOCore

extension SocketAddress {
    /// - Parameter scope: the index of the interface that a link-local IPv6 address is of; zero for others.
    public init(_ address: TransportAddress, scope: UInt32 = 0) {
        // Written by offset: which C module the fields of these structures belong to depends on the order in which the compiler
        // meets them, and with it whether they are visible here.
        self = withUnsafeTemporaryAllocation(byteCount: 28, alignment: 8) { raw in
            raw.initializeMemory(as: UInt8.self, repeating: 0)
            raw.storeBytes(of: address.port.bigEndian, toByteOffset: 2, as: UInt16.self)
            switch address.address {
            case .v4(let v4):
                raw.storeBytes(of: sa_family_t(AF_INET), as: sa_family_t.self)
                raw.storeBytes(of: v4.rawValue.bigEndian, toByteOffset: 4, as: UInt32.self)
                return SocketAddress(raw.load(as: sockaddr_in.self))
            case .v6(let v6):
                raw.storeBytes(of: sa_family_t(AF_INET6), as: sa_family_t.self)
                raw.storeBytes(of: v6.high.bigEndian, toByteOffset: 8, as: UInt64.self)
                raw.storeBytes(of: v6.low.bigEndian, toByteOffset: 16, as: UInt64.self)
                raw.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self)
                return SocketAddress(raw.load(as: sockaddr_in6.self))
            }
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
        self = withUnsafeBytes(of: raw) { bytes in
            TransportAddress(
                .v4(IPv4Address(rawValue: UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))),
                UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
            )
        }
    }

    init(_ raw: sockaddr_in6) {
        self = withUnsafeBytes(of: raw) { bytes in
            let address = IPv6Address(
                high: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
                low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
            )
            return TransportAddress(
                address.mappedIPv4.map { .v4($0) } ?? .v6(address),
                UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
            )
        }
    }
}
