public import MeshCore

/// ClientIP session affinity: which endpoint a client was sent to. Bounded; the client seen longest ago goes first.
public struct AffinityTable: Sendable {
    public static let defaultCapacity = 65_536

    private struct Entry: Sendable {
        var client: IPAddress
        var endpoint: TransportAddress
        var lastUsed: MonotonicTime
        /// Neighbours in order of last use; -1 at the ends.
        var older: Int32
        var newer: Int32
    }

    public let timeout: Duration
    public let capacity: Int
    /// Clients pushed out because the table was full, not because their time was over.
    public private(set) var evictions: UInt64 = 0

    private var entries: [Entry] = []
    private var indexes: [IPAddress: Int32] = [:]
    private var free: [Int32] = []
    private var oldest: Int32 = -1
    private var newest: Int32 = -1

    public init(timeout: Duration, capacity: Int = Self.defaultCapacity) {
        self.timeout = timeout
        self.capacity = min(max(capacity, 1), Int(Int32.max))
    }

    public var count: Int { self.indexes.count }

    /// The endpoint that serves `client`, whose time starts anew; nil if there is none or its time is over.
    public mutating func endpoint(for client: IPAddress, now: MonotonicTime) -> TransportAddress? {
        self.expire(now: now)
        guard let index = self.indexes[client] else { return nil }
        self.unlink(index)
        self.append(index, now: now)
        return self.entries[Int(index)].endpoint
    }

    /// From now on `endpoint` serves `client`.
    public mutating func record(_ endpoint: TransportAddress, for client: IPAddress, now: MonotonicTime) {
        self.expire(now: now)
        if let index = self.indexes[client] {
            self.entries[Int(index)].endpoint = endpoint
            self.unlink(index)
            self.append(index, now: now)
            return
        }
        if self.indexes.count == self.capacity {
            self.evictions += 1
            self.remove(self.oldest)
        }
        let entry = Entry(client: client, endpoint: endpoint, lastUsed: now, older: -1, newer: -1)
        let index: Int32
        if let reused = self.free.popLast() {
            index = reused
            self.entries[Int(index)] = entry
        } else {
            index = Int32(self.entries.count)
            self.entries.append(entry)
        }
        self.indexes[client] = index
        self.append(index, now: now)
    }

    /// Entries lie in order of last use, so those whose time is over are all at the old end.
    private mutating func expire(now: MonotonicTime) {
        while self.oldest >= 0, now - self.entries[Int(self.oldest)].lastUsed >= self.timeout {
            self.remove(self.oldest)
        }
    }

    private mutating func remove(_ index: Int32) {
        self.unlink(index)
        self.indexes[self.entries[Int(index)].client] = nil
        self.free.append(index)
    }

    private mutating func unlink(_ index: Int32) {
        let entry = self.entries[Int(index)]
        if entry.older >= 0 { self.entries[Int(entry.older)].newer = entry.newer } else { self.oldest = entry.newer }
        if entry.newer >= 0 { self.entries[Int(entry.newer)].older = entry.older } else { self.newest = entry.older }
    }

    private mutating func append(_ index: Int32, now: MonotonicTime) {
        self.entries[Int(index)].lastUsed = now
        self.entries[Int(index)].older = self.newest
        self.entries[Int(index)].newer = -1
        if self.newest >= 0 { self.entries[Int(self.newest)].newer = index } else { self.oldest = index }
        self.newest = index
    }
}
