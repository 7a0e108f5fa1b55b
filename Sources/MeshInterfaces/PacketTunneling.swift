public import NIOCore

/// What the tunnel offers to the network of pods: channels of IP packets to the agents of other nodes.
public protocol PacketTunneling: Sendable {
    /// Opens a channel for packets to the agent of `node`.
    ///
    /// The future completes, by `deadline`, on the channel's loop: that of the connection to the node. Only if there is none yet
    /// does `loop` say where it is to live. Fails with `TunnelError`: `notAllowed` if the agent there takes no packets.
    ///
    /// Once there is a better way to the node (a direct one beside that of a relay, or one whose peer answers beside one whose peer
    /// does not), `ChannelShouldQuiesceEvent` passes through the channel's pipeline: whoever has it opens another, sends by that, and
    /// closes this one. The same event, and the end of the channel, come when the tunnel stops.
    func openPackets(
        to node: String,
        on loop: any EventLoop,
        deadline: NIODeadline
    ) -> EventLoopFuture<PacketChannel>

    /// Calls `accept` with each channel that the agent of another node opens, on the channel's loop; nil refuses them. Kept while
    /// the tunnel stops and starts anew. Peers whose node is not known are refused before.
    func acceptPackets(_ accept: (@Sendable (PacketChannel) -> Void)?)
}

/// A channel of IP packets between two agents.
public struct PacketChannel: Sendable {
    /// The form in which packets follow each other.
    public enum Form: Sendable, Hashable {
        /// Ours, both ways, one for each peer: `docs/protocols/packets.md`. Each write is to hold whole frames, or whole frames and
        /// the header of another one, whose packet is the next write, by itself.
        case framed
        /// That of kubeedge/edgemesh v1.17: IPv4 packets, each as long as its header says, from the opener to the acceptor only.
        ///
        /// Its agent takes many packets by one channel, but opens one for each that it sends and never ends it: the tunnel ends
        /// those that are silent, or too many. What it reads at once must end with a packet: each write is to hold whole packets,
        /// and at most `maximumOriginalWrite` bytes of them.
        case original
    }

    /// Of one write to a channel of v1.17, whose agent ends as a whole when it is given more than its buffer holds.
    public static let maximumOriginalWrite = 32 << 10

    /// Carries bytes. `autoRead` is off, `allowRemoteHalfClosure` on; bytes that came with the handshake wait for the first read.
    public let channel: any Channel
    /// The node whose agent is at the other end; its identity is proven.
    public let node: String
    public let form: Form

    public init(channel: any Channel, node: String, form: Form) {
        self.channel = channel
        self.node = node
        self.form = form
    }
}
