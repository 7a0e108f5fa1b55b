import Crypto
public import Multiformats
public import NIOCore
public import PeerIdentity

/// Noise XX as libp2p uses it (libp2p/specs, noise): `/noise`.
///
/// The Noise key pair and the signature that binds it to the identity are made once, for all connections.
public struct NoiseSecurity: SecurityProtocol {
    public static let protocolID = "/noise"

    private let staticKey: Curve25519.KeyAgreement.PrivateKey
    private let payload: NoisePayload

    public var protocolID: String { Self.protocolID }

    public init(identity: KeyPair) throws(PeerIdentityError) {
        self.staticKey = Curve25519.KeyAgreement.PrivateKey()
        self.payload = try NoisePayload(
            identity: identity,
            staticKey: Array(self.staticKey.publicKey.rawRepresentation)
        )
    }

    public func secure(
        _ channel: any Channel,
        role: ConnectionRole,
        expectedPeer: PeerID?,
        muxers: [String],
        received: ByteBuffer?
    ) -> EventLoopFuture<SecuredPeer> {
        let promise = channel.eventLoop.makePromise(of: SecuredPeer.self)
        let handler = NoiseHandler(
            handshake: self.makeHandshake(role: role, expectedPeer: expectedPeer, muxers: muxers),
            promise: promise
        )
        do {
            try channel.pipeline.syncOperations.addHandler(handler)
            if let received { handler.receive(received) }
        } catch {
            promise.fail(LibP2PSecurityError.handshake(error, "the Noise handshake cannot begin"))
        }
        return promise.futureResult
    }

    func makeHandshake(role: ConnectionRole, expectedPeer: PeerID?, muxers: [String]) -> NoiseHandshakeStateMachine {
        var payload = self.payload
        payload.muxers = muxers
        return NoiseHandshakeStateMachine(
            role: role,
            staticKey: self.staticKey,
            payload: payload,
            expectedPeer: expectedPeer
        )
    }
}
