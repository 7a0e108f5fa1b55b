public import MeshCore
public import Multiformats
public import NIOCore

/// What each side tells the other, by the stream that proves who it is, before datagrams are sent (docs/protocols/packet-datagrams.md).
public struct DatagramHello: Hashable, Sendable {
    static let keyLength = 32
    /// Addresses beyond these are passed over.
    public static let maximumAddresses = 16

    /// The public key of an X25519 pair that is used once.
    var key: [UInt8]
    /// By which the sender knows what is sent to it with the keys that follow.
    public var index: UInt32
    /// Where the sender may be reached.
    public var addresses: [TransportAddress]
    /// The sender's processor computes AES.
    public var prefersAES: Bool
    /// The `index` of the hello that this one answers; nil in one that asks.
    public var answered: UInt32?

    init(key: [UInt8], index: UInt32, addresses: [TransportAddress], prefersAES: Bool, answered: UInt32? = nil) {
        self.key = key
        self.index = index
        self.addresses = Array(addresses.prefix(Self.maximumAddresses))
        self.prefersAES = prefersAES
        self.answered = answered
    }

    public init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        self.init(key: [], index: 0, addresses: [], prefersAES: false)
        var reader = ProtobufReader(buffer)
        while let field = try reader.next() {
            switch field.number {
            case 1: self.key = try field.bytes()
            case 2: self.index = try Self.index(field)
            case 3:
                guard self.addresses.count < Self.maximumAddresses else { continue }
                guard let address = TransportAddress(datagramBytes: try field.bytes()) else {
                    throw MultiformatsError(
                        code: .malformed,
                        message: "an address of neither 6 nor 18 bytes, or port 0"
                    )
                }
                self.addresses.append(address)
            case 4: self.prefersAES = try field.bool()
            case 5: self.answered = try Self.index(field)
            default: break
            }
        }
        guard self.key.count == Self.keyLength, self.index > 0 else {
            throw MultiformatsError(code: .malformed, message: "a hello without a key and an index")
        }
    }

    public var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(bytes: self.key, to: 1)
        writer.write(varint: UInt64(self.index), to: 2)
        for address in self.addresses { writer.write(bytes: address.datagramBytes, to: 3) }
        if self.prefersAES { writer.write(bool: true, to: 4) }
        if let answered { writer.write(varint: UInt64(answered), to: 5) }
        return writer.buffer
    }

    private static func index(_ field: ProtobufReader.Field) throws(MultiformatsError) -> UInt32 {
        guard let index = UInt32(exactly: try field.uint64()), index > 0 else {
            throw MultiformatsError(code: .malformed, message: "an index that is zero or has more than 32 bits")
        }
        return index
    }
}

extension TransportAddress {
    /// 4 or 16 bytes of an address, two of a port; both in the order of the network.
    init?(datagramBytes bytes: some BidirectionalCollection<UInt8>) {
        guard let address = IPAddress(networkBytes: bytes.dropLast(2)), bytes.count >= 2 else { return nil }
        let port = bytes.suffix(2).reduce(UInt16(0)) { $0 << 8 | UInt16($1) }
        guard port > 0 else { return nil }
        self.init(address, port)
    }

    var datagramBytes: [UInt8] {
        self.address.networkBytes + [UInt8(self.port >> 8), UInt8(self.port & 0xFF)]
    }
}
