import Multiformats
import PeerIdentity

/// A relay's signed word that it serves a peer until a time (circuit v2, "Reservation Vouchers").
struct ReservationVoucher: Equatable {
    /// The purpose for which vouchers are signed.
    static let domain = "libp2p-relay-rsvp"
    /// The multicodec of the payload.
    static let payloadType: [UInt8] = [0x03, 0x02]

    var relay: PeerID
    var peer: PeerID
    /// Wall-clock seconds since 1970.
    var expires: UInt64

    init(relay: PeerID, peer: PeerID, expires: UInt64) {
        self.relay = relay
        self.peer = peer
        self.expires = expires
    }

    func seal(with key: KeyPair) throws(PeerIdentityError) -> SignedEnvelope {
        var writer = ProtobufWriter()
        writer.write(bytes: self.relay.bytes, to: 1)
        writer.write(bytes: self.peer.bytes, to: 2)
        writer.write(varint: self.expires, to: 3)
        return try SignedEnvelope.seal(
            payload: writer.bytes,
            type: Self.payloadType,
            domain: Self.domain,
            key: key
        )
    }

    /// Reads a sealed voucher, which the relay itself must have signed.
    init(verifying bytes: [UInt8]) throws(LibP2PRelayError) {
        var relay: PeerID?
        var peer: PeerID?
        var expires: UInt64?
        let envelope: SignedEnvelope
        do {
            envelope = try SignedEnvelope(
                verifying: bytes,
                domain: Self.domain,
                maximumBytes: CircuitProtocol.maximumMessageLength
            )
            var reader = ProtobufReader(envelope.payload)
            while let field = try reader.next() {
                switch field.number {
                case 1: relay = try PeerID(bytes: field.bytes())
                case 2: peer = try PeerID(bytes: field.bytes())
                case 3: expires = try field.uint64()
                default: break
                }
            }
        } catch {
            throw LibP2PRelayError(code: .malformed, message: "bytes that are no reservation voucher", cause: error)
        }
        guard envelope.payloadType == Self.payloadType, let relay, let peer, let expires else {
            throw LibP2PRelayError(code: .malformed, message: "a signed envelope that holds no reservation voucher")
        }
        guard envelope.publicKey.peerID == relay else {
            throw LibP2PRelayError(
                code: .malformed,
                message: "a reservation voucher of \(relay) that \(envelope.publicKey.peerID) signed"
            )
        }
        self.init(relay: relay, peer: peer, expires: expires)
    }
}
