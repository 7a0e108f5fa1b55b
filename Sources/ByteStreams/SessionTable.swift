import MeshCore

/// The UDP sessions of one listener by client: bounded, in order of last use. A value without I/O; the caller has the time.
///
/// A session that was never answered times out sooner and is the first to go when the table is full.
struct SessionTable<Value> {
    struct Entry {
        let client: TransportAddress
        var value: Value
        var lastUsed: MonotonicTime
        var isAssured = false
        /// Neighbours in order of last use; -1 at the ends.
        fileprivate var older = -1
        fileprivate var newer = -1
    }

    private struct Queue {
        var oldest = -1
        var newest = -1
    }

    var unrepliedTimeout: Duration
    var assuredTimeout: Duration
    private var entries: [Entry?] = []
    private var free: [Int] = []
    private var indexes: [TransportAddress: Int] = [:]
    private var unreplied = Queue()
    private var assured = Queue()

    init(unrepliedTimeout: Duration, assuredTimeout: Duration) {
        self.unrepliedTimeout = unrepliedTimeout
        self.assuredTimeout = assuredTimeout
    }

    var count: Int { self.indexes.count }

    var all: [Entry] { self.entries.compactMap { $0 } }

    func entry(of client: TransportAddress) -> Entry? {
        self.indexes[client].flatMap { self.entries[$0] }
    }

    mutating func insert(_ value: Value, for client: TransportAddress, now: MonotonicTime) {
        self.remove(client)
        let entry = Entry(client: client, value: value, lastUsed: now)
        let index: Int
        if let reused = self.free.popLast() {
            index = reused
            self.entries[index] = entry
        } else {
            index = self.entries.count
            self.entries.append(entry)
        }
        self.indexes[client] = index
        self.append(index, now: now)
    }

    /// A datagram went by; `isReply` if it came from the server.
    mutating func touch(_ client: TransportAddress, isReply: Bool, now: MonotonicTime) {
        guard let index = self.indexes[client] else { return }
        self.unlink(index)
        if isReply { self.entries[index]?.isAssured = true }
        self.append(index, now: now)
    }

    @discardableResult
    mutating func remove(_ client: TransportAddress) -> Value? {
        guard let index = self.indexes.removeValue(forKey: client), let entry = self.entries[index] else { return nil }
        self.unlink(index)
        self.entries[index] = nil
        self.free.append(index)
        return entry.value
    }

    /// Takes out the session to give up for a new one.
    mutating func evict() -> Value? {
        let index = self.unreplied.oldest >= 0 ? self.unreplied.oldest : self.assured.oldest
        guard index >= 0, let entry = self.entries[index] else { return nil }
        return self.remove(entry.client)
    }

    /// Takes out every session whose time is over.
    mutating func expire(now: MonotonicTime) -> [Value] {
        var expired: [Value] = []
        while let entry = self.oldest(self.unreplied), now - entry.lastUsed >= self.unrepliedTimeout {
            self.remove(entry.client).map { expired.append($0) }
        }
        while let entry = self.oldest(self.assured), now - entry.lastUsed >= self.assuredTimeout {
            self.remove(entry.client).map { expired.append($0) }
        }
        return expired
    }

    private func oldest(_ queue: Queue) -> Entry? {
        queue.oldest < 0 ? nil : self.entries[queue.oldest]
    }

    private mutating func unlink(_ index: Int) {
        guard let entry = self.entries[index] else { return }
        if entry.older >= 0 { self.entries[entry.older]?.newer = entry.newer }
        if entry.newer >= 0 { self.entries[entry.newer]?.older = entry.older }
        self.withQueue(entry.isAssured) { queue in
            if queue.oldest == index { queue.oldest = entry.newer }
            if queue.newest == index { queue.newest = entry.older }
        }
    }

    private mutating func append(_ index: Int, now: MonotonicTime) {
        guard let isAssured = self.entries[index]?.isAssured else { return }
        let newest = isAssured ? self.assured.newest : self.unreplied.newest
        self.entries[index]?.lastUsed = now
        self.entries[index]?.older = newest
        self.entries[index]?.newer = -1
        if newest >= 0 { self.entries[newest]?.newer = index }
        self.withQueue(isAssured) { queue in
            if queue.oldest < 0 { queue.oldest = index }
            queue.newest = index
        }
    }

    private mutating func withQueue(_ isAssured: Bool, _ body: (inout Queue) -> Void) {
        if isAssured { body(&self.assured) } else { body(&self.unreplied) }
    }
}
