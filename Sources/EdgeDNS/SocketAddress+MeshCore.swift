import MeshCore
import NIOCore

extension SocketAddress {
    /// An address without a name or scope.
    init(_ address: TransportAddress) throws {
        try self.init(packedIPAddress: ByteBuffer(bytes: address.address.networkBytes), port: Int(address.port))
    }

    /// The IP address, if it is one; an IPv4 address inside IPv6 counts as IPv4.
    ///
    /// The bytes are read by their offsets in `sockaddr_in` and `sockaddr_in6`, since the members are not visible here.
    var ip: MeshCore.IPAddress? {
        switch self {
        case .v4(let address):
            return withUnsafeBytes(of: address.address) { bytes in
                .v4(MeshCore.IPv4Address(rawValue: bytes.loadBigEndian(at: 4)))
            }
        case .v6(let address):
            return withUnsafeBytes(of: address.address) { bytes in
                let v6 = MeshCore.IPv6Address(high: bytes.loadBigEndian(at: 8), low: bytes.loadBigEndian(at: 16))
                return v6.mappedIPv4.map { .v4($0) } ?? .v6(v6)
            }
        case .unixDomainSocket:
            return nil
        }
    }
}

extension UnsafeRawBufferPointer {
    fileprivate func loadBigEndian<Value: FixedWidthInteger & BitwiseCopyable>(at offset: Int) -> Value {
        Value(bigEndian: self.loadUnaligned(fromByteOffset: offset, as: Value.self))
    }
}
