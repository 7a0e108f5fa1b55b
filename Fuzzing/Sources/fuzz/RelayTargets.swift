import MeshCore
import Multiformats
import NIOCore
import PeerIdentity

@testable import LibP2PRelay

extension FuzzTarget {
    /// The messages of circuit v2 and their vouchers. What is read is written and read again as the same; no voucher holds
    /// that its relay has not signed.
    static let relay = FuzzTarget(name: "relay") { data, count in
        let bytes = Array(UnsafeRawBufferPointer(start: data, count: count))
        let buffer = ByteBuffer(bytes: bytes)
        if let message = try? HopMessage(buffer) {
            guard (try? HopMessage(message.buffer)) == message else { fatalError("\(message) does not read back") }
            if let voucher = message.reservation?.voucher { checkVoucher(voucher) }
        }
        if let message = try? StopMessage(buffer) {
            guard (try? StopMessage(message.buffer)) == message else { fatalError("\(message) does not read back") }
        }
        checkVoucher(bytes)
        // The bytes as a voucher that is well signed.
        guard
            let sealed = try? SignedEnvelope.seal(
                payload: bytes,
                type: ReservationVoucher.payloadType,
                domain: ReservationVoucher.domain,
                key: RelayFixture.relay
            )
        else { fatalError("cannot be sealed") }
        if let voucher = try? ReservationVoucher(verifying: sealed.bytes) {
            precondition(voucher.relay == RelayFixture.relay.peerID, "a voucher of another relay")
        }
        return 0
    }

    /// The messages of AutoNAT 1 and 2 and of DCUtR, and the exchange of DCUtR with a peer that says them.
    static let reachability = FuzzTarget(name: "reachability") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        let buffer = ByteBuffer(bytes: bytes)
        if let message = try? AutoNATMessage(buffer) {
            guard (try? AutoNATMessage(message.encoded)) == message else { fatalError("\(message) does not read back") }
        }
        if let message = try? AutoNATv2Message(buffer) {
            guard (try? AutoNATv2Message(message.encoded)) == message else {
                fatalError("\(message) does not read back")
            }
        }
        if let nonce = try? AutoNATv2DialBack.nonce(in: buffer) {
            guard (try? AutoNATv2DialBack.nonce(in: AutoNATv2DialBack.encode(nonce: nonce))) == nonce else {
                fatalError("a nonce does not read back")
            }
        }
        _ = AutoNATv2DialBack.isAccepted(buffer)
        if let message = try? HolePunchMessage(buffer) {
            guard (try? HolePunchMessage(message.encoded)) == message else {
                fatalError("\(message) does not read back")
            }
            punch(message)
        }
        return 0
    }

    /// What a gateway answers: PCP, NAT-PMP, the search of UPnP, its descriptions and its calls.
    static let gateway = FuzzTarget(name: "gateway") { data, count in
        let bytes = Array(UnsafeRawBufferPointer(start: data, count: count))
        let buffer = ByteBuffer(bytes: bytes)
        let request = PCP.MapRequest(
            client: .v4(IPv4Address(192, 0, 2, 1)),
            nonce: [UInt8](repeating: 7, count: PCP.nonceLength),
            internalPort: 20006,
            externalPort: 0,
            lifetime: 7200
        )
        _ = PCP.MapResponse(buffer, to: request)
        _ = NATPMP.Request.externalAddress.response(buffer)
        _ = NATPMP.Request.mapTCP(internalPort: 20006, externalPort: 0, lifetime: 7200).response(buffer)
        let text = String(decoding: bytes, as: UTF8.self)
        let location = UPnP.location(in: text)
        let home = location ?? GatewayURL(host: IPv4Address(192, 0, 2, 254), port: 80, path: "/")
        if let service = try? UPnP.service(in: bytes, at: home) {
            precondition(service.control.host == home.host, "the gateway sends us to another host")
        }
        let texts = (try? XMLScanner.texts(of: ["NewExternalIPAddress", "errorCode"], in: bytes)) ?? [:]
        precondition(texts.count <= 2)
        var scanner = XMLScanner(bytes)
        var events = 0
        while (try? scanner.next()) != nil { events += 1 }
        precondition(events <= 2 * bytes.count, "more events than bytes")
        return 0
    }
}

private func checkVoucher(_ bytes: [UInt8]) {
    guard let voucher = try? ReservationVoucher(verifying: bytes) else { return }
    precondition(voucher.relay == RelayFixture.relay.peerID, "a forged voucher of \(voucher.relay)")
}

/// Either side of an exchange hears the same message again and again.
private func punch(_ message: HolePunchMessage) {
    for role in [HolePunchExchange.Role.initiator, .responder] {
        var exchange = HolePunchExchange(role: role, ownAddresses: []) { Array($0.prefix(16)) }
        if role == .initiator { _ = exchange.start(now: .uptimeNanoseconds(1)) }
        for time in 2..<5 as Range<UInt64> {
            guard let reaction = try? exchange.receive(message, now: .uptimeNanoseconds(time)) else { continue }
            precondition(reaction.punch?.addresses.count ?? 0 <= 16)
        }
    }
}

private enum RelayFixture {
    static let relay: KeyPair = {
        guard let key = try? KeyPair(ed25519Seed: 0..<32) else { fatalError("no key") }
        return key
    }()
}
