import Crypto
import Multiformats
import NIOCore
import PeerIdentity

/// The handshake of one connection, without its transport: takes and gives messages without their length prefix.
struct NoiseHandshakeStateMachine {
    /// What the handshake comes to.
    struct Session {
        var peer: SecuredPeer
        var send: NoiseCipherState
        var receive: NoiseCipherState
    }

    /// What follows from a message: at most one of each.
    struct Step {
        var reply: [UInt8]?
        var session: Session?
    }

    private let role: ConnectionRole
    private let expectedPeer: PeerID?
    private let payload: NoisePayload
    private var noise: NoiseXX

    /// - Parameter payload: who this side is and which muxers it has, the best first.
    init(
        role: ConnectionRole,
        staticKey: Curve25519.KeyAgreement.PrivateKey,
        payload: NoisePayload,
        expectedPeer: PeerID?
    ) {
        self.role = role
        self.expectedPeer = expectedPeer
        self.payload = payload
        self.noise = NoiseXX(role: role, staticKey: staticKey)
    }

    /// The initiator's first message; nil for the responder.
    mutating func start() throws(LibP2PSecurityError) -> [UInt8]? {
        // The first message is readable by all and says nothing.
        self.role == .initiator ? try self.noise.write([]) : nil
    }

    mutating func receive(_ message: [UInt8]) throws(LibP2PSecurityError) -> Step {
        let received = try self.noise.read(message)
        if self.role == .responder, self.noise.next == 1 {
            return Step(reply: try self.noise.write(self.payload.protobuf))
        }
        let remote = try NoisePayload(protobuf: received)
        guard let staticKey = self.noise.remoteStatic else { preconditionFailure("read in the message before") }
        let key = try remote.verified(staticKey: Array(staticKey.rawRepresentation))
        try LibP2PSecurityError.check(key, is: self.expectedPeer)
        // Our identity is shown only to a peer that has proved its own.
        let reply = self.role == .initiator ? try self.noise.write(self.payload.protobuf) : nil
        let ciphers = self.noise.split()
        let peer = SecuredPeer(
            remoteKey: key,
            earlyMuxer: self.agreedMuxer(with: remote),
            protocolID: NoiseSecurity.protocolID
        )
        return Step(reply: reply, session: Session(peer: peer, send: ciphers.send, receive: ciphers.receive))
    }

    /// The first of the initiator's that both have (libp2p/specs, inlined muxer negotiation). If there is none, as with peers
    /// that do not know the extension, the muxer is negotiated after the handshake.
    private func agreedMuxer(with remote: NoisePayload) -> String? {
        let (initiator, responder) =
            self.role == .initiator ? (self.payload.muxers, remote.muxers) : (remote.muxers, self.payload.muxers)
        return initiator.first(where: responder.contains)
    }
}
