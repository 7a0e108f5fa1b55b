import DequeModule
import HashTreeCollections
import KubeModel
import MeshCore
import Multiformats
import PeerIdentity
import Synchronization

/// Which peer each node is: by the cluster's own record of the node if it has one, else by the key that its name gives.
///
/// A record counts alone: the key of the name does not prove a node that has one. Whoever held a record that was changed or taken
/// away is revoked. What is known stays while the cloud is away. Any thread.
final class PeerDirectory: PeerNaming {
    static let maximumRevoked = 4096
    /// A gateway's peer is named after its node, with this behind it.
    static let gatewaySuffix = "-gateway"
    private static let namesTold = 8

    private struct State {
        var nodes: TreeDictionary<String, NodeObject> = [:]
        /// Those of an earlier run, which nobody has confirmed yet.
        var stored: TreeSet<String> = []
        /// Nodes of the catalog whose key is to be derived.
        var pending = Deque<String>()
        /// By the record; nil if it is no peer ID, which proves nobody.
        var recorded: [String: PeerID?] = [:]
        var derived: [String: PeerID] = [:]
        var names: [PeerID: String] = [:]
        var learned = Deque<String>()
        var revoked = Set<PeerID>()
        var revocations = Deque<PeerID>()
    }

    /// What a change of the cluster means for peers.
    struct Change: Equatable {
        /// Nodes that are other peers now, or none: connections of these peers are to go.
        var revoked: Set<PeerID> = []
        /// Records that are no peer IDs, or that are another node's already, in words.
        var problems: [String] = []
        /// There are names to derive.
        var isPending = false
        /// Other peers are revoked than before.
        var isRevocationChanged = false
    }

    private let ownName: String
    private let ownPeer: PeerID
    private let maximumLearned: Int
    private let state = Mutex(State())

    /// - Parameters:
    ///   - revoked: those of an earlier run, the oldest first.
    ///   - maximumLearned: names beyond those of the catalog that are remembered, such as those of gateways.
    init(ownName: String, ownPeer: PeerID, revoked: [PeerID] = [], maximumLearned: Int = 4096) {
        self.maximumLearned = maximumLearned
        self.ownName = ownName
        self.ownPeer = ownPeer
        self.state.withLock { state in
            state.names[ownPeer] = ownName
            for peer in revoked { Self.revoke(peer, in: &state) }
        }
    }

    // MARK: Naming

    func peer(of node: String) -> PeerID? {
        if node == self.ownName { return self.ownPeer }
        let known = self.state.withLock { state -> PeerID?? in
            if let recorded = state.recorded[node] { return .some(recorded) }
            return state.derived[node].map { .some($0) }
        }
        if let known { return known }
        guard node.utf8.count <= 253, let peer = try? KeyPair.derived(nodeName: node).peerID else { return nil }
        self.state.withLock { state in
            // Its record may have come meanwhile.
            guard state.recorded[node] == nil else { return }
            if state.nodes[node] == nil { self.learn(node, in: &state) }
            Self.derive(node, peer, in: &state)
        }
        return peer
    }

    func node(of peer: PeerID) -> String? {
        self.state.withLock { $0.names[peer] }
    }

    /// Why a name cannot be a node's, with the one that is most likely meant; nil if it may be one. Without the nodes of a cluster any
    /// name may.
    func complaint(about name: String) -> String? {
        self.state.withLock { state in
            let node = name.hasSuffix(Self.gatewaySuffix) ? String(name.dropLast(Self.gatewaySuffix.count)) : name
            let isKnown = [name, node].contains {
                $0 == self.ownName || state.nodes[$0] != nil || state.derived[$0] != nil || state.recorded[$0] != nil
            }
            guard !isKnown, !state.nodes.isEmpty else { return nil }
            let names = Set(state.nodes.keys).union(state.names.values)
            if let nearest = nearestName(to: name, among: names) {
                return "no node '\(name)' is known; did you mean '\(nearest)'?"
            }
            let some = names.sorted().prefix(Self.namesTold).joined(separator: ", ")
            return "no node '\(name)' is known; known are \(some)"
                + (names.count > Self.namesTold ? " and \(names.count - Self.namesTold) more" : "")
        }
    }

    /// A key that was a node's by the cluster's record, and is not any more.
    func isRevoked(_ peer: PeerID) -> Bool {
        self.state.withLock { $0.revoked.contains(peer) }
    }

    /// All of them, the oldest first.
    var revokedPeers: [PeerID] { self.state.withLock { state in Array(state.revocations) } }

    /// The peer that the cluster's record says this node is.
    var ownRecord: String? { self.state.withLock { $0.nodes[self.ownName]?.peerID } }

