import Multiformats

/// Which peer a node is, and which node a peer: proven by keys, never by what a peer claims.
protocol PeerNaming: Sendable {
    /// The peer that the node's agent is; nil if nothing tells.
    func peer(of node: String) -> PeerID?

    /// The node that a peer, whose key the handshake has proven, is; nil for a stranger.
    func node(of peer: PeerID) -> String?
}
