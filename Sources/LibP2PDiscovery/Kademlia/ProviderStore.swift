import Multiformats
import NIOCore

/// Who has said to provide what. Bounded in keys, in keys of one peer, so that none takes the room of all, and in providers of a
/// key; entries end of themselves.
struct ProviderStore {
    /// Between two searches for what has ended, when there is no room.
    private static let sweepInterval = TimeAmount.minutes(1)

    private let maximumKeys: Int
    private let maximumKeysPerPeer: Int
    private let maximumPerKey: Int
    private let lifetime: TimeAmount
    private var ends: [[UInt8]: [PeerID: NIODeadline]] = [:]
    private var keysOfPeers: [PeerID: Int] = [:]
    private var nextSweep = NIODeadline.uptimeNanoseconds(0)
    private(set) var refused: UInt64 = 0

    init(maximumKeys: Int, maximumKeysPerPeer: Int, maximumPerKey: Int, lifetime: TimeAmount) {
        self.maximumKeys = maximumKeys
        self.maximumKeysPerPeer = maximumKeysPerPeer
        self.maximumPerKey = maximumPerKey
        self.lifetime = lifetime
    }

    var keyCount: Int { self.ends.count }
    var peerCount: Int { self.keysOfPeers.count }

    /// False if there is no room. Of the providers of one key, the one that ends first gives way.
    @discardableResult
    mutating func add(_ peer: PeerID, for key: [UInt8], now: NIODeadline) -> Bool {
        if self.ends[key]?[peer] == nil {
            guard self.makeRoom(for: key, of: peer, now: now) else {
                self.refused += 1
                return false
            }
            self.keysOfPeers[peer, default: 0] += 1
        }
        self.ends[key, default: [:]][peer] = now + self.lifetime
        return true
    }

    private mutating func makeRoom(for key: [UInt8], of peer: PeerID, now: NIODeadline) -> Bool {
        if !self.hasRoom(for: key, of: peer), self.nextSweep <= now {
            self.nextSweep = now + Self.sweepInterval
            self.removeExpired(now: now)
        }
        guard self.hasRoom(for: key, of: peer) else { return false }
        guard let providers = self.ends[key], providers.count >= self.maximumPerKey,
            let first = providers.min(by: { $0.value < $1.value })?.key
        else { return true }
        self.ends[key]?[first] = nil
        self.release(first)
        return true
    }

    private func hasRoom(for key: [UInt8], of peer: PeerID) -> Bool {
        (self.ends[key] != nil || self.ends.count < self.maximumKeys)
            && self.keysOfPeers[peer, default: 0] < self.maximumKeysPerPeer
    }

    private mutating func release(_ peer: PeerID) {
        guard let count = self.keysOfPeers[peer] else { return }
        self.keysOfPeers[peer] = count > 1 ? count - 1 : nil
    }

    /// Those that said so last come first.
    func providers(of key: [UInt8], now: NIODeadline) -> [PeerID] {
        (self.ends[key] ?? [:]).filter { $0.value > now }.sorted { ($0.value, $1.key) > ($1.value, $0.key) }.map(\.key)
    }

    mutating func removeExpired(now: NIODeadline) {
        for (key, providers) in self.ends {
            for (peer, end) in providers where end <= now {
                self.ends[key]?[peer] = nil
                self.release(peer)
            }
            if self.ends[key]?.isEmpty == true { self.ends[key] = nil }
        }
    }
}
