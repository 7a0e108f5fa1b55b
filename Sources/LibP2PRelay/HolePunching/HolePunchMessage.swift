import Multiformats
import NIOCore

/// A message of `/libp2p/dcutr` (libp2p/specs, relay/DCUtR.md).
struct HolePunchMessage: Hashable {
    enum Kind: UInt64 {
        case connect = 100
        case sync = 300
    }

    /// The longest message that is read.
    static let maximumLength = 4096

    var kind: Kind
    /// Where the sender can be seen from outside.
    var addresses: [Multiaddr] = []

    var encoded: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.kind.rawValue, to: 1)
        for address in self.addresses { writer.write(bytes: address.bytes, to: 2) }
        return writer.buffer
    }

    init(kind: Kind, addresses: [Multiaddr] = []) {
        self.kind = kind
        self.addresses = addresses
    }

    /// Reads a message. Addresses that are not understood are left out.
    init(_ bytes: ByteBuffer) throws {
        var kind: Kind?
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch field.number {
            case 1:
                let value = try field.uint64()
                guard let known = Kind(rawValue: value) else {
                    throw LibP2PRelayError(code: .malformed, message: "a hole punch message of kind \(value)")
                }
                kind = known
            case 2:
                if let address = try? Multiaddr(bytes: field.buffer().readableBytesView) {
                    self.addresses.append(address)
                }
            default: continue
            }
        }
        guard let kind else {
            throw LibP2PRelayError(code: .malformed, message: "a hole punch message without its kind")
        }
        self.kind = kind
    }
}
