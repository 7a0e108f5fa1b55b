import MeshCore
import NIOCore

/// The Port Control Protocol's MAP request and its answer (RFC 6887, sections 7 and 11).
enum PCP {
    static let port = 5351
    private static let version: UInt8 = 2
    private static let mapOpcode: UInt8 = 1
    private static let responseBit: UInt8 = 0x80
    private static let tcp: UInt8 = 6
    static let nonceLength = 12

    struct MapRequest: Hashable {
        var client: IPAddress
        /// Names the mapping: who does not know it cannot change it.
        var nonce: [UInt8]
        var internalPort: UInt16
        /// 0 for any.
        var externalPort: UInt16
        /// Seconds; 0 takes the mapping away.
        var lifetime: UInt32

        var encoded: ByteBuffer {
            var buffer = ByteBuffer()
            buffer.writeInteger(PCP.version)
            buffer.writeInteger(PCP.mapOpcode)
            buffer.writeInteger(UInt16(0))
            buffer.writeInteger(self.lifetime)
            buffer.writeBytes(PCP.bytes(of: self.client))
            buffer.writeBytes(self.nonce)
            buffer.writeInteger(PCP.tcp)
            buffer.writeRepeatingByte(0, count: 3)
            buffer.writeInteger(self.internalPort)
            buffer.writeInteger(self.externalPort)
            // The address family that is wanted outside, with no particular address.
            buffer.writeBytes(PCP.bytes(of: self.client.family == .v4 ? .v4(.any) : .v6(.any)))
            return buffer
        }
    }

    enum MapResponse: Hashable {
        case mapped(externalAddress: IPAddress, externalPort: UInt16, lifetime: UInt32)
        case refused(code: UInt8)
        /// The gateway knows only NAT-PMP, or no version at all.
        case unsupportedVersion

        /// Reads an answer to `request`; nil if it is none.
        init?(_ bytes: ByteBuffer, to request: MapRequest) {
            var bytes = bytes
            guard let version = bytes.readInteger(as: UInt8.self), let opcode = bytes.readInteger(as: UInt8.self),
                opcode & PCP.responseBit != 0
            else { return nil }
            guard version == PCP.version else {
                self = .unsupportedVersion
                return
            }
            guard opcode == PCP.responseBit | PCP.mapOpcode,
                bytes.readInteger(as: UInt8.self) != nil, let code = bytes.readInteger(as: UInt8.self),
                let lifetime = bytes.readInteger(as: UInt32.self),
                // Epoch and reserved.
                bytes.readSlice(length: 16) != nil,
                let nonce = bytes.readBytes(length: PCP.nonceLength), nonce == request.nonce,
                bytes.readInteger(as: UInt8.self) == PCP.tcp, bytes.readSlice(length: 3) != nil,
                let internalPort = bytes.readInteger(as: UInt16.self), internalPort == request.internalPort,
                let externalPort = bytes.readInteger(as: UInt16.self),
                let address = bytes.readBytes(length: 16).flatMap({ IPAddress(networkBytes: $0) })
            else { return nil }
            guard code == 0 else {
                self = code == 1 ? .unsupportedVersion : .refused(code: code)
                return
            }
            self = .mapped(externalAddress: address.unmapped, externalPort: externalPort, lifetime: lifetime)
        }
    }

    /// 16 bytes; IPv4 addresses as `::ffff:…`.
    private static func bytes(of address: IPAddress) -> [UInt8] {
        address.family == .v6
            ? address.networkBytes : [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF] + address.networkBytes
    }
}

extension IPAddress {
    /// `::ffff:192.0.2.1` as 192.0.2.1.
    var unmapped: IPAddress {
        if case .v6(let v6) = self, let v4 = v6.mappedIPv4 { .v4(v4) } else { self }
    }
}
