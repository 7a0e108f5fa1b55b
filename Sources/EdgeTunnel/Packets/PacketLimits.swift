import MeshInterfaces
import NIOCore

/// Bounds and times of the channels of packets.
struct PacketLimits: Sendable {
    /// Channels of ours with all peers, in each direction.
    var maximumChannels = 4096
    /// Of these, with one peer: one, and another while it moves.
    var maximumChannelsPerPeer = 8
    /// Streams of one agent of v1.17, which opens one for each packet and ends none: beyond, the oldest is ended.
    var maximumOriginalStreams = 64
    /// After which silence a stream of v1.17 is ended.
    var originalIdleTimeout: TimeAmount = .seconds(30)
    /// For a peer to say what its stream carries.
    var requestTimeout: TimeAmount = .seconds(10)
    /// What a channel holds unsent before it is not writable any more: packets wait where those of other flows pass them, not here.
    var writeBufferWaterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 64 << 10, high: 256 << 10)
}
