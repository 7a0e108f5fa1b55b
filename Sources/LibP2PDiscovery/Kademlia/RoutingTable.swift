import MeshCore
import Multiformats
import NIOCore

/// The servers of the DHT that are known, in buckets by the length of the prefix that their keys share with the own one.
struct RoutingTable {
    /// How many peers of one network (an IPv4 /16 or IPv6 /32) are taken, so that nobody fills the table from one place.
    struct Diversity: Hashable, Sendable {
        var perBucket = 2
        var total = 3
    }

    enum Addition: Hashable {
        case added
        case known
        case replaced(PeerID)
        case bucketFull
        case networkFull
        case own
    }

    private struct Entry {
        let peer: PeerID
        let key: KademliaKey
        let network: CIDR?
        var lastUseful: NIODeadline
    }

    private let own: KademliaKey
    private let bucketSize: Int
    private let diversity: Diversity?
    /// An entry that was of no use for so long makes room for another.
    private let staleAfter: TimeAmount
    private var buckets: [[Entry]] = Array(repeating: [], count: KademliaKey.bits)
    private(set) var count = 0

    init(own: PeerID, bucketSize: Int, diversity: Diversity?, staleAfter: TimeAmount) {
        self.own = KademliaKey(own)
        self.bucketSize = bucketSize
        self.diversity = diversity
        self.staleAfter = staleAfter
    }

    var peers: [PeerID] { self.buckets.flatMap { $0.map(\.peer) } }

    /// The lengths of shared prefixes for which peers are known.
    var prefixLengths: [Int] { self.buckets.indices.filter { !self.buckets[$0].isEmpty } }

    func contains(_ peer: PeerID) -> Bool { self.position(of: peer) != nil }

    private func position(of peer: PeerID) -> (bucket: Int, index: Int)? {
        let bucket = self.own.commonPrefixLength(with: KademliaKey(peer))
        guard bucket < KademliaKey.bits else { return nil }
        return self.buckets[bucket].firstIndex { $0.peer == peer }.map { (bucket, $0) }
    }

    /// Takes a peer that was just of use. In a full bucket the one of no use for longest gives way, if that is long enough.
    mutating func add(_ peer: PeerID, address: IPAddress?, now: NIODeadline) -> Addition {
        let key = KademliaKey(peer)
        let bucket = self.own.commonPrefixLength(with: key)
        guard bucket < KademliaKey.bits else { return .own }
        if let index = self.buckets[bucket].firstIndex(where: { $0.peer == peer }) {
            self.buckets[bucket][index].lastUseful = now
            return .known
        }
        let network = address.flatMap(Self.network)
        if let diversity = self.diversity, let network {
            let inBucket = self.buckets[bucket].count { $0.network == network }
            let all = self.buckets.reduce(0) { $0 + $1.count { $0.network == network } }
            guard inBucket < diversity.perBucket, all < diversity.total else { return .networkFull }
        }
        let entry = Entry(peer: peer, key: key, network: network, lastUseful: now)
        guard self.buckets[bucket].count >= self.bucketSize else {
            self.buckets[bucket].append(entry)
            self.count += 1
            return .added
        }
        guard
            let index = self.buckets[bucket].indices.min(by: {
                self.buckets[bucket][$0].lastUseful < self.buckets[bucket][$1].lastUseful
            }), now - self.buckets[bucket][index].lastUseful > self.staleAfter
        else { return .bucketFull }
        let replaced = self.buckets[bucket][index].peer
        self.buckets[bucket][index] = entry
        return .replaced(replaced)
    }

    @discardableResult
    mutating func remove(_ peer: PeerID) -> Bool {
        guard let (bucket, index) = self.position(of: peer) else { return false }
        self.buckets[bucket].remove(at: index)
        self.count -= 1
        return true
    }

    /// The peers nearest to the key, nearest first.
    func closest(to key: KademliaKey, count: Int) -> [PeerID] {
        self.buckets.joined().map { (distance: $0.key.distance(to: key), peer: $0.peer) }
            .sorted { $0.distance < $1.distance }.prefix(count).map(\.peer)
    }

    /// Peers that were of no use since `time`.
    func peers(idleSince time: NIODeadline) -> [PeerID] {
        self.buckets.joined().filter { $0.lastUseful <= time }.map(\.peer)
    }

    private static func network(of address: IPAddress) -> CIDR? {
        CIDR(address, prefixLength: address.family == .v4 ? 16 : 32)
    }
}
