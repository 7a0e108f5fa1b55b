import Multiformats
import NIOCore

/// One exchange of `/libp2p/dcutr`, by which two peers agree when to dial each other. Sans-I/O.
///
/// The initiator is whose relayed connection is inbound. States: idle -> connecting -> synchronising (responder only) -> done.
struct HolePunchExchange {
    enum Role { case initiator, responder }

    /// Dial these addresses, after a pause.
    struct Punch: Equatable {
        var addresses: [Multiaddr]
        var pause: TimeAmount
        /// Over the relay; zero if this side does not know.
        var roundTripTime: TimeAmount
    }

    struct Reaction: Equatable {
        var reply: HolePunchMessage?
        var punch: Punch?
    }

    private enum State { case idle, connecting, synchronising, done }

    /// Timers fire late and never early, and it is the initiator's packet that must not be: it opens the NAT that the
    /// responder's meets.
    private static let slack = TimeAmount.milliseconds(2)

    private let role: Role
    private let ownAddresses: [Multiaddr]
    private let filter: ([Multiaddr]) -> [Multiaddr]
    private var state: State
    private var sent = NIODeadline.uptimeNanoseconds(0)
    /// Of the peer, as far as they are dialled.
    private(set) var remoteAddresses: [Multiaddr] = []

    /// - Parameter filter: chooses which of the peer's addresses are dialled.
    init(role: Role, ownAddresses: [Multiaddr], filter: @escaping ([Multiaddr]) -> [Multiaddr]) {
        self.role = role
        self.ownAddresses = ownAddresses
        self.filter = filter
        self.state = role == .initiator ? .idle : .connecting
    }

    /// The initiator's first message.
    mutating func start(now: NIODeadline) -> HolePunchMessage {
        self.state = .connecting
        self.sent = now
        return HolePunchMessage(kind: .connect, addresses: self.ownAddresses)
    }

    mutating func receive(_ message: HolePunchMessage, now: NIODeadline) throws(LibP2PRelayError) -> Reaction {
        switch (self.state, self.role, message.kind) {
        case (.connecting, .initiator, .connect):
            let addresses = try self.chosen(message)
            let roundTripTime = now - self.sent
            self.state = .done
            return Reaction(
                reply: HolePunchMessage(kind: .sync),
                punch: Punch(
                    addresses: addresses,
                    pause: max(.zero, .nanoseconds(roundTripTime.nanoseconds / 2) - Self.slack),
                    roundTripTime: roundTripTime
                )
            )
        case (.connecting, .responder, .connect):
            self.remoteAddresses = try self.chosen(message)
            self.state = .synchronising
            self.sent = now
            return Reaction(reply: HolePunchMessage(kind: .connect, addresses: self.ownAddresses))
        case (.synchronising, .responder, .sync):
            self.state = .done
            return Reaction(
                punch: Punch(addresses: self.remoteAddresses, pause: .zero, roundTripTime: now - self.sent)
            )
        default:
            throw LibP2PRelayError(code: .unexpected, message: "a hole punch message \(message.kind) out of turn")
        }
    }

    private func chosen(_ message: HolePunchMessage) throws(LibP2PRelayError) -> [Multiaddr] {
        let addresses = self.filter(message.addresses)
        guard !addresses.isEmpty else {
            throw LibP2PRelayError(
                code: .connectionFailed,
                message: "the peer names no address that a hole could be punched to"
            )
        }
        return addresses
    }
}
