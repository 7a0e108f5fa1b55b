public import Multiformats

/// The addresses of a peer as it signs them (libp2p/specs, RFC 0003).
public struct PeerRecord: Hashable, Sendable {
    /// The purpose for which records are signed.
    public static let domain = "libp2p-peer-record"
    /// The multicodec of the payload.
    public static let payloadType: [UInt8] = [0x03, 0x01]
    /// The most addresses that are read; the rest of a longer record is ignored.
    public static let maximumAddresses = 64

    public var peerID: PeerID
    /// Of two records of a peer, the one with the greater number holds. No time, though peers often take one.
    public var sequence: UInt64
    public var addresses: [Multiaddr]

    public init(peerID: PeerID, sequence: UInt64, addresses: [Multiaddr]) {
        self.peerID = peerID
        self.sequence = sequence
        self.addresses = addresses
    }

    /// Signs the record with the key of the peer that it is about.
    public func seal(with key: KeyPair) throws(PeerIdentityError) -> SignedEnvelope {
        try SignedEnvelope.seal(payload: self.bytes, type: Self.payloadType, domain: Self.domain, key: key)
    }

    /// Reads the record in an envelope that was verified for ``domain``. Addresses of protocols that are not known here are left out.
    /// - Throws: `malformedRecord`, also if another peer signed it.
    public init(envelope: SignedEnvelope) throws(PeerIdentityError) {
        guard envelope.payloadType == Self.payloadType else {
            throw PeerIdentityError(code: .malformedRecord, message: "a signed envelope that holds no peer record")
        }
        try self.init(bytes: envelope.payload)
        guard self.peerID == envelope.publicKey.peerID else {
            throw PeerIdentityError(
                code: .malformedRecord,
                message: "a record of \(self.peerID) that \(envelope.publicKey.peerID) signed"
            )
        }
    }

    /// Reads the payload of an envelope.
    init(bytes: [UInt8]) throws(PeerIdentityError) {
        var peer: PeerID?
        self.sequence = 0
        self.addresses = []
        do {
            var reader = ProtobufReader(bytes)
            while let field = try reader.next() {
                switch field.number {
                case 1: peer = try PeerID(bytes: field.bytes())
                case 2: self.sequence = try field.uint64()
                case 3 where self.addresses.count < Self.maximumAddresses:
                    var address: Multiaddr?
                    var information = try field.message()
                    while let field = try information.next() {
                        if field.number == 1 { address = try? Multiaddr(bytes: field.bytes()) }
                    }
                    if let address { self.addresses.append(address) }
                default: break
                }
            }
        } catch {
            throw PeerIdentityError(code: .malformedRecord, message: "bytes that are no peer record", cause: error)
        }
        guard let peer else {
            throw PeerIdentityError(code: .malformedRecord, message: "a peer record without a peer ID")
        }
        self.peerID = peer
    }

    /// The payload of an envelope.
    var bytes: [UInt8] {
        var writer = ProtobufWriter()
        writer.write(bytes: self.peerID.bytes, to: 1)
        writer.write(varint: self.sequence, to: 2)
        for address in self.addresses {
            writer.write(messageTo: 3) { $0.write(bytes: address.bytes, to: 1) }
        }
        return writer.bytes
    }
}
