import LibP2P
import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import LibP2PRelay

@Suite struct CircuitMessageTests {
    static let peer = KeyPair.generate().peerID

    static let hopMessages: [HopMessage] = [
        .reserve,
        .connect(to: peer),
        .status(.noReservation),
        .status(.ok, limit: ConnectionLimit(seconds: 120, bytes: 1 << 17)),
        .status(
            .ok,
            reservation: CircuitReservation(
                expires: 1_700_000_000,
                addresses: [Multiaddr([.ip4(.loopback), .tcp(20006), .p2p(peer)])],
                voucher: [1, 2, 3]
            )
        ),
        .status(CircuitStatus(rawValue: 999)),
    ]

    @Test(arguments: hopMessages) func hopMessagesComeBack(_ message: HopMessage) throws {
        #expect(try HopMessage(message.buffer) == message)
    }

    @Test func stopMessagesComeBack() throws {
        for message: StopMessage in [
            .connect(from: Self.peer, limit: nil),
            .connect(from: Self.peer, limit: ConnectionLimit(seconds: nil, bytes: 5)),
            .status(.connectionFailed),
        ] {
            #expect(try StopMessage(message.buffer) == message)
        }
    }

    /// As go-libp2p writes them.
    @Test func bytesAreThoseOfTheOthers() {
        #expect(Array(HopMessage.reserve.buffer.readableBytesView) == [0x08, 0x00])
        #expect(Array(HopMessage.status(.noReservation).buffer.readableBytesView) == [0x08, 0x02, 0x28, 0xCC, 0x01])
        #expect(Array(StopMessage.status(.ok).buffer.readableBytesView) == [0x08, 0x01, 0x20, 0x64])
        let id = Self.peer.bytes
        #expect(
            Array(HopMessage.connect(to: Self.peer).buffer.readableBytesView)
                == [0x08, 0x01, 0x12, UInt8(id.count + 2), 0x0A, UInt8(id.count)] + id
        )
    }

    @Test func valuesOfZeroMayBeLeftOut() throws {
        #expect(try HopMessage(ByteBuffer()).kind == .reserve)
        #expect(try StopMessage(ByteBuffer()).kind == .connect)
        let limitless = HopMessage.status(.ok, limit: ConnectionLimit(seconds: nil, bytes: nil))
        #expect(try HopMessage(limitless.buffer).limit == nil)
    }

    static let hostile: [[UInt8]] = [
        [0x08, 0x03],  // a type that there is not
        [0x08],  // cut inside a varint
        [0x12, 0x05, 0x0A],  // cut inside a peer
        [0x08, 0x01, 0x12, 0x00],  // a peer without its ID
        [0x08, 0x01, 0x12, 0x04, 0x0A, 0x02, 0xFF, 0xFF],  // an ID that is none
        [0x08, 0x02, 0x1A, 0x00],  // a reservation without its end
        [0x0A, 0x01, 0x00],  // a type that is a byte string
        [0x0B],  // a group
    ]

    @Test(arguments: hostile) func malformedMessagesAreRefused(_ bytes: [UInt8]) {
        #expect(throws: MultiformatsError.self) { try HopMessage(ByteBuffer(bytes: bytes)) }
    }

    @Test func everyPrefixAndEveryFlippedBitIsReadOrRefused() {
        for message in Self.hopMessages {
            let bytes = Array(message.buffer.readableBytesView)
            for count in bytes.indices { _ = try? HopMessage(ByteBuffer(bytes: bytes[..<count])) }
            for index in bytes.indices {
                for bit in 0..<8 {
                    var flipped = bytes
                    flipped[index] ^= 1 << UInt8(bit)
                    _ = try? HopMessage(ByteBuffer(bytes: flipped))
                    _ = try? StopMessage(ByteBuffer(bytes: flipped))
                }
            }
        }
    }

    @Test func onlySoManyAddressesAreRead() throws {
        var reservation = CircuitReservation(expires: 1)
        for port in 1...100 {
            reservation.addresses.append(Multiaddr([.ip4(.loopback), .tcp(UInt16(port)), .p2p(Self.peer)]))
        }
        let read = try HopMessage(HopMessage.status(.ok, reservation: reservation).buffer)
        #expect(read.reservation?.addresses.count == CircuitProtocol.maximumAddresses)
    }

    @Test func everyStatusIsExplained() {
        for status: CircuitStatus in [
            .reservationRefused, .resourceLimitExceeded, .permissionDenied, .connectionFailed, .noReservation,
            .malformedMessage, .unexpectedMessage, CircuitStatus(rawValue: 7),
        ] {
            let error = LibP2PRelayError(status, request: "the request")
            #expect(error.message.hasPrefix("the request was answered with \(status): "))
        }
    }

    // MARK: Vouchers

    @Test func aVoucherIsTheRelaysWord() throws {
        let relay = KeyPair.generate()
        let voucher = ReservationVoucher(relay: relay.peerID, peer: Self.peer, expires: 77)
        let bytes = try voucher.seal(with: relay).bytes
        #expect(try ReservationVoucher(verifying: bytes) == voucher)
        // Signed by another.
        let forged = try voucher.seal(with: .generate()).bytes
        #expect(throws: LibP2PRelayError.self) { try ReservationVoucher(verifying: forged) }
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 1
            #expect(throws: LibP2PRelayError.self) { try ReservationVoucher(verifying: changed) }
        }
    }

    @Test func aGrantIsChecked() throws {
        let relay = KeyPair.generate()
        let own = KeyPair.generate().peerID
        let address = Multiaddr([.ip4(.loopback), .tcp(1), .p2p(relay.peerID)])
        let good = CircuitReservation(
            expires: 9,
            addresses: [address, address.appending(.circuit), Multiaddr([.ip4(.loopback), .tcp(1)])],
            voucher: try ReservationVoucher(relay: relay.peerID, peer: own, expires: 9).seal(with: relay).bytes
        )
        let granted = try GrantedReservation(.status(.ok, reservation: good), relay: relay.peerID, peer: own)
        #expect(granted.addresses == [address])
        #expect(throws: LibP2PRelayError.self) {
            // Somebody else's voucher.
            try GrantedReservation(.status(.ok, reservation: good), relay: relay.peerID, peer: Self.peer)
        }
        #expect(throws: LibP2PRelayError.self) {
            try GrantedReservation(.status(.ok), relay: relay.peerID, peer: own)
        }
        #expect(throws: LibP2PRelayError.self) { try GrantedReservation(.reserve, relay: relay.peerID, peer: own) }
        do {
            _ = try GrantedReservation(.status(.reservationRefused), relay: relay.peerID, peer: own)
            Issue.record("a refusal was taken for a grant")
        } catch {
            #expect(error.code == .reservationRefused)
        }
    }
}
