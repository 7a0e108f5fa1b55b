public import Multiformats
public import PeerIdentity

/// Which side of a handshake a host takes.
public enum ConnectionRole: Sendable, Hashable {
    case initiator
    case responder
}

/// Who a handshake has proven the other side to be.
public struct SecuredPeer: Sendable {
    public let remotePeer: PeerID
    public let remoteKey: PublicKey
    /// The multiplexer that the handshake has agreed upon, if it did.
    public let earlyMuxer: String?
    public let protocolID: String
}

/// The key of a private network.
public struct PreSharedKey: Sendable, Hashable {
    public let bytes: [UInt8]
}