    // MARK: Cluster

    /// Takes in the nodes of the catalog.
    /// - Parameter stored: those that only the last good state on disk tells of. Their records may be older than a revocation, and
    ///   do not end it.
    /// - Returns: nil if they are as they were.
    func update(_ nodes: TreeDictionary<String, NodeObject>, stored: TreeSet<String> = []) -> Change? {
        self.state.withLock { state in
            guard state.nodes != nodes || state.stored != stored else { return nil }
            var change = Change()
            let (before, storedBefore, revokedBefore) = (state.nodes, state.stored, state.revoked)
            (state.nodes, state.stored) = (nodes, stored)
            for (name, node) in before where nodes[name] == nil {
                self.forget(node, in: &state, &change)
            }
            // In order, so that of two that claim one peer the same one has it on every node.
            for (name, node) in nodes.sorted(by: { $0.key < $1.key }) where name != self.ownName {
                let known = before[name]
                if let known, known.peerID == node.peerID {
                    let isConfirmed = storedBefore.contains(name) && !stored.contains(name)
                    guard isConfirmed, node.peerID != nil else { continue }
                } else if let known, known.peerID != nil {
                    self.forget(known, in: &state, &change)
                }
                self.take(node, in: &state, &change)
            }
            change.isPending = !state.pending.isEmpty
            change.isRevocationChanged = state.revoked != revokedBefore
            return change
        }
    }

    private func forget(_ node: NodeObject, in state: inout State, _ change: inout Change) {
        if let recorded = state.recorded.removeValue(forKey: node.name), let peer = recorded {
            if state.names[peer] == node.name { state.names[peer] = nil }
            Self.revoke(peer, in: &state)
            change.revoked.insert(peer)
        } else if let peer = state.derived.removeValue(forKey: node.name), state.names[peer] == node.name {
            state.names[peer] = nil
        }
    }

    private func take(_ node: NodeObject, in state: inout State, _ change: inout Change) {
        guard let text = node.peerID else {
            state.pending.append(node.name)
            return
        }
        // A name that was only known by its key so far is proven by the record from now on.
        if let derived = state.derived.removeValue(forKey: node.name), state.names[derived] == node.name {
            state.names[derived] = nil
            change.revoked.insert(derived)
        }
        let peer = try? PeerID(text)
        state.recorded[node.name] = .some(peer)
        guard let peer else {
            change.problems.append(
                "node \(node.name): its annotation \(NodeObject.peerIDAnnotation) is no peer ID; remove it or let its agent write it"
            )
            return
        }
        if let other = state.names[peer], other != node.name {
            change.problems.append(
                "node \(node.name): its annotation \(NodeObject.peerIDAnnotation) names the peer of node \(other)"
            )
            state.recorded[node.name] = .some(nil)
            return
        }
        guard !state.stored.contains(node.name) || !state.revoked.contains(peer) else {
            change.problems.append(
                "node \(node.name): the last good state names a peer that was revoked since; it waits for the cluster's word"
            )
            state.recorded[node.name] = .some(nil)
            return
        }
        state.names[peer] = node.name
        if state.revoked.remove(peer) != nil { state.revocations.removeAll { $0 == peer } }
        change.revoked.remove(peer)
    }

    /// Derives the keys of some of the names that wait for it: each costs some dozens of microseconds.
    /// - Returns: whether there are more.
    func derivePending(atMost count: Int) -> Bool {
        for _ in 0..<count {
            guard let name = self.state.withLock({ $0.pending.popFirst() }) else { return false }
            guard let peer = try? KeyPair.derived(nodeName: name).peerID else { continue }
            self.state.withLock { state in
                guard state.recorded[name] == nil, state.nodes[name] != nil else { return }
                Self.derive(name, peer, in: &state)
            }
        }
        return self.state.withLock { !$0.pending.isEmpty }
    }

    private static func derive(_ name: String, _ peer: PeerID, in state: inout State) {
        state.derived[name] = peer
        if state.names[peer] == nil { state.names[peer] = name }
    }

    private func learn(_ name: String, in state: inout State) {
        if state.learned.count >= self.maximumLearned, let oldest = state.learned.popFirst(),
            state.nodes[oldest] == nil,
            let peer = state.derived.removeValue(forKey: oldest), state.names[peer] == oldest
        {
            state.names[peer] = nil
        }
        state.learned.append(name)
    }

    private static func revoke(_ peer: PeerID, in state: inout State) {
        guard state.revoked.insert(peer).inserted else { return }
        if state.revocations.count >= Self.maximumRevoked, let oldest = state.revocations.popFirst() {
            state.revoked.remove(oldest)
        }
        state.revocations.append(peer)
    }
}
