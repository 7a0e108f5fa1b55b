import MeshCore
import Multiformats
import NIOCore

/// What the messages of v1.17 are about; numbered alike in both of its protocols.
enum OriginalMessageKind: UInt64, CaseIterable {
    case connect = 0
    case success, failed

    init(_ field: ProtobufReader.Field) throws(MultiformatsError) {
        let value = try field.uint64()
        guard let kind = Self(rawValue: value) else {
            throw MultiformatsError(code: .unsupported, message: "a message of type \(value)")
        }
        self = kind
    }
}

/// `discovery.Discovery` of v1.17: two agents tell each other the names of their nodes.
///
/// proto2: a field is on the wire if it is set, whatever its value.
struct DiscoveryMessage: TunnelMessage, Hashable {
    var kind: OriginalMessageKind
    /// How the peer was found: `MDNS` or `DHT`.
    var foundBy: String?
    var nodeName: String?

    init(_ kind: OriginalMessageKind, foundBy: String?, nodeName: String?) {
        self.kind = kind
        self.foundBy = foundBy
        self.nodeName = nodeName
    }

    init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        self.init(.connect, foundBy: nil, nodeName: nil)
        var reader = ProtobufReader(buffer)
        while let field = try reader.next() {
            switch field.number {
            case 1: self.kind = try OriginalMessageKind(field)
            case 2: self.foundBy = try field.text()
            case 3: self.nodeName = try field.text()
            default: break
            }
        }
    }

    var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.kind.rawValue, to: 1)
        if let foundBy { writer.write(text: foundBy, to: 2) }
        if let nodeName { writer.write(text: nodeName, to: 3) }
        return writer.buffer
    }
}

/// `proxy.Proxy` of v1.17: a request to dial a target, or to take IP packets, and its answer. proto2, as above.
struct ProxyMessage: TunnelMessage, Hashable {
    var kind: OriginalMessageKind
    /// `tcp` or `udp`; for packets the text that `packets(protocol:to:)` makes.
    var protocolName: String?
    /// The node that the sender means to talk to.
    var nodeName: String?
    var ip: String?
    var port: Int32?

    /// The answer to what cannot be done; it has no other field.
    static let failed = ProxyMessage(.failed)

    /// Asks the agent of a node to dial.
    static func connect(_ transport: TransportProtocol, to target: TransportAddress, of node: String) -> ProxyMessage {
        var message = ProxyMessage(.connect)
        message.protocolName = transport.description
        message.nodeName = node
        message.ip = target.address.description
        message.port = Int32(target.port)
        return message
    }

    /// Offers packets of an IP protocol, by its IANA number.
    static func packets(protocol number: UInt8, to node: String) -> ProxyMessage {
        var message = ProxyMessage(.connect)
        message.protocolName = "\tprotocol=\(number)\n"
        message.nodeName = node
        message.ip = ""
        message.port = 0
        return message
    }

    /// The answer to this request: all of its fields, and that it was done.
    var success: ProxyMessage {
        var message = self
        message.kind = .success
        return message
    }

    var transport: TransportProtocol? {
        switch self.protocolName {
        case "tcp": .tcp
        case "udp": .udp
        default: nil
        }
    }

    var target: TransportAddress? {
        guard let address = self.ip.flatMap({ IPAddress($0) }), let port = self.port.flatMap({ UInt16(exactly: $0) }),
            port > 0
        else { return nil }
        return TransportAddress(address, port)
    }

    /// Of an offer of packets; nil if it is none.
    var packetProtocol: UInt8? {
        guard let text = self.protocolName, text.hasPrefix("\tprotocol="), text.hasSuffix("\n") else { return nil }
        return UInt8(text.dropFirst("\tprotocol=".count).dropLast())
    }

    init(_ kind: OriginalMessageKind) {
        self.kind = kind
    }

    init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        self.init(.connect)
        var reader = ProtobufReader(buffer)
        while let field = try reader.next() {
            switch field.number {
            case 1: self.kind = try OriginalMessageKind(field)
            case 2: self.protocolName = try field.text()
            case 3: self.nodeName = try field.text()
            case 4: self.ip = try field.text()
            case 5: self.port = try field.int32()
            default: break
            }
        }
    }

    var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.kind.rawValue, to: 1)
        if let protocolName { writer.write(text: protocolName, to: 2) }
        if let nodeName { writer.write(text: nodeName, to: 3) }
        if let ip { writer.write(text: ip, to: 4) }
        if let port { writer.write(int64: Int64(port), to: 5) }
        return writer.buffer
    }
}
