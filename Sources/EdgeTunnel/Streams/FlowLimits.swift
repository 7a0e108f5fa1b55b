import Multiformats
public import NIOCore
import Synchronization

/// Bounds and times of the flows that other agents open here, and that this one opens with them.
public struct FlowLimits: Sendable, Hashable {
    /// Flows of all peers, in each direction.
    public var maximumFlows = 20_000
    /// Of these, with one peer.
    public var maximumFlowsPerPeer = 15_000
    /// For a peer to say what is to be dialled, once it has opened a stream.
    public var requestTimeout: TimeAmount = .seconds(10)
    /// For one dial to a target; a requester may ask for less.
    public var dialTimeout: TimeAmount = .seconds(10)
    /// A flow of datagrams that was never answered, and one that was: the kernel's times for its own.
    public var unrepliedTimeout: TimeAmount = .seconds(30)
    public var assuredTimeout: TimeAmount = .seconds(180)
    /// Once one side of a flow has ended: how long the other may take nothing of what is left for it.
    public var lingerTimeout: TimeAmount = .seconds(120)

    public init() {}
}

/// How many flows, or channels of packets, are open in one direction, by peer. Any thread.
final class FlowTally: Sendable {
    private struct State {
        var total = 0
        var peers: [PeerID: Int] = [:]
    }

    let maximum: Int
    let maximumPerPeer: Int
    private let noun: String
    private let state = Mutex(State())

    /// - Parameter noun: what is counted, in the plural.
    init(maximum: Int, maximumPerPeer: Int, of noun: String) {
        self.maximum = maximum
        self.maximumPerPeer = maximumPerPeer
        self.noun = noun
    }

    convenience init(_ limits: FlowLimits) {
        self.init(maximum: limits.maximumFlows, maximumPerPeer: limits.maximumFlowsPerPeer, of: "flows")
    }

    convenience init(_ limits: PacketLimits) {
        self.init(
            maximum: limits.maximumChannels,
            maximumPerPeer: limits.maximumChannelsPerPeer,
            of: "channels of packets"
        )
    }

    var total: Int { self.state.withLock { $0.total } }

    func flows(with peer: PeerID) -> Int { self.state.withLock { $0.peers[peer] ?? 0 } }

    /// Takes a place, which `leave` gives back.
    /// - Returns: nil, or which limit is reached.
    func enter(_ peer: PeerID) -> String? {
        self.state.withLock { state in
            guard state.total < self.maximum else { return "\(self.maximum) \(self.noun) are open" }
            let ofPeer = state.peers[peer] ?? 0
            guard ofPeer < self.maximumPerPeer else {
                return "\(self.maximumPerPeer) \(self.noun) of one peer are open"
            }
            state.total += 1
            state.peers[peer] = ofPeer + 1
            return nil
        }
    }

    func leave(_ peer: PeerID) {
        self.state.withLock { state in
            guard let ofPeer = state.peers[peer] else { return }
            state.total -= 1
            state.peers[peer] = ofPeer > 1 ? ofPeer - 1 : nil
        }
    }
}
