import Multiformats
import NIOCore

/// A message of the DHT (libp2p/specs, kad-dht, "RPC messages").
struct KademliaMessage: Hashable, Sendable {
    enum Kind: UInt64, Hashable, Sendable {
        case putValue = 0
        case getValue = 1
        case addProvider = 2
        case getProviders = 3
        case findNode = 4
        case ping = 5
    }

    struct Peer: Hashable, Sendable {
        var id: PeerID
        var addresses: [Multiaddr]
        var isConnected = false
    }

    struct Record: Hashable, Sendable {
        var key: [UInt8]
        var value: [UInt8]
    }

    /// The longest message that is taken.
    static let maximumLength = 256 * 1024
    /// The longest key that means something: of providers 80 bytes as elsewhere, of records more.
    static let maximumKeyLength = 1024
    static let maximumProviderKeyLength = 80
    /// Peers of one list and addresses of one peer that are read; what follows is passed over.
    static let maximumPeers = 64
    static let maximumAddresses = 32

    var kind: Kind
    var key: [UInt8]
    var record: Record?
    var closer: [Peer] = []
    var providers: [Peer] = []

    init(_ kind: Kind, key: [UInt8] = []) {
        self.kind = kind
        self.key = key
    }

    /// Reads a message. Peers and addresses of kinds that are not known are passed over, as others may know them.
    init(parsing bytes: ByteBuffer) throws(MultiformatsError) {
        var kind = Kind.putValue
        self.init(.putValue)
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch field.number {
            case 1:
                let value = try field.uint64()
                guard let known = Kind(rawValue: value) else {
                    throw MultiformatsError(code: .unsupported, message: "a DHT message of the unknown type \(value)")
                }
                kind = known
            case 2:
                let key = try field.buffer()
                guard key.readableBytes <= Self.maximumKeyLength else {
                    throw MultiformatsError(code: .tooLong, message: "a DHT key of \(key.readableBytes) bytes")
                }
                self.key = Array(key.readableBytesView)
            case 3: self.record = try Self.record(try field.message())
            case 8: try Self.append(try field.message(), to: &self.closer)
            case 9: try Self.append(try field.message(), to: &self.providers)
            default: continue
            }
        }
        self.kind = kind
    }

    private static func record(_ fields: ProtobufReader) throws(MultiformatsError) -> Record {
        var reader = fields
        var record = Record(key: [], value: [])
        while let field = try reader.next() {
            switch field.number {
            case 1: record.key = try field.bytes()
            case 2: record.value = try field.bytes()
            default: continue
            }
        }
        return record
    }

    private static func append(_ fields: ProtobufReader, to peers: inout [Peer]) throws(MultiformatsError) {
        guard peers.count < Self.maximumPeers else { return }
        var reader = fields
        var id: PeerID?
        var addresses: [Multiaddr] = []
        var isConnected = false
        while let field = try reader.next() {
            switch field.number {
            case 1: id = try? PeerID(bytes: try field.bytes())
            case 2 where addresses.count < Self.maximumAddresses:
                if let address = try? Multiaddr(bytes: try field.bytes()) { addresses.append(address) }
            case 3: isConnected = try field.uint64() == 1
            default: continue
            }
        }
        guard let id else { return }
        peers.append(Peer(id: id, addresses: addresses, isConnected: isConnected))
    }

    func encoded() -> ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.kind.rawValue, to: 1)
        if !self.key.isEmpty { writer.write(bytes: self.key, to: 2) }
        if let record = self.record {
            writer.write(messageTo: 3) { writer in
                writer.write(bytes: record.key, to: 1)
                writer.write(bytes: record.value, to: 2)
            }
        }
        for (field, peers) in [(8, self.closer), (9, self.providers)] {
            for peer in peers {
                writer.write(messageTo: field) { writer in
                    writer.write(bytes: peer.id.bytes, to: 1)
                    for address in peer.addresses { writer.write(bytes: address.bytes, to: 2) }
                    writer.write(varint: peer.isConnected ? 1 : 0, to: 3)
                }
            }
        }
        return writer.buffer
    }
}
