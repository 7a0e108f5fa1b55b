import Multiformats
import NIOCore

/// Addresses that failed, and until when they are left alone. Pure; bounded by forgetting what ends first.
struct DialBackoff {
    private struct Key: Hashable {
        let peer: PeerID
        let address: Multiaddr
    }

    private struct Entry {
        var failures: Int
        var until: NIODeadline
    }

    private let configuration: DialConfiguration
    private var entries: [Key: Entry] = [:]

    init(configuration: DialConfiguration) {
        self.configuration = configuration
    }

    var count: Int { self.entries.count }

    /// How long the address still is to be left alone; nil if it may be dialled.
    func remaining(_ peer: PeerID, _ address: Multiaddr, now: NIODeadline) -> TimeAmount? {
        guard let entry = self.entries[Key(peer: peer, address: address)], entry.until > now else { return nil }
        return entry.until - now
    }

    mutating func failed(_ peer: PeerID, _ address: Multiaddr, now: NIODeadline) {
        let key = Key(peer: peer, address: address)
        if self.entries[key] == nil, self.entries.count >= self.configuration.maximumBackoffEntries {
            self.forget(now: now)
        }
        var entry = self.entries[key] ?? Entry(failures: 0, until: now)
        // Long forgotten failures do not count.
        if entry.until + self.configuration.backoffMaximum < now { entry.failures = 0 }
        let squared = Int64(clamping: entry.failures).multipliedReportingOverflow(by: Int64(clamping: entry.failures))
        let steps = squared.overflow ? 1_000_000 : min(squared.partialValue, 1_000_000)
        let delay = self.configuration.backoffBase + self.configuration.backoffStep * Int(steps)
        entry.until = now + min(delay, self.configuration.backoffMaximum)
        entry.failures += 1
        self.entries[key] = entry
    }

    mutating func succeeded(_ peer: PeerID, _ address: Multiaddr) {
        self.entries[Key(peer: peer, address: address)] = nil
    }

    /// Forgets all failures of a peer, such as when the network has changed.
    mutating func clear(_ peer: PeerID) {
        self.entries = self.entries.filter { $0.key.peer != peer }
    }

    private mutating func forget(now: NIODeadline) {
        self.entries = self.entries.filter { $0.value.until > now }
        guard self.entries.count >= self.configuration.maximumBackoffEntries else { return }
        if let first = self.entries.min(by: { $0.value.until < $1.value.until }) { self.entries[first.key] = nil }
    }
}
