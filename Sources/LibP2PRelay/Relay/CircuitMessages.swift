import LibP2P
import Multiformats
import NIOCore

/// The bounds and names of the circuit protocols (libp2p/specs, relay/circuit-v2).
enum CircuitProtocol {
    static let hop: ProtocolID = "/libp2p/circuit/relay/0.2.0/hop"
    static let stop: ProtocolID = "/libp2p/circuit/relay/0.2.0/stop"
    /// The longest message that is read; other implementations have the same bound.
    static let maximumMessageLength = 4096
    /// Addresses of one message that are read or written.
    static let maximumAddresses = 16
}

/// A peer as the circuit messages name it.
struct CircuitPeer: Equatable {
    var id: PeerID

    init(_ id: PeerID) {
        self.id = id
    }

    /// Addresses are for active relays, which this is none of, and skipped.
    init(reading reader: ProtobufReader) throws(MultiformatsError) {
        var reader = reader
        var id: PeerID?
        while let field = try reader.next() {
            if field.number == 1 { id = try PeerID(bytes: field.bytes()) }
        }
        guard let id else { throw MultiformatsError(code: .malformed, message: "a peer without its ID") }
        self.id = id
    }

    func write(to writer: inout ProtobufWriter) {
        writer.write(bytes: self.id.bytes, to: 1)
    }
}

/// A slot that a relay has given.
struct CircuitReservation: Equatable {
    /// Wall-clock seconds since 1970, by the relay's clock.
    var expires: UInt64
    /// The relay's own addresses with its peer ID.
    var addresses: [Multiaddr] = []
    /// A sealed envelope; see `ReservationVoucher`.
    var voucher: [UInt8]?

    init(expires: UInt64, addresses: [Multiaddr] = [], voucher: [UInt8]? = nil) {
        self.expires = expires
        self.addresses = addresses
        self.voucher = voucher
    }

    init(reading reader: ProtobufReader) throws(MultiformatsError) {
        var reader = reader
        var expires: UInt64?
        while let field = try reader.next() {
            switch field.number {
            case 1: expires = try field.uint64()
            case 2 where self.addresses.count < CircuitProtocol.maximumAddresses:
                // An address of a kind that is not known here is no reason to lose the others.
                let bytes = try field.bytes()
                if let address = try? Multiaddr(bytes: bytes) { self.addresses.append(address) }
            case 3: self.voucher = try field.bytes()
            default: break
            }
        }
        guard let expires else {
            throw MultiformatsError(code: .malformed, message: "a reservation that does not say when it ends")
        }
        self.expires = expires
    }

    func write(to writer: inout ProtobufWriter) {
        writer.write(varint: self.expires, to: 1)
        for address in self.addresses { writer.write(bytes: address.bytes, to: 2) }
        if let voucher = self.voucher { writer.write(bytes: voucher, to: 3) }
    }
}

extension ConnectionLimit {
    /// Nil if the message sets no limit at all: zero is none.
    init?(reading reader: ProtobufReader) throws(MultiformatsError) {
        var reader = reader
        var seconds: UInt64 = 0
        var bytes: UInt64 = 0
        while let field = try reader.next() {
            switch field.number {
            case 1: seconds = try field.uint64()
            case 2: bytes = try field.uint64()
            default: break
            }
        }
        guard seconds > 0 || bytes > 0 else { return nil }
        self.init(seconds: seconds > 0 ? UInt32(clamping: seconds) : nil, bytes: bytes > 0 ? bytes : nil)
    }

    func write(to writer: inout ProtobufWriter) {
        writer.write(varint: UInt64(self.seconds ?? 0), to: 1)
        writer.write(varint: self.bytes ?? 0, to: 2)
    }
}

/// What a client and a relay say to each other.
struct HopMessage: Equatable {
    enum Kind: UInt64 {
        case reserve = 0
        case connect, status
    }

    var kind: Kind
    var peer: CircuitPeer?
    var reservation: CircuitReservation?
    var limit: ConnectionLimit?
    var status: CircuitStatus?

