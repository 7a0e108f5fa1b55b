import MeshCore
import NIOCore

/// The NAT Port Mapping Protocol (RFC 6886, section 3).
enum NATPMP {
    private static let responseBit: UInt8 = 0x80

    enum Request: Hashable {
        case externalAddress
        /// `externalPort` is a wish; a lifetime of 0 (with port 0) takes the mapping away.
        case mapTCP(internalPort: UInt16, externalPort: UInt16, lifetime: UInt32)

        private var opcode: UInt8 {
            switch self {
            case .externalAddress: 0
            case .mapTCP: 2
            }
        }

        var encoded: ByteBuffer {
            var buffer = ByteBuffer()
            buffer.writeInteger(UInt8(0))
            buffer.writeInteger(self.opcode)
            if case .mapTCP(let internalPort, let externalPort, let lifetime) = self {
                buffer.writeInteger(UInt16(0))
                buffer.writeInteger(internalPort)
                buffer.writeInteger(externalPort)
                buffer.writeInteger(lifetime)
            }
            return buffer
        }

        /// Reads an answer to this request; nil if it is none.
        func response(_ bytes: ByteBuffer) -> Response? {
            var bytes = bytes
            guard bytes.readInteger(as: UInt8.self) == 0,
                bytes.readInteger(as: UInt8.self) == self.opcode | NATPMP.responseBit,
                let code = bytes.readInteger(as: UInt16.self), bytes.readInteger(as: UInt32.self) != nil
            else { return nil }
            guard code == 0 else { return .refused(code: code) }
            switch self {
            case .externalAddress:
                guard let address = bytes.readInteger(as: UInt32.self) else { return nil }
                return .externalAddress(IPv4Address(rawValue: address))
            case .mapTCP(let wanted, _, _):
                guard bytes.readInteger(as: UInt16.self) == wanted, let port = bytes.readInteger(as: UInt16.self),
                    let lifetime = bytes.readInteger(as: UInt32.self)
                else { return nil }
                return .mapped(externalPort: port, lifetime: lifetime)
            }
        }
    }

    enum Response: Hashable {
        case externalAddress(IPv4Address)
        case mapped(externalPort: UInt16, lifetime: UInt32)
        case refused(code: UInt16)
    }
}
