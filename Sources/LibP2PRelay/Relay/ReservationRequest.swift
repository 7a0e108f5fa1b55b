import LibP2P
import Multiformats
import NIOCore

/// A slot with a relay, as the relay has granted it.
struct GrantedReservation: Equatable {
    /// Wall-clock seconds since 1970, by the relay's clock.
    var expires: UInt64
    /// The relay's addresses as it tells them: with its peer ID, without `/p2p-circuit`.
    var addresses: [Multiaddr]
    var limit: ConnectionLimit?

    /// Checks a relay's answer.
    init(_ answer: HopMessage, relay: PeerID, peer: PeerID) throws(LibP2PRelayError) {
        let request = "the request for a reservation with relay \(relay)"
        guard answer.kind == .status, let status = answer.status else {
            throw LibP2PRelayError(code: .unexpected, message: "\(request) was answered with no status")
        }
        guard status == .ok else { throw LibP2PRelayError(status, request: request) }
        guard let reservation = answer.reservation else {
            throw LibP2PRelayError(code: .malformed, message: "\(request) was answered with no reservation")
        }
        if let voucher = reservation.voucher {
            let voucher = try ReservationVoucher(verifying: voucher)
            guard voucher.relay == relay, voucher.peer == peer else {
                throw LibP2PRelayError(
                    code: .malformed,
                    message: "\(request) was answered with a voucher of \(voucher.relay) for \(voucher.peer)"
                )
            }
        }
        self.expires = reservation.expires
        // Circuits through circuits, and what leads to another relay, cannot be dialled.
        self.addresses = reservation.addresses.filter { $0.peerID == relay && !$0.isCircuit }
        self.limit = answer.limit
    }
}

extension Connection {
    /// Asks the relay at the other end for a reservation, or to renew it.
    func reserve(for peer: PeerID, within timeout: TimeAmount) -> EventLoopFuture<GrantedReservation> {
        let relay = self.remotePeer
        return self.openStream(protocols: [CircuitProtocol.hop], options: OpenStreamOptions(timeout: timeout))
            .flatMap { stream in
                let channel = stream.channel
                let promise = channel.eventLoop.makePromise(of: GrantedReservation.self)
                do {
                    let exchange = try MessageExchange.begin(on: channel)
                    exchange.write(HopMessage.reserve.buffer)
                    exchange.read(within: timeout) { result in
                        do {
                            let answer = try HopMessage(result.get())
                            promise.succeed(try GrantedReservation(answer, relay: relay, peer: peer))
                            channel.close(promise: nil)
                        } catch {
                            stream.reset()
                            promise.fail(error)
                        }
                    }
                } catch {
                    stream.reset()
                    promise.fail(error)
                }
                return promise.futureResult
            }
    }
}
