import Multiformats
import NIOCore

/// A message on a stream of `/libp2p/autonat/2/dial-request` (libp2p/specs, autonat/autonat-v2.md).
enum AutoNATv2Message: Hashable {
    enum ResponseStatus: UInt64 {
        case internalError = 0
        case requestRejected = 100
        case dialRefused = 101
        case ok = 200
    }

    enum DialStatus: UInt64 {
        case unused = 0
        case dialError = 100
        case dialBackError = 101
        case ok = 200
    }

    /// The most data in one message, and the longest message that is read.
    static let maximumData = 4096
    static let maximumLength = 8192
    /// Addresses that are read of one request.
    static let maximumAddresses = 50

    /// Addresses that are not understood are nil: the answer counts them.
    case dialRequest(addresses: [Multiaddr?], nonce: UInt64)
    case dialResponse(status: ResponseStatus, index: Int, dialStatus: DialStatus)
    case dialDataRequest(index: Int, bytes: UInt64)
    case dialDataResponse(ByteBuffer)

    var encoded: ByteBuffer {
        var writer = ProtobufWriter()
        switch self {
        case .dialRequest(let addresses, let nonce):
            writer.write(messageTo: 1) { message in
                for address in addresses { message.write(bytes: address?.bytes ?? [], to: 1) }
                message.write(fixed64: nonce, to: 2)
            }
        case .dialResponse(let status, let index, let dialStatus):
            writer.write(messageTo: 2) { message in
                message.write(varint: status.rawValue, to: 1)
                message.write(varint: UInt64(clamping: index), to: 2)
                message.write(varint: dialStatus.rawValue, to: 3)
            }
        case .dialDataRequest(let index, let bytes):
            writer.write(messageTo: 3) { message in
                message.write(varint: UInt64(clamping: index), to: 1)
                message.write(varint: bytes, to: 2)
            }
        case .dialDataResponse(let data):
            writer.write(messageTo: 4) { message in message.write(buffer: data, to: 1) }
        }
        return writer.buffer
    }

    init(_ bytes: ByteBuffer) throws {
        var message: AutoNATv2Message?
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch field.number {
            case 1: message = try Self.readDialRequest(field.message())
            case 2:
                let fields = try Self.readNumbers(field.message())
                // What is not known says nothing of the address.
                message = .dialResponse(
                    status: ResponseStatus(rawValue: fields[1] ?? 0) ?? .internalError,
                    index: Int(clamping: fields[2] ?? 0),
                    dialStatus: DialStatus(rawValue: fields[3] ?? 0) ?? .unused
                )
            case 3:
                let fields = try Self.readNumbers(field.message())
                message = .dialDataRequest(index: Int(clamping: fields[1] ?? 0), bytes: fields[2] ?? 0)
            case 4:
                var data = ByteBuffer()
                var inner = try field.message()
                while let field = try inner.next() {
                    if field.number == 1 { data = try field.buffer() }
                }
                message = .dialDataResponse(data)
            default: continue
            }
        }
        guard let message else {
            throw LibP2PRelayError(code: .malformed, message: "an AutoNAT message without content")
        }
        self = message
    }

    private static func readDialRequest(_ reader: ProtobufReader) throws -> AutoNATv2Message {
        var reader = reader
        var addresses: [Multiaddr?] = []
        var nonce: UInt64 = 0
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, _):
                guard addresses.count < Self.maximumAddresses else { continue }
                let bytes = try field.buffer()
                addresses.append(try? Multiaddr(bytes: bytes.readableBytesView))
            case (2, .fixed64(let value)): nonce = value
            default: continue
            }
        }
        return .dialRequest(addresses: addresses, nonce: nonce)
    }

    /// The fields that are varints, by their numbers.
    static func readNumbers(_ reader: ProtobufReader) throws -> [Int: UInt64] {
        var reader = reader
        var fields: [Int: UInt64] = [:]
        while let field = try reader.next() {
            if field.number <= 3 { fields[field.number] = try field.uint64() }
        }
        return fields
    }
}

/// The messages on a stream of `/libp2p/autonat/2/dial-back`.
enum AutoNATv2DialBack {
    static let maximumLength = 1024

    static func encode(nonce: UInt64) -> ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(fixed64: nonce, to: 1)
        return writer.buffer
    }

    static func nonce(in bytes: ByteBuffer) throws -> UInt64 {
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            if field.number == 1, case .fixed64(let nonce) = field.value { return nonce }
        }
        throw LibP2PRelayError(code: .malformed, message: "an AutoNAT dial back without its nonce")
    }

    /// The answer that all is well: status 0.
    static let accepted: ByteBuffer = {
        var writer = ProtobufWriter()
        writer.write(varint: 0, to: 1)
        return writer.buffer
    }()

    static func isAccepted(_ bytes: ByteBuffer) -> Bool {
        guard let fields = try? AutoNATv2Message.readNumbers(ProtobufReader(bytes)) else { return false }
        return fields[1] ?? 0 == 0
    }
}