    static let reserve = HopMessage(kind: .reserve)

    static func connect(to peer: PeerID) -> HopMessage {
        HopMessage(kind: .connect, peer: CircuitPeer(peer))
    }

    static func status(
        _ status: CircuitStatus,
        reservation: CircuitReservation? = nil,
        limit: ConnectionLimit? = nil
    ) -> HopMessage {
        HopMessage(kind: .status, reservation: reservation, limit: limit, status: status)
    }

    init(
        kind: Kind,
        peer: CircuitPeer? = nil,
        reservation: CircuitReservation? = nil,
        limit: ConnectionLimit? = nil,
        status: CircuitStatus? = nil
    ) {
        self.kind = kind
        self.peer = peer
        self.reservation = reservation
        self.limit = limit
        self.status = status
    }

    init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        var reader = ProtobufReader(buffer)
        // Writers of proto3 leave a value of zero out.
        var kind = Kind.reserve.rawValue
        while let field = try reader.next() {
            switch field.number {
            case 1: kind = try field.uint64()
            case 2: self.peer = try CircuitPeer(reading: field.message())
            case 3: self.reservation = try CircuitReservation(reading: field.message())
            case 4: self.limit = try ConnectionLimit(reading: field.message())
            case 5: self.status = CircuitStatus(rawValue: try field.uint64())
            default: break
            }
        }
        guard let known = Kind(rawValue: kind) else {
            throw MultiformatsError(code: .unsupported, message: "a hop message of type \(kind)")
        }
        self.kind = known
    }

    var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.kind.rawValue, to: 1)
        if let peer = self.peer { writer.write(messageTo: 2) { peer.write(to: &$0) } }
        if let reservation = self.reservation { writer.write(messageTo: 3) { reservation.write(to: &$0) } }
        if let limit = self.limit { writer.write(messageTo: 4) { limit.write(to: &$0) } }
        if let status = self.status { writer.write(varint: status.rawValue, to: 5) }
        return writer.buffer
    }
}

/// What a relay and the target of a circuit say to each other.
struct StopMessage: Equatable {
    enum Kind: UInt64 {
        case connect = 0
        case status
    }

    var kind: Kind
    /// Who wants to connect.
    var peer: CircuitPeer?
    var limit: ConnectionLimit?
    var status: CircuitStatus?

    static func connect(from peer: PeerID, limit: ConnectionLimit?) -> StopMessage {
        StopMessage(kind: .connect, peer: CircuitPeer(peer), limit: limit)
    }

    static func status(_ status: CircuitStatus) -> StopMessage {
        StopMessage(kind: .status, status: status)
    }

    init(kind: Kind, peer: CircuitPeer? = nil, limit: ConnectionLimit? = nil, status: CircuitStatus? = nil) {
        self.kind = kind
        self.peer = peer
        self.limit = limit
        self.status = status
    }

    init(_ buffer: ByteBuffer) throws(MultiformatsError) {
        var reader = ProtobufReader(buffer)
        var kind = Kind.connect.rawValue
        while let field = try reader.next() {
            switch field.number {
            case 1: kind = try field.uint64()
            case 2: self.peer = try CircuitPeer(reading: field.message())
            case 3: self.limit = try ConnectionLimit(reading: field.message())
            case 4: self.status = CircuitStatus(rawValue: try field.uint64())
            default: break
            }
        }
        guard let known = Kind(rawValue: kind) else {
            throw MultiformatsError(code: .unsupported, message: "a stop message of type \(kind)")
        }
        self.kind = known
    }

    var buffer: ByteBuffer {
        var writer = ProtobufWriter()
        writer.write(varint: self.kind.rawValue, to: 1)
        if let peer = self.peer { writer.write(messageTo: 2) { peer.write(to: &$0) } }
        if let limit = self.limit { writer.write(messageTo: 3) { limit.write(to: &$0) } }
        if let status = self.status { writer.write(varint: status.rawValue, to: 4) }
        return writer.buffer
    }
}
