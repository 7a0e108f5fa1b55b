import LibP2P
import MeshInterfaces
import Multiformats
import NIOCore
import Synchronization

/// The channels of packets that are open, both ways. Any thread.
final class PacketChannels: Sendable {
    enum Direction: Sendable, Hashable {
        case opened
        case accepted
    }

    private struct Member {
        let stream: NegotiatedStream
        let direction: Direction
        let form: PacketChannel.Form
        /// Whoever has it was told to open another.
        var isTold = false
    }

    private struct State {
        var members: [PeerID: [Member]] = [:]
        var count = 0
        var moves: UInt64 = 0
    }

    private let host: Host
    private let maximumOriginalStreams: Int
    private let state = Mutex(State())

    init(host: Host, limits: PacketLimits) {
        self.host = host
        self.maximumOriginalStreams = limits.maximumOriginalStreams
    }

    var count: Int { self.state.withLock { $0.count } }
    /// Of the channels with each peer, the better one.
    var forms: [PeerID: PacketChannel.Form] {
        self.state.withLock { state in
            state.members.mapValues { members in members.contains { $0.form == .framed } ? .framed : .original }
        }
    }
    /// Channels whose owners were told of a better path.
    var moves: UInt64 { self.state.withLock { $0.moves } }

    /// Notes a channel until it is closed. Too many that a peer of v1.17 has opened end its oldest one.
    func add(_ stream: NegotiatedStream, _ direction: Direction, _ form: PacketChannel.Form) {
        let peer = stream.connection.remotePeer
        let surplus = self.state.withLock { state -> NegotiatedStream? in
            var members = state.members[peer] ?? []
            members.append(Member(stream: stream, direction: direction, form: form))
            state.members[peer] = members
            state.count += 1
            guard direction == .accepted, form == .original else { return nil }
            let originals = members.filter { $0.direction == .accepted && $0.form == .original }
            return originals.count > self.maximumOriginalStreams ? originals.first?.stream : nil
        }
        stream.channel.closeFuture.whenComplete { _ in self.remove(stream) }
        surplus?.reset()
    }

    private func remove(_ stream: NegotiatedStream) {
        let peer = stream.connection.remotePeer
        self.state.withLock { state in
            guard let index = state.members[peer]?.firstIndex(where: { $0.stream.channel === stream.channel }) else {
                return
            }
            state.members[peer]?.remove(at: index)
            if state.members[peer]?.isEmpty == true { state.members[peer] = nil }
            state.count -= 1
        }
    }

    /// The way to a peer may be another one: those who have opened channels that lie worse now are told, once.
    func pathChanged(to peer: PeerID) {
        guard let best = self.host.bestConnection(to: peer) else { return }
        let moving = self.state.withLock { state -> [NegotiatedStream] in
            guard var members = state.members[peer] else { return [] }
            var moving: [NegotiatedStream] = []
            for (index, member) in members.enumerated() where member.direction == .opened && !member.isTold {
                let connection = member.stream.connection
                guard connection != best, !connection.takesStreams || (connection.isRelayed && !best.isRelayed) else {
                    continue
                }
                members[index].isTold = true
                moving.append(member.stream)
            }
            state.members[peer] = members
            state.moves += UInt64(moving.count)
            return moving
        }
        for stream in moving { stream.channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
    }

    /// The network of this machine is another: ways beside the channels are looked at anew.
    func networkChanged() {
        for channel in self.open {
            channel.pipeline.fireUserInboundEventTriggered(PacketDatagramHandler.NetworkChanged())
        }
    }

    private var open: [any Channel] {
        self.state.withLock { state in state.members.values.flatMap { $0.map(\.stream.channel) } }
    }

    /// Ends all channels, once what was written to them is sent.
    func closeAll() {
        for channel in self.open {
            channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent())
            channel.close(promise: nil)
        }
    }
}
