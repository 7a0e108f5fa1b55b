import Multiformats
import NIOCore

/// Who has said to provide what. Bounded in keys and in providers of a key; entries end of themselves.
struct ProviderStore {
    private let maximumKeys: Int
    private let maximumPerKey: Int
    private let lifetime: TimeAmount
    private var ends: [[UInt8]: [PeerID: NIODeadline]] = [:]
    private(set) var refused: UInt64 = 0

    init(maximumKeys: Int, maximumPerKey: Int, lifetime: TimeAmount) {
        self.maximumKeys = maximumKeys
        self.maximumPerKey = maximumPerKey
        self.lifetime = lifetime
    }

    var keyCount: Int { self.ends.count }

    /// False if there is no room. Of the providers of one key, the one that ends first gives way.
    @discardableResult
    mutating func add(_ peer: PeerID, for key: [UInt8], now: NIODeadline) -> Bool {
        if self.ends[key] == nil, self.ends.count >= self.maximumKeys {
            self.removeExpired(now: now)
            guard self.ends.count < self.maximumKeys else {
                self.refused += 1
                return false
            }
        }
        var providers = self.ends[key] ?? [:]
        if providers[peer] == nil, providers.count >= self.maximumPerKey,
            let first = providers.min(by: { $0.value < $1.value })
        {
            providers[first.key] = nil
        }
        providers[peer] = now + self.lifetime
        self.ends[key] = providers
        return true
    }

    /// Those that said so last come first.
    func providers(of key: [UInt8], now: NIODeadline) -> [PeerID] {
        (self.ends[key] ?? [:]).filter { $0.value > now }.sorted { ($0.value, $1.key) > ($1.value, $0.key) }.map(\.key)
    }

    mutating func removeExpired(now: NIODeadline) {
        self.ends = self.ends.compactMapValues { providers in
            let left = providers.filter { $0.value > now }
            return left.isEmpty ? nil : left
        }
    }
}
