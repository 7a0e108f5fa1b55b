import Multiformats
import NIOCore

/// A message of `/libp2p/autonat/1.0.0` (libp2p/specs, autonat/autonat-v1.md).
enum AutoNATMessage: Hashable {
    enum Status: UInt64 {
        case ok = 0
        case dialError = 100
        case dialRefused = 101
        case badRequest = 200
        case internalError = 300
    }

    struct Response: Hashable {
        var status: Status
        var text = ""
        /// Where the dial has succeeded.
        var address: Multiaddr?
    }

    /// The longest message that is read.
    static let maximumLength = 4096

    case dial(peer: PeerID?, addresses: [Multiaddr])
    case response(Response)

    var encoded: ByteBuffer {
        var writer = ProtobufWriter()
        switch self {
        case .dial(let peer, let addresses):
            writer.write(varint: 0, to: 1)
            writer.write(messageTo: 2) { dial in
                dial.write(messageTo: 1) { info in
                    if let peer { info.write(bytes: peer.bytes, to: 1) }
                    for address in addresses { info.write(bytes: address.bytes, to: 2) }
                }
            }
        case .response(let response):
            writer.write(varint: 1, to: 1)
            writer.write(messageTo: 3) { message in
                message.write(varint: response.status.rawValue, to: 1)
                if !response.text.isEmpty { message.write(text: response.text, to: 2) }
                if let address = response.address { message.write(bytes: address.bytes, to: 3) }
            }
        }
        return writer.buffer
    }

    /// Reads a message. Addresses that are not understood are left out; a status that is not known counts as an internal error.
    init(_ bytes: ByteBuffer) throws {
        var kind: UInt64 = 0
        var dial: AutoNATMessage?
        var response: Response?
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch field.number {
            case 1: kind = try field.uint64()
            case 2: dial = try Self.readDial(field.message())
            case 3: response = try Self.readResponse(field.message())
            default: continue
            }
        }
        switch (kind, dial, response) {
        case (0, let dial?, _): self = dial
        case (1, _, let response?): self = .response(response)
        default:
            throw LibP2PRelayError(code: .malformed, message: "an AutoNAT message of kind \(kind) without its content")
        }
    }

    private static func readDial(_ reader: ProtobufReader) throws -> AutoNATMessage? {
        var reader = reader
        var peer: PeerID?
        var addresses: [Multiaddr] = []
        var isThere = false
        while let field = try reader.next() {
            guard field.number == 1 else { continue }
            isThere = true
            var info = try field.message()
            while let field = try info.next() {
                switch field.number {
                case 1: peer = try PeerID(bytes: field.buffer().readableBytesView)
                case 2:
                    let bytes = try field.buffer()
                    if let address = try? Multiaddr(bytes: bytes.readableBytesView) { addresses.append(address) }
                default: continue
                }
            }
        }
        return isThere ? .dial(peer: peer, addresses: addresses) : nil
    }

    private static func readResponse(_ reader: ProtobufReader) throws -> Response {
        var reader = reader
        var response = Response(status: .ok)
        while let field = try reader.next() {
            switch field.number {
            case 1: response.status = Status(rawValue: try field.uint64()) ?? .internalError
            case 2: response.text = String(try field.text().prefix(256))
            case 3: response.address = try? Multiaddr(bytes: field.buffer().readableBytesView)
            default: continue
            }
        }
        return response
    }
}
