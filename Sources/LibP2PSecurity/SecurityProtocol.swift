public import Multiformats
public import NIOCore
public import PeerIdentity

/// Which side of a connection this host is.
public enum ConnectionRole: Sendable, Hashable {
    /// It dialled.
    case initiator
    /// It was dialled.
    case responder
}

/// Who is at the other end of a secured connection.
public struct SecuredPeer: Sendable, Hashable {
    public let remotePeer: PeerID
    public let remoteKey: PublicKey
    /// The muxer on which both sides agreed within the handshake; nil if it has to be negotiated afterwards.
    public let earlyMuxer: String?
    /// The security protocol, as in `SecurityProtocol.protocolID`.
    public let protocolID: String

    public init(remoteKey: PublicKey, earlyMuxer: String?, protocolID: String) {
        self.remotePeer = remoteKey.peerID
        self.remoteKey = remoteKey
        self.earlyMuxer = earlyMuxer
        self.protocolID = protocolID
    }
}

/// A protocol that encrypts a connection and proves to each side the peer ID of the other.
public protocol SecurityProtocol: Sendable {
    /// The name under which multistream-select negotiates it.
    var protocolID: String { get }

    /// Adds its handlers at the end of the pipeline (plain bytes in, bytes out) and makes the handshake. On the channel's loop.
    ///
    /// A deadline is the caller's: closing the channel fails the future. What a handshake may hold of the peer is bounded.
    /// - Parameters:
    ///   - expectedPeer: fails with `wrongPeer` if it is another one.
    ///   - muxers: those that this side has, the best first; for an agreement within the handshake.
    ///   - received: bytes that were read already and are the handshake's.
    /// - Returns: a future that always completes, on the channel's loop, and before any decrypted byte is fired onward, so
    ///   that its callback can add the next handler. It fails with `LibP2PSecurityError`; the channel is closed then.
    func secure(
        _ channel: any Channel,
        role: ConnectionRole,
        expectedPeer: PeerID?,
        muxers: [String],
        received: ByteBuffer?
    ) -> EventLoopFuture<SecuredPeer>
}

extension LibP2PSecurityError {
    /// Checks that a peer is the one that was dialled.
    static func check(_ key: PublicKey, is expected: PeerID?) throws(LibP2PSecurityError) {
        guard let expected, key.peerID != expected else { return }
        throw LibP2PSecurityError(
            code: .wrongPeer,
            message:
                "dialled \(expected), but \(key.peerID) answers at its address; check the address and whether the node's "
                + "identity was made anew"
        )
    }

    /// Any error of a handshake as one of this module.
    static func handshake(_ error: any Error, _ what: String) -> LibP2PSecurityError {
        error as? LibP2PSecurityError ?? LibP2PSecurityError(code: .handshakeFailed, message: what, cause: error)
    }
}
