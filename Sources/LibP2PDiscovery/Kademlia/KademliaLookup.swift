import Multiformats

/// The search for the peers nearest to a key (libp2p/specs, kad-dht, "Peer routing"). Sans-I/O.
///
/// It ends when the `width` nearest peers that it has heard of, leaving out those that failed, have answered.
struct KademliaLookup {
    private enum State {
        case waiting
        case inFlight
        case answered
        case failed
    }

    private struct Candidate {
        let peer: PeerID
        let distance: KademliaKey
        var state: State
    }

    /// Peers that one search keeps in mind; of more, the farthest are forgotten.
    static let maximumCandidates = 512

    private let target: KademliaKey
    private let own: PeerID
    private let width: Int
    private let concurrency: Int
    /// Nearest first.
    private var candidates: [Candidate] = []
    /// All that were ever candidates, so that a peer that is named again is not asked again.
    private var seen: Set<PeerID> = []
    private(set) var inFlight = 0
    private(set) var requests = 0

    init(target: KademliaKey, own: PeerID, seeds: [PeerID], width: Int, concurrency: Int) {
        self.target = target
        self.own = own
        self.width = max(1, width)
        self.concurrency = max(1, concurrency)
        self.add(seeds)
    }

    private mutating func add(_ peers: [PeerID]) {
        for peer in peers where peer != self.own {
            guard self.seen.count < 8 * Self.maximumCandidates, self.seen.insert(peer).inserted else { continue }
            let candidate = Candidate(
                peer: peer,
                distance: KademliaKey(peer).distance(to: self.target),
                state: .waiting
            )
            let index = self.candidates.firstIndex { candidate.distance < $0.distance } ?? self.candidates.endIndex
            self.candidates.insert(candidate, at: index)
        }
        while self.candidates.count > Self.maximumCandidates,
            let victim = self.candidates.lastIndex(where: { $0.state != .inFlight })
        {
            self.candidates.remove(at: victim)
        }
    }

    /// The candidates that decide: the nearest that have not failed.
    private var nearest: [Int] {
        Array(self.candidates.indices.lazy.filter { self.candidates[$0].state != .failed }.prefix(self.width))
    }

    /// The peers to ask now, which count as asked.
    mutating func next() -> [PeerID] {
        var peers: [PeerID] = []
        for index in self.nearest where self.candidates[index].state == .waiting {
            guard self.inFlight < self.concurrency else { break }
            self.candidates[index].state = .inFlight
            self.inFlight += 1
            self.requests += 1
            peers.append(self.candidates[index].peer)
        }
        return peers
    }

    mutating func answered(_ peer: PeerID, closer: [PeerID]) {
        guard self.end(peer, .answered) else { return }
        self.add(closer)
    }

    mutating func failed(_ peer: PeerID) {
        _ = self.end(peer, .failed)
    }

    private mutating func end(_ peer: PeerID, _ state: State) -> Bool {
        guard let index = self.candidates.firstIndex(where: { $0.peer == peer && $0.state == .inFlight }) else {
            return false
        }
        self.candidates[index].state = state
        self.inFlight -= 1
        return true
    }

    var isDone: Bool {
        self.nearest.allSatisfy { self.candidates[$0].state == .answered }
    }

    /// The nearest that have answered, nearest first.
    var closest: [PeerID] {
        Array(self.candidates.lazy.filter { $0.state == .answered }.map(\.peer).prefix(self.width))
    }
}
