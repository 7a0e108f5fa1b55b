import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore

/// The first message of a flow: what the far agent is to dial, and for whom (docs/protocols/flow.md).
struct OpenRequest: TunnelMessage, Hashable {
    /// `tcp` or `udp`.
    var transport: TransportProtocol
    /// Whose agent the sender means to talk to.
    var node: String
    var target: TransportAddress
    /// Who began the flow, if that is known.
    var client: TransportAddress?
    /// What the far side may take before it answers; zero leaves that to it.
    var timeoutMilliseconds: UInt32 = 0
    var service: ObjectName?
    var purpose: TunnelTarget.Purpose

    init(
        _ transport: TransportProtocol,
        to target: TransportAddress,
        of node: String,
        purpose: TunnelTarget.Purpose = .service
    ) {
        self.transport = transport
        self.node = node
        self.target = target
        self.purpose = purpose
    }

    init(_ target: TunnelTarget, _ transport: TransportProtocol) {
        self.init(transport, to: target.address, of: target.node, purpose: target.purpose)
        self.client = target.client
        self.service = target.service
    }

    init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        var transport: UInt64 = 0
        var purpose: UInt64 = 0
        var node = ""
        var target: (address: IPAddress?, port: UInt64) = (nil, 0)
        var client: (address: IPAddress?, port: UInt64) = (nil, 0)
        var reader = ProtobufReader(buffer)
        while let field = try reader.next() {
            switch field.number {
            case 1: transport = try field.uint64()
            case 2: node = try field.text()
            case 3: target.address = try Self.address(field)
            case 4: target.port = try field.uint64()
            case 5: client.address = try Self.address(field)
            case 6: client.port = try field.uint64()
            case 7: self.timeoutMilliseconds = UInt32(clamping: try field.uint64())
            case 8: self.service = try Self.service(field)
            case 9: purpose = try field.uint64()
            default: break
            }
        }
        guard let address = target.address, let port = UInt16(exactly: target.port), port > 0 else {
            throw MultiformatsError(code: .malformed, message: "a request without the address of its target")
        }
        self.target = TransportAddress(address, port)
        if let address = client.address, let port = UInt16(exactly: client.port) {
            self.client = TransportAddress(address, port)
        }
        self.node = node
        guard let known = Self.transports.first(where: { $0.number == transport }) else {
            throw MultiformatsError(code: .unsupported, message: "a request for transport \(transport)")
        }
        self.transport = known.transport
        guard let known = UInt8(exactly: purpose).flatMap({ TunnelTarget.Purpose(rawValue: $0) }) else {
            throw MultiformatsError(code: .unsupported, message: "a request for purpose \(purpose)")
        }
        self.purpose = known
    }

    var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: Self.transports.first { $0.transport == self.transport }?.number ?? 0, to: 1)
        writer.write(text: self.node, to: 2)
        writer.write(bytes: self.target.address.networkBytes, to: 3)
        writer.write(varint: UInt64(self.target.port), to: 4)
        if let client {
            writer.write(bytes: client.address.networkBytes, to: 5)
            writer.write(varint: UInt64(client.port), to: 6)
        }
        if self.timeoutMilliseconds > 0 { writer.write(varint: UInt64(self.timeoutMilliseconds), to: 7) }
        if let service { writer.write(text: service.description, to: 8) }
        if self.purpose != .service { writer.write(varint: UInt64(self.purpose.rawValue), to: 9) }
        return writer.buffer
    }

    private static let transports: [(transport: TransportProtocol, number: UInt64)] = [(.tcp, 0), (.udp, 1)]

    private static func address(_ field: ProtobufReader.Field) throws(MultiformatsError) -> IPAddress {
        guard let address = IPAddress(networkBytes: try field.buffer().readableBytesView) else {
            throw MultiformatsError(code: .malformed, message: "an address that has neither 4 nor 16 bytes")
        }
        return address
    }

    /// Only told in logs: what is no such name is passed over.
    private static func service(_ field: ProtobufReader.Field) throws(MultiformatsError) -> ObjectName? {
        let parts = try field.text().split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else { return nil }
        return ObjectName(namespace: String(parts[0]), name: String(parts[1]))
    }
}

/// The answer to an `OpenRequest`. Behind one that says `ok` follows the flow.
struct OpenReply: TunnelMessage, Hashable {
    enum Code: UInt64, CaseIterable {
        case ok = 0
        case refused, unreachable, notAllowed, overloaded, timedOut, wrongNode, badRequest
    }

    /// The longest message that is read or written; it goes to logs.
    static let maximumMessageBytes = 256
    static let ok = OpenReply(.ok)

    /// Nil for one that is not known here.
    let code: Code?
    let message: String

    init(_ code: Code, _ message: String = "") {
        self.code = code
        self.message = Self.bounded(message)
    }

    init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        var code: UInt64 = 0
        var message = ""
        var reader = ProtobufReader(buffer)
        while let field = try reader.next() {
            switch field.number {
            case 1: code = try field.uint64()
            case 2: message = try field.text()
            default: break
            }
        }
        self.code = Code(rawValue: code)
        self.message = Self.bounded(message)
    }

    var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.code?.rawValue ?? Code.badRequest.rawValue, to: 1)
        if !self.message.isEmpty { writer.write(text: self.message, to: 2) }
        return writer.buffer
    }

    /// No control characters, which would forge lines of a log, and no more bytes than a line of it should have.
    private static func bounded(_ text: String) -> String {
        var bounded = ""
        var count = 0
        for scalar in text.unicodeScalars {
            count += UTF8.width(scalar)
            guard count <= Self.maximumMessageBytes else { break }
            let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
            bounded.unicodeScalars.append(isControl ? " " : scalar)
        }
        return bounded
    }
}
